"""The runs of a plan, carried out by an engine: resumable, and no failure is dropped."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from abscert_plugin.choices import did_you_mean
from abscert_plugin.engines.job import Engine
from abscert_plugin.errors import ConfigError
from abscert_plugin.files import locked, write_json
from abscert_plugin.folders import try_to_write, writing_in
from compare.plans.planned_run import Run
from compare.results.stored_run import FAILURE, RUNS, State, StoredRun
from compare.running.engines import OnProgress, endings
from compare.running.worker import prepare


def carry_out(
    todo: Sequence[StoredRun],
    engine: Engine | None,
    data_dir: Path | None,
    on_progress: OnProgress,
    on_end: Callable[[StoredRun], None],
) -> None:
    """Carry out every run that is not done; a run that failed is tried again, and one that fails is recorded.

    Args:
        todo: the runs.
        engine: who carries them out; None: one process here at a time.
        data_dir: where the data sets' files are, on every machine; `$ABSCERT_DATA` where None.
        on_progress: told every second of the runs in progress.
        on_end: told of every run when it has ended, or is found done.

    Raises:
        AbscertError: if a folder cannot be written, or the engine cannot be used.
        KeyboardInterrupt: if the user stops it; the runs in progress are stopped too.
    """
    left = []
    for stored in todo:
        if stored.state is State.DONE:
            on_end(stored)
        else:
            left.append(stored)
    with closing(endings(left, engine, data_dir, on_progress)) as found:
        for stored, reason in found:
            if reason:
                prepare(stored)  # a node may have found no folder to write in
                write_json(stored.folder / FAILURE, {"key": stored.run.key, "reason": reason})
            on_end(stored)


@contextmanager
def held(results: Path) -> Iterator[None]:
    """Hold a results folder, so that no two runners carry out one run; a runner that is killed lets go of it.

    Raises:
        RecordError: if it cannot be written, or another runner holds it.
    """
    _check_writable(results)
    with locked(results / ".lock", f"another runner is at work in {results}; wait, or choose another --out"):
        yield


def _check_writable(results: Path) -> None:
    with writing_in(results):
        (results / RUNS).mkdir(parents=True, exist_ok=True)
        try_to_write(results)


def pick(runs: Sequence[Run], method: str | None = None, network: str | None = None) -> tuple[Run, ...]:
    """Return the runs of one method and one network; None takes all.

    Raises:
        ConfigError: if the plan has none of them.
    """
    chosen = tuple(run for run in runs if method in (None, run.method) and network in (None, run.network))
    if not chosen:
        asked = {"method": (method, {run.method for run in runs}), "network": (network, {run.network for run in runs})}
        named = " and ".join(f"the {name} {value}" for name, (value, _) in asked.items() if value is not None)
        guesses = [
            did_you_mean(value, sorted(known)) for value, known in asked.values() if value and value not in known
        ]
        raise ConfigError(f"the plan has no run of {named}{''.join(guesses)}")
    return chosen
