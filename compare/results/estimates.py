"""How long runs would take that were not carried out: kept beside the records, so that tables can say it anywhere."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, final

import msgspec

from abscert_plugin.errors import RecordError
from abscert_plugin.files import read_text, write_json
from abscert_plugin.folders import writing_in
from abscert_plugin.wording import plain_words
from compare.plans.planned_run import Run, as_mapping

ESTIMATES: Final = "estimates.json"
"""Its name in a results folder."""


@final
class Estimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """About how long a run takes.

    Args:
        run: the run.
        seconds: of training and verification, on the machine that the estimate was made on.
    """

    run: Run
    seconds: float


@final
class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    estimates: tuple[Estimate, ...]


def read_estimates(results: Path) -> tuple[Estimate, ...]:
    """Return the estimates of a results folder; none where none were kept.

    Raises:
        RecordError: if the file cannot be read.
    """
    path = results / ESTIMATES
    if not path.exists():
        return ()
    try:
        return msgspec.json.decode(read_text(path), type=_File).estimates
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read: {plain_words(error)}; delete it, and estimate again") from error


def keep_estimates(results: Path, seconds: Mapping[str, float], runs: Iterable[Run]) -> Path:
    """Write estimates into a results folder; those of other runs that it has stay.

    Args:
        results: the folder; it is made where it is missing.
        seconds: a run's key to its estimate; runs without one are left out.
        runs: what they are of.

    Raises:
        RecordError: if the file is there and cannot be read, or cannot be written.
    """
    known = {one.run.key: one for one in read_estimates(results)}
    known |= {run.key: Estimate(run=run, seconds=round(seconds[run.key])) for run in runs if run.key in seconds}
    path = results / ESTIMATES
    with writing_in(results):
        results.mkdir(parents=True, exist_ok=True)
    rows = [{"run": as_mapping(one.run), "seconds": one.seconds} for one in known.values()]
    write_json(path, {"estimates": rows})
    return path
