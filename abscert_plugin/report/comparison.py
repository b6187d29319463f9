"""Two verifications of the same images, side by side: which verdicts changed, image by image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from rich.table import Table

from abscert_plugin.claim import Verdict
from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record, RunInfo
from abscert_plugin.report.figures import claim_text, class_name, signed
from abscert_plugin.report.page import PageContent
from abscert_plugin.report.terminal import as_shown, plain_table

VERDICTS: Final = tuple(verdict.value for verdict in Verdict)
_LINES: Final = 20
_GAP: Final[Mapping[str, int]] = {Verdict.CERTIFIED: 2, Verdict.UNKNOWN: 1, Verdict.FALSIFIED: 0}
_OF_A_MODEL: Final = ("path", "sha256", "network", "cells")


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of one image."""

    first: Record
    second: Record

    @property
    def differs(self) -> bool:
        """Whether its verdicts differ."""
        return self.first.verdict != self.second.verdict


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of both runs, as text; empty where one has none."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it."""
        return self.first != self.second


@final
@dataclass(frozen=True)
class Comparison:
    """Two runs and what is made of them.

    Args:
        names: what they are called.
        contents: the runs.
        pairs: the rows of every image that both have, by index.
        alone: how many images the first, and the second, has that the other lacks.
    """

    names: tuple[str, str]
    contents: tuple[PageContent, PageContent]
    pairs: tuple[Pair, ...]
    alone: tuple[int, int]

    @classmethod
    def of(cls, names: tuple[str, str], first: PageContent, second: PageContent) -> "Comparison":
        """Return two runs on the same images, image by image.

        Raises:
            RecordError: if they are runs on different images, or have none in common.
        """
        _check_data(names, first.run, second.run)
        rows = [_by_index(content.records) for content in (first, second)]
        both = sorted(rows[0].keys() & rows[1].keys())
        if not both:
            raise RecordError(f"{names[0]} and {names[1]} have no image in common")
        pairs = tuple(Pair(rows[0][index], rows[1][index]) for index in both)
        if any(pair.first.label != pair.second.label for pair in pairs):
            raise RecordError(f"{names[0]} and {names[1]} give an image different labels: they are runs on other data")
        return cls(names, (first, second), pairs, (len(rows[0]) - len(both), len(rows[1]) - len(both)))

    @property
    def changed(self) -> list[Pair]:
        """The images whose verdicts differ: certified against falsified first, then by index."""
        return sorted(
            (pair for pair in self.pairs if pair.differs), key=lambda pair: (-abs(_gap(pair)), pair.first.index)
        )

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many images have each verdict of the first, and of the second."""
        return Counter((pair.first.verdict, pair.second.verdict) for pair in self.pairs)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, from whichever run knows them."""
        first, second = self.contents
        return first.class_names or second.class_names

    @property
    def settings(self) -> list[Setting]:
        """The options, the model and the machine of both; those that differ first."""
        first, second = (_settings(content.run) for content in self.contents)
        names = list(dict.fromkeys([*first, *second]))
        found = [Setting(name, first.get(name, ""), second.get(name, "")) for name in names]
        return sorted(found, key=lambda setting: not setting.differs)

    @property
    def notices(self) -> list[str]:
        """What a reader must know before the figures."""
        first, second = (content.records[0] for content in self.contents)
        notices = []
        if claim_text(first) != claim_text(second):
            notices.append(
                f"The claims differ, and so do what verdicts speak of: {claim_text(first)}, and {claim_text(second)}."
            )
        elif self._is_one_model() and (clash := sum(abs(_gap(pair)) > 1 for pair in self.pairs)):
            notices.append(
                f"{clash} images of one model are certified by one and falsified by the other: one is wrong."
            )
        for name, count in zip(self.names, self.alone, strict=True):
            if count:
                notices.append(f"{count:,} images are in {name} alone; they are left out here.")
        return notices

    def _is_one_model(self) -> bool:
        first, second = ((content.run.model or {}).get("sha256") for content in self.contents)
        return first is not None and first == second


def transition_table(comparison: Comparison) -> Table:
    """Return how many images have which verdicts, the first run's by row and the second's by column."""
    table = plain_table("Verdicts of both runs, image by image")
    table.add_column("first \\ second")
    for verdict in VERDICTS:
        table.add_column(verdict, justify="right")
    for verdict in VERDICTS:
        table.add_row(verdict, *(f"{comparison.counts.get((verdict, other), 0):,}" for other in VERDICTS))
    return table


def changed_table(comparison: Comparison) -> Table:
    """Return the first images whose verdicts differ."""
    changed = comparison.changed
    shown = f", the first {_LINES}" if len(changed) > _LINES else ""
    table = plain_table(f"{len(changed):,} of {len(comparison.pairs):,} images differ{shown}")
    for name in ("index", "class", "first", "second", "margin", "margin"):
        table.add_column(name, justify="right" if name in ("index", "margin") else "left", overflow="fold")
    for pair in changed[:_LINES]:
        first, second = pair.first, pair.second
        label = class_name(first.label, comparison.class_names)
        cells = (str(first.index), label, first.verdict, second.verdict, signed(first.margin), signed(second.margin))
        table.add_row(*map(as_shown, cells))
    return table


def _check_data(names: tuple[str, str], first: RunInfo, second: RunInfo) -> None:
    told = [run.data or {} for run in (first, second)]
    if told[0].get("sha256") != told[1].get("sha256") or told[0].get("split") != told[1].get("split"):
        called = [f"{one.get('name')}, {one.get('split')}, sha256 {str(one.get('sha256'))[:12]}" for one in told]
        raise RecordError(
            f"expected runs on the same images, got {names[0]} on {called[0]} and {names[1]} on {called[1]}"
        )


def _by_index(records: Sequence[Record]) -> dict[int, Record]:
    return {record.index: record for record in records}


def _gap(pair: Pair) -> int:
    return _GAP.get(pair.second.verdict, 1) - _GAP.get(pair.first.verdict, 1)


def _settings(run: RunInfo) -> dict[str, str]:
    model = run.model or {}
    said: dict[str, Any] = {
        **{f"model {name}": model[name] for name in _OF_A_MODEL if model.get(name) is not None},
        **run.configuration,
        "provider": run.provider,
        "device": run.device,
        **{f"version of {name}": version for name, version in run.versions.items()},
        "seconds": None if run.seconds is None else f"{run.seconds:.1f}",
    }
    return {name: str(value) for name, value in said.items() if value is not None}
