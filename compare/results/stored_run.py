"""The runs that a results folder holds, and how far each is; read from files alone, without torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, final

from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import blocks_of, converted, read_json
from abscert_plugin.records import CHECKPOINT, RECORDS
from compare.plans.planned_run import Run

CONFIG: Final = "config.json"
DONE: Final = "done.json"
FAILURE: Final = "failure.json"
RUNS: Final = "runs"
TRAINING: Final = "training"


class State(StrEnum):
    """How far a run is."""

    TODO = "to do"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@final
@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run and its folder in a results folder.

    Args:
        run: the run.
        folder: where it lies.
    """

    run: Run
    folder: Path

    @property
    def state(self) -> State:
        """How far it is, read from its files."""
        if (self.folder / DONE).exists():
            return State.DONE
        if (self.folder / FAILURE).exists():
            return State.FAILED
        return State.STARTED if (self.folder / CONFIG).exists() else State.TODO

    @property
    def progress(self) -> str:
        """What it is at, in a few words, read from its files."""
        verifications = sorted(self.folder.glob(f"verify-*/{RECORDS}"), key=lambda path: path.stat().st_mtime)
        if verifications:
            images = sum(block.count(b"\n") for block in blocks_of(verifications[-1]))
            return f"{verifications[-1].parent.name}, {images:,} images"
        checkpoint = self.folder / TRAINING / CHECKPOINT
        return f"epoch {read_json(checkpoint).get('epoch')} done" if checkpoint.exists() else "training"

    @property
    def reason(self) -> str:
        """Why it failed; empty where it did not."""
        return str(read_json(self.folder / FAILURE).get("reason", "")) if self.state is State.FAILED else ""


def stored_runs_of(runs: Sequence[Run], results: Path) -> tuple[StoredRun, ...]:
    """Return where each run lies in a results folder."""
    return tuple(StoredRun(run, results / RUNS / run.key) for run in runs)


def stored_runs(results: Path) -> Iterator[StoredRun]:
    """Yield every run that a results folder holds, whatever plan it came from; not one that is half copied.

    Raises:
        RecordError: if a run's config.json cannot be read.
    """
    for config in sorted((results / RUNS).glob(f"[!.]*/{CONFIG}")):
        yield stored_run(config.parent)


def need_runs(results: Path, found: Sequence[object]) -> None:
    """Raise RecordError unless a results folder has a run."""
    if not found:
        raise RecordError(
            f"expected runs in {results}, found none; `abscert compare run PLAN --out {results}` makes them"
        )


def stored_run(folder: Path) -> StoredRun:
    """Return the run of a folder.

    Raises:
        RecordError: if its config.json cannot be read, or is not that of this folder.
    """
    config = folder / CONFIG
    fault = f"{config} is not a run of this version"
    run = converted(read_json(config), Run, fault)
    try:
        run.questions  # noqa: B018 - raises where a claim or a radius has no meaning
    except (ValueError, ConfigError) as error:
        raise RecordError(f"{fault}: {error!s:.200}") from error
    if run.key != folder.name:
        raise RecordError(f"{config} was changed, or is of another version: its run would lie in {run.key}")
    return StoredRun(run, folder)
