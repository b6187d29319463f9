"""Every table that is made of a results folder, by its name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.errors import ConfigError
from compare.results.estimates import Estimate, read_estimates
from compare.results.stored_run import StoredRun, need_runs
from compare.results.verified_run import VerifiedRun, verified_runs
from compare.tables.error_table import NOT_RUN, Table, tables_of
from compare.tables.paper_cells import PaperTable
from compare.tables.paper_tables import Pool, drafts
from compare.tables.paper_times import time_drafts, time_table
from compare.timing.time_records import TimeSummary, read_times

_TIMES: Final = "3"
_NUMBERS: Final = ("1", "2", _TIMES, "4", "5")


@final
@dataclass(frozen=True, slots=True)
class Sources:
    """What tables are made of.

    Args:
        results: the folder.
        found: its verified runs.
        others: its other runs.
        times: its timings.
        estimates: what its runs were expected to take.
    """

    results: Path
    found: Sequence[VerifiedRun]
    others: Sequence[StoredRun]
    times: Sequence[TimeSummary]
    estimates: Sequence[Estimate]

    @classmethod
    def of(cls, results: Path, found: Sequence[VerifiedRun], others: Sequence[StoredRun]) -> "Sources":
        """Return these runs of a folder, with its timings and estimates.

        Raises:
            RecordError: if those cannot be read.
        """
        return cls(results, found, others, read_times(results), read_estimates(results))


def select_tables(results: Path, name: str) -> tuple[Table, ...]:
    """Return the tables of a name; `all` leaves those of the paper's out that have no figure of ours, and says so.

    Raises:
        ConfigError: if there is no such name.
        RecordError: if there is nothing to make tables of, a file cannot be read, or records of different versions
            would be averaged.
    """
    if name not in TABLES:
        raise ConfigError(expected_one_of("--table", TABLES, name))
    sources = Sources.of(results, *verified_runs(results))
    if not sources.times:
        need_runs(results, (*sources.found, *sources.others))
    return TABLES[name](sources)


def all_tables(sources: Sources) -> tuple[Table, ...]:
    """Return every table that has a figure.

    Raises:
        RecordError: as `select_tables`.
    """
    made = [(name, draft) for name in _NUMBERS for draft in drafts_of(name, sources)]
    general = _errors(sources) if sources.found or sources.others else ()
    shown = [draft.table for _, draft in made if not draft.is_empty]
    empty = tuple((draft.title, NOT_RUN, f"--table {name}") for name, draft in made if draft.is_empty)
    left_out = Table("Tables of the paper without a figure of ours", ("table", "ours", "shown by"), empty, ())
    return (*general, *_times(sources), *shown, *([left_out] if empty else []))


def drafts_of(name: str, sources: Sources) -> Iterable[PaperTable]:
    """Return the paper's table of a number, for every protocol (every machine, for times) that records are of.

    Raises:
        RecordError: if records of different versions would be averaged.
    """
    if name == _TIMES:
        return time_drafts(sources.times)
    runs = (*(one.run for one in sources.found), *(stored.run for stored in sources.others))
    protocols = sorted({run.protocol for run in runs})
    pools = [Pool.of(sources.found, protocol, sources.estimates) for protocol in protocols]
    return [draft for pool in pools for draft in drafts(int(name), pool)]


def _errors(sources: Sources) -> tuple[Table, ...]:
    return tables_of(sources.results, sources.found, sources.others)


def _times(sources: Sources) -> tuple[Table, ...]:
    return (time_table(sources.times),) if sources.times else ()


def _of_paper(name: str, sources: Sources) -> tuple[Table, ...]:
    general = _times(sources) if name == _TIMES else ()
    return (*general, *(draft.table for draft in drafts_of(name, sources)))


TABLES: Final[Mapping[str, Callable[[Sources], tuple[Table, ...]]]] = MappingProxyType(
    {"all": all_tables, "errors": _errors, **{name: partial(_of_paper, name) for name in _NUMBERS}}
)
"""What `--table` may say: every table that has a figure, the general one, or one of the paper's by its number."""
