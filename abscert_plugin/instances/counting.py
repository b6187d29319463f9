"""Rows of instances counted by category, alone and beside another solver's."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from abscert_plugin.instances.listing import Instance
from abscert_plugin.instances.others import Finding, Other
from abscert_plugin.instances.rows import Result, Row


@final
@dataclass(frozen=True, slots=True)
class Count:
    """What came out of the instances of a category.

    Args:
        category: its name.
        results: how many have each result.
        seconds: of all of them.
        median: seconds, of those that are decided; None where none is.
    """

    category: str
    results: Mapping[Result, int]
    seconds: float
    median: float | None

    @property
    def total(self) -> int:
        """How many instances there are."""
        return sum(self.results.values())

    @property
    def decided(self) -> int:
        """How many are `sat` or `unsat`."""
        return sum(count for result, count in self.results.items() if result.is_decided)


@final
@dataclass(frozen=True, slots=True)
class Beside:
    """What two solvers say of the instances of a category that both have.

    Args:
        category: its name.
        both, ours, theirs, neither: how many are decided by both, by one alone, and by none.
        ratio: median of our time over theirs, where both decide and theirs is told; None where there is none.
    """

    category: str
    both: int
    ours: int
    theirs: int
    neither: int
    ratio: float | None


ALL: Final = "all"
"""The category of everything."""


def count_by_category(rows: Sequence[Row]) -> list[Count]:
    """Return the counts of each category, in order, and of all where there is more than one."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.category, []).append(row)
    found = [_count(category, group) for category, group in groups.items()]
    return found if len(found) == 1 else [*found, _count(ALL, rows)]


def _count(category: str, rows: Sequence[Row]) -> Count:
    decided = [row.seconds for row in rows if row.result.is_decided]
    counts = Counter(row.result for row in rows)
    return Count(
        category,
        {result: counts[result] for result in Result},
        sum(row.seconds for row in rows),
        statistics.median(decided) if decided else None,
    )


def pairs_of(instances: Sequence[Instance], rows: Sequence[Row], other: Other) -> list[tuple[Row, Finding]]:
    """Return our row and the other's finding of each instance that both have; `rows` are in the instances' order."""
    found = ((row, other.of(instance)) for instance, row in zip(instances, rows, strict=True))
    return [(row, finding) for row, finding in found if finding is not None]


def decided_in_time(row: Row, finding: Finding) -> bool:
    """Return whether the other's answer came within the time that ours had."""
    return finding.result.is_decided and (finding.seconds is None or finding.seconds <= row.timeout)


def beside_by_category(pairs: Sequence[tuple[Row, Finding]]) -> list[Beside]:
    """Return, of each category and of all, what both solvers decide within our time; its order is that of our rows."""
    groups: dict[str, list[tuple[Row, Finding]]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].category, []).append(pair)
    found = [_beside(category, group) for category, group in groups.items()]
    return found if len(found) == 1 else [*found, _beside(ALL, pairs)]


def _beside(category: str, pairs: Sequence[tuple[Row, Finding]]) -> Beside:
    counts = Counter((row.result.is_decided, decided_in_time(row, finding)) for row, finding in pairs)
    ratios = [
        row.seconds / finding.seconds
        for row, finding in pairs
        if row.result.is_decided and decided_in_time(row, finding) and finding.seconds
    ]
    return Beside(
        category,
        counts[True, True],
        counts[True, False],
        counts[False, True],
        counts[False, False],
        statistics.median(ratios) if ratios else None,
    )
