"""Keeping the records of finished runs: all that tables and pages are made of, without weights and models."""

import filecmp
import gzip
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from abscert_plugin.errors import RecordError
from abscert_plugin.files import read_packed, write_whole
from abscert_plugin.folders import writing_in
from abscert_plugin.records import HISTORY, RECORDS, ROWS_LIMIT, RUN
from compare.results.estimates import keep_estimates, read_estimates
from compare.results.stored_run import CONFIG, DONE, FAILURE, RUNS, TRAINING, State, stored_runs

_OF_A_RUN: Final = (CONFIG, DONE, FAILURE, f"{TRAINING}/{RUN}", f"{TRAINING}/{HISTORY}", f"verify-*/{RUN}")
_BESIDE_RUNS: Final = ("times/*/*.json", "times/*/*.jsonl", "landscapes/*")
_ADVICE: Final = "choose another --into"


def keep(results: Path, into: Path) -> Sequence[Path]:
    """Copy the records of every run that has ended into another results folder, rows compressed.

    Tables and pages of the copy are those of the original. What `into` holds already stays as it is.

    Args:
        results: the folder of the runs.
        into: where the copy goes; it may hold other runs.

    Returns:
        The folders of the runs that were copied.

    Raises:
        RecordError: if nothing has ended, `into` holds the same run, timing or landscape with another outcome, or it
            cannot be written.
    """
    ended = [stored.folder for stored in stored_runs(results) if stored.state in (State.DONE, State.FAILED)]
    if not ended:
        raise RecordError(f"expected runs that have ended in {results}, found none")
    with writing_in(into, advice=_ADVICE):
        copied = [folder for folder in ended if _keep_run(folder, into / RUNS / folder.name)]
        for source in _found(results, _BESIDE_RUNS):
            _keep_beside(source, into / source.relative_to(results))
        estimates = read_estimates(results)
        known = {one.run.key for one in read_estimates(into)}
        new = [one for one in estimates if one.run.key not in known]
        if new:
            keep_estimates(into, {one.run.key: one.seconds for one in new}, [one.run for one in new])
    return copied


def _keep_run(folder: Path, target: Path) -> bool:
    """Copy a run; return whether it was not there. The folder appears whole, under its name, or not at all."""
    if target.exists():
        _check_same(folder, target)
        return False
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for source in _found(folder, _OF_A_RUN):
            _copy(source, part / source.relative_to(folder))
        for rows in _found(folder, (f"verify-*/{RECORDS}", f"verify-*/{RECORDS}.gz")):
            content = gzip.compress(read_packed(rows, ROWS_LIMIT), mtime=0)  # the same bytes each time
            write_whole(part / rows.parent.name / f"{RECORDS}.gz", partial(_fill, content=content), _ADVICE)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return True


def _keep_beside(source: Path, target: Path) -> None:
    """Copy a file that is not there, or of which only the beginning is: timings and landscapes go on."""
    there = target.read_bytes() if target.exists() else b""
    content = source.read_bytes()
    if not content.startswith(there):
        raise RecordError(f"{target} differs from {source}; {_ADVICE}, or remove it to keep the new one")
    if content != there:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    write_whole(target, lambda part: shutil.copyfile(source, part), _ADVICE)


def _fill(part: Path, content: bytes) -> None:
    part.write_bytes(content)


def _check_same(folder: Path, target: Path) -> None:
    for name in (DONE, FAILURE):
        here, there = folder / name, target / name
        if here.exists() != there.exists() or (here.exists() and not filecmp.cmp(here, there, shallow=False)):
            raise RecordError(f"{target} holds the same run with another outcome; remove it to keep the new one")


def _found(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())
