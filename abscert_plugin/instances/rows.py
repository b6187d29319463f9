"""What came out of instances: a row of each, and the same as the competition's list of results."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, final

import msgspec

from abscert_plugin.files import write_text
from abscert_plugin.records import read_rows

RESULTS: Final = "results.csv"


class Result(StrEnum):
    """What a solver says of an instance, in the words of the competition."""

    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_decided(self) -> bool:
        """Whether it is an answer."""
        return self in (Result.SAT, Result.UNSAT)


OF_VERDICTS: Final[Mapping[str, Result]] = MappingProxyType(
    {"sat": Result.SAT, "unsat": Result.UNSAT, "unknown": Result.UNKNOWN, "timed-out": Result.TIMEOUT}
)
"""What the verdicts of `abscert verify QUERY.vnnlib` are called."""


@final
class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came out of one instance.

    Args:
        category, network, query: the instance, as its list names it.
        timeout: seconds that it was given.
        result: what came out.
        reason: why nothing was decided; empty otherwise.
        seconds: wall-clock time of its process, from its start to its end.
        cpu_seconds: time of all cores that the process took; None where the system does not say.
        counterexample: the file of what satisfies it, below the run's folder; None where there is none.
        schema: version of this row's layout.
    """

    category: str
    network: str
    query: str
    timeout: float
    result: Result
    reason: str
    seconds: float
    cpu_seconds: float | None
    counterexample: str | None
    schema: Literal[1]

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells its instance from others."""
        return self.category, self.network, self.query


def read_results(path: Path) -> list[Row]:
    """Return the rows of a run, in order; a half last line is left out.

    Raises:
        RecordError: if the file cannot be read, or a line is no row.
    """
    return read_rows(path, Row)


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as the competition's list of results: category, network, query, 0 s of preparation, result, seconds.

    Raises:
        RecordError: if it cannot be written.
    """
    text = io.StringIO()
    lines: Iterable[Sequence[str]] = (
        (row.category, row.network, row.query, "0", row.result, f"{row.seconds:.3f}") for row in rows
    )
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())
