"""The runs of a plan, one after the other, each in a process of its own: resumable, and no failure is dropped."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.records import write_json
from compare.plan import Run, as_mapping
from compare.results import CONFIG, FAILURE, RUNS, Place, State

_LOOK_EVERY: Final = 1.0  # seconds between two looks at the files of the run in progress
_WORK: Final = "from abscert_plugin.cli import main; main()"  # the command, of this very interpreter


def carry_out(
    todo: Sequence[Place],
    data_dir: Path | None,
    on_progress: Callable[[Place], None],
    on_end: Callable[[Place], None],
) -> None:
    """Carry out every run that is not done; a run that failed is tried again.

    Args:
        todo: the runs.
        data_dir: where the data sets' files are; `$ABSCERT_DATA` where None.
        on_progress: told of the run in progress every second.
        on_end: told of every run when it has ended, or is found done.

    Raises:
        RecordError: if a folder cannot be written.
        KeyboardInterrupt: if the user stops it; the run in progress is stopped too.
    """
    for place in todo:
        if place.state is not State.DONE:
            try:
                place.folder.mkdir(parents=True, exist_ok=True)
                (place.folder / FAILURE).unlink(missing_ok=True)
            except OSError as error:
                raise RecordError(f"cannot write in {place.folder}: {error.strerror}; choose another --out") from error
            write_json(place.folder / CONFIG, as_mapping(place.run))
            reason = _in_own_process(place, data_dir, on_progress)
            if reason:
                write_json(place.folder / FAILURE, {"key": place.run.key, "reason": reason})
        on_end(place)


def _in_own_process(place: Place, data_dir: Path | None, on_progress: Callable[[Place], None]) -> str:
    """Carry a run out in a process of its own; return why it failed, empty where it did not."""
    options = ["--data-dir", str(data_dir)] if data_dir else []
    command = [sys.executable, "-c", _WORK, "compare", "work", str(place.folder), *options]
    with tempfile.TemporaryFile("w+") as errors:
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)  # noqa: S603
        try:
            while worker.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(_LOOK_EVERY)
                on_progress(place)
        except BaseException:
            worker.terminate()
            worker.wait()
            raise
        errors.seek(0)
        lines = [line for line in errors.read().splitlines() if line.strip()]
    if worker.returncode == 0:
        return ""
    if worker.returncode < 0:
        return f"its process was ended by signal {-worker.returncode} ({signal.Signals(-worker.returncode).name})"
    return lines[-1].removeprefix("error: ")[:500] if lines else f"its process ended with status {worker.returncode}"


@contextmanager
def held(results: Path) -> Iterator[None]:
    """Hold a results folder, so that no two runners write into one run; a runner that is killed lets go of it.

    Raises:
        RecordError: if it cannot be written, or another runner holds it.
    """
    _check_writable(results)
    try:
        import fcntl  # POSIX alone has it; elsewhere nothing is held
    except ModuleNotFoundError:
        yield
        return
    with (results / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecordError(f"another runner is at work in {results}; wait, or choose another --out") from error
        yield


def _check_writable(results: Path) -> None:
    try:
        (results / RUNS).mkdir(parents=True, exist_ok=True)
        probe = results / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RecordError(f"cannot write in {results}: {error.strerror}; choose another --out") from error


def pick(runs: Sequence[Run], method: str | None) -> tuple[Run, ...]:
    """Return the runs of one method, or all.

    Raises:
        ConfigError: if the plan has none of that method.
    """
    chosen = tuple(run for run in runs if method in (None, run.method))
    if not chosen:
        raise ConfigError(f"the plan has no run of the method {method!r}")
    return chosen
