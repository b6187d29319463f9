"""Which step decided how many images, and in what time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from abscert_plugin.claim import Verdict
from abscert_plugin.records import Record


@final
@dataclass(frozen=True, slots=True)
class Step:
    """The images that one method decided.

    Args:
        method: what decided them.
        images, certified, falsified: how many, of which verdict; the rest is unknown.
        seconds: time spent on these images, in all steps that they went through.
        image_share, time_share: their part of all images and of all time, 0 to 1.
    """

    method: str
    images: int
    certified: int
    falsified: int
    seconds: float
    image_share: float
    time_share: float

    @property
    def unknown(self) -> int:
        """How many stayed undecided."""
        return self.images - self.certified - self.falsified


def decided_by(records: Sequence[Record]) -> list[Step]:
    """Return the steps of some rows, the one that decided most first."""
    total = sum(max(record.seconds, 0.0) for record in records)
    counts = Counter(record.method for record in records)
    return [
        _step(method, [one for one in records if one.method == method], len(records), total)
        for method, _ in counts.most_common()
    ]


def _step(method: str, own: Sequence[Record], images: int, total: float) -> Step:
    verdicts = Counter(record.verdict for record in own)
    seconds = sum(max(record.seconds, 0.0) for record in own)
    return Step(
        method,
        len(own),
        verdicts[Verdict.CERTIFIED],
        verdicts[Verdict.FALSIFIED],
        seconds,
        len(own) / images,
        seconds / total if 0 < total < float("inf") else 0.0,
    )
