"""Rates, computed from rows and never stored."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from abscert_plugin.claim import Verdict
from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """What a set of rows of one claim adds up to.

    Args:
        claim: the claim of every row.
        images, certified, falsified, unknown: counts.
        verified_error: share of images that are not certified, 0 to 1 (paper, section 5.1).
        interval: its 95 % Clopper-Pearson interval.
        clean_error: share of images whose clean prediction is not their label, 0 to 1.
        seconds: time spent on these rows.
        holds_for: what evaluations of the file the certified ones hold for; with counts where they differ, and empty
            where none is certified.
    """

    claim: str
    images: int
    certified: int
    falsified: int
    unknown: int
    verified_error: float
    interval: tuple[float, float]
    clean_error: float
    seconds: float
    holds_for: str

    @property
    def images_per_second(self) -> float:
        """How many images were decided in a second."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


def summarise(records: Sequence[Record]) -> Summary:
    """Return the counts and rates of rows that share one claim.

    Raises:
        RecordError: if there is no row, an image stands twice, or the rows differ in claim or radius.
    """
    if not records:
        raise RecordError("expected at least one record, got none")
    claims = {(record.claim, record.radius, record.radius_scale, record.inputs) for record in records}
    if len(claims) > 1:
        raise RecordError(f"expected records of one claim and one radius, got {sorted(map(str, claims))}")
    if len({record.index for record in records}) < len(records):
        raise RecordError("expected each image once, got an index that stands twice")
    verdicts = Counter(record.verdict for record in records)
    images = len(records)
    failed = images - verdicts[Verdict.CERTIFIED]
    return Summary(
        claim=records[0].claim,
        images=images,
        certified=verdicts[Verdict.CERTIFIED],
        falsified=verdicts[Verdict.FALSIFIED],
        unknown=verdicts[Verdict.UNKNOWN],
        verified_error=failed / images,
        interval=clopper_pearson(failed, images),
        clean_error=sum(record.prediction != record.label for record in records) / images,
        seconds=sum(record.seconds for record in records),
        holds_for=counted(str(record.holds_for) for record in records if record.verdict == Verdict.CERTIFIED),
    )


def counted(names: Iterable[str]) -> str:
    """Return names with how often each stands among them; a single name alone.

    >>> counted(["real"] * 2), counted(["real", "any-order", "real"]), counted([])
    ('real', 'any-order 1, real 2', '')
    """
    counts = Counter(names)
    return ", ".join(f"{name} {counts[name]:,}" if len(counts) > 1 else name for name in sorted(counts))


def summarise_classes(records: Sequence[Record]) -> Mapping[int, Summary]:
    """Return the summary of each label's rows, by label."""
    labels = sorted({record.label for record in records})
    return {label: summarise([record for record in records if record.label == label]) for label in labels}


def clopper_pearson(failures: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a rate, from the beta distribution's quantiles.

    Source: Clopper and Pearson, 1934.
    """
    from scipy.special import betaincinv  # here, since it takes longer to import than all else that a summary needs

    tail = (1 - level) / 2
    low = 0.0 if failures == 0 else float(betaincinv(failures, trials - failures + 1, tail))
    high = 1.0 if failures == trials else float(betaincinv(failures + 1, trials - failures, 1 - tail))
    return low, high
