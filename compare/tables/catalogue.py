"""Every table that is made of a results folder, by its name."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.errors import ConfigError
from compare.results.estimates import Estimate, read_estimates
from compare.results.stored_run import StoredRun
from compare.results.verified_run import VerifiedRun, verified_runs
from compare.tables.error_table import NOT_RUN, Table, require_runs, tables_of
from compare.tables.paper_cells import PaperTable
from compare.tables.paper_tables import Pool, drafts
from compare.tables.paper_times import time_drafts, time_table
from compare.timing.time_records import TimeSummary, read_times

_TIMES: Final = "3"
_NUMBERS: Final = ("1", "2", _TIMES, "4", "5")
TABLES: Final = ("all", "errors", *_NUMBERS)
"""What `--table` may say: every table that has a figure, the general one, or one of the paper's by its number."""


def select_tables(results: Path, name: str) -> tuple[Table, ...]:
    """Return the tables of a name; `all` leaves those of the paper's out that have no figure of ours, and says so.

    Raises:
        ConfigError: if there is no such name.
        RecordError: if there is nothing to make tables of, a file cannot be read, or records of different versions
            would be averaged.
    """
    if name not in TABLES:
        raise ConfigError(expected_one_of("--table", TABLES, name))
    found, others = verified_runs(results)
    if name == "errors":
        return tables_of(results, found, others)
    times = read_times(results)
    if not times:
        require_runs(results, found, others)
    if name == "all":
        return all_tables(results, found, others, times)
    general = (time_table(times),) if name == _TIMES and times else ()
    made = drafts_of(name, found, others, times, read_estimates(results))
    return (*general, *(draft.table for draft in made))


def all_tables(
    results: Path, found: Sequence[VerifiedRun], others: Sequence[StoredRun], times: Sequence[TimeSummary]
) -> tuple[Table, ...]:
    """Return every table that has a figure, of what was read from a results folder.

    Raises:
        RecordError: as `select_tables`.
    """
    expected = read_estimates(results)
    made = [(name, draft) for name in _NUMBERS for draft in drafts_of(name, found, others, times, expected)]
    general = tables_of(results, found, others) if found or others else ()
    timed = (time_table(times),) if times else ()
    shown = [draft.table for _, draft in made if not draft.is_empty]
    empty = tuple((draft.title, NOT_RUN, f"--table {name}") for name, draft in made if draft.is_empty)
    left_out = Table("Tables of the paper without a figure of ours", ("table", "ours", "shown by"), empty, ())
    return (*general, *timed, *shown, *([left_out] if empty else []))


def drafts_of(
    name: str,
    found: Sequence[VerifiedRun],
    others: Sequence[StoredRun],
    times: Sequence[TimeSummary],
    estimates: Sequence[Estimate] = (),
) -> Iterable[PaperTable]:
    """Return the paper's table of a number, for every protocol (every machine, for times) that records are of.

    Raises:
        RecordError: if records of different versions would be averaged.
    """
    if name == _TIMES:
        return time_drafts(times)
    protocols = sorted({run.protocol for run in (*(one.run for one in found), *(stored.run for stored in others))})
    return [draft for protocol in protocols for draft in drafts(int(name), Pool.of(found, protocol, estimates))]
