"""A run's process: what starts it, what it does alone in its folder, and how its failure reaches whoever started it."""

import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, final

import msgspec

from abscert_plugin.engines.job import KilledError, Work
from abscert_plugin.errors import RecordError
from abscert_plugin.files import locked, write_json
from abscert_plugin.folders import writing_in
from compare.plans.planned_run import Run, as_mapping
from compare.results.stored_run import CONFIG, FAILURE, State, StoredRun, stored_run

LOOK_EVERY: Final = 1.0  # seconds between two looks at a process
LOCK: Final = ".lock"
_COMMAND: Final = "from abscert_plugin.cli import main; main()"  # `abscert`, of this very interpreter
_PATIENCE: Final = 600.0  # seconds for a process that is cut off to end, or for an NFS server to give up its lock


@final
class AskedRun(msgspec.Struct, frozen=True):
    """What a worker of an engine is asked for: a run, its folder as every machine sees it, and where the data are."""

    run: Run
    folder: str
    data_dir: str | None


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """How a run's process ended.

    Args:
        reason: why it failed; empty where it did not.
        was_killed: whether a signal ended it: the run itself may be sound.
    """

    reason: str = ""
    was_killed: bool = False


def abscert_command(*arguments: str) -> Sequence[str]:
    """Return the command line that runs `abscert compare` with these arguments."""
    return [sys.executable, "-c", _COMMAND, "compare", *arguments]


def prepare(stored: StoredRun) -> None:
    """Write what a run's process starts from, unless it is there: another process may be at work in the folder.

    Raises:
        RecordError: if the folder cannot be written.
    """
    with writing_in(stored.folder):
        stored.folder.mkdir(exist_ok=True)
    try:
        stored_run(stored.folder)
    except RecordError:
        write_json(stored.folder / CONFIG, as_mapping(stored.run))


def run_in_process(stored: StoredRun, data_dir: Path | None, on_look: Callable[[], None]) -> Ending:
    """Carry a run out in a process of its own, which ends with this one, however this one ends.

    Args:
        stored: the run; the folder that its own lies in is there.
        data_dir: where the data sets' files are; `$ABSCERT_DATA` where None.
        on_look: called every second.

    Raises:
        RecordError: if its folder cannot be written.
    """
    prepare(stored)
    options = ["--data-dir", str(data_dir)] if data_dir else []
    command = abscert_command("work", str(stored.folder), "--with-parent", *options)
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as worker,  # noqa: S603
    ):
        try:
            while worker.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(LOOK_EVERY)
                on_look()
        except BaseException:
            worker.terminate()
            worker.wait()
            raise
        return _ending(worker.returncode, errors)


def packed(asked: AskedRun) -> bytes:
    """Return what a worker is asked for as it is sent."""
    return msgspec.msgpack.encode(asked)


def carrying_out(_: bytes) -> Work:
    """Return what carries out a run that is asked for, on a worker of an engine; it answers why the run failed."""
    return _carry_out


def _carry_out(content: bytes) -> bytes:
    asked = msgspec.msgpack.decode(content, type=AskedRun)
    stored = StoredRun(asked.run, Path(asked.folder))
    if not stored.folder.parent.is_dir():
        where = stored.folder.parent
        reason = f"the node {platform.node()} has no {where}: every node has to see the results folder there"
        return reason.encode()
    ending = run_in_process(stored, Path(asked.data_dir) if asked.data_dir else None, lambda: None)
    if ending.was_killed:
        raise KilledError(ending.reason)
    return ending.reason.encode()


def work(folder: Path, data_dir: Path | None) -> None:
    """Carry out the run of a folder in this process; no other one works in the folder meanwhile.

    Where another process is at work in it, such as that of a node that is cut off from its cluster, this one waits
    until it ends, and goes on from what it left.

    Raises:
        AbscertError: if the run fails, or the other process does not end within ten minutes.
    """
    from abscert_plugin.training.loop import SilentObserver
    from compare.running.execute import execute

    with locked(folder / LOCK, f"another process has been at work in {folder} for too long: end it", _PATIENCE):
        stored = stored_run(folder)
        if stored.state is State.DONE:
            return
        (folder / FAILURE).unlink(missing_ok=True)
        execute(stored.run, stored.folder, data_dir, SilentObserver(), lambda _: None)


def _ending(status: int, errors: IO[str]) -> Ending:
    if status == 0:
        return Ending()
    if status < 0:
        return Ending(f"its process was ended by signal {-status} ({signal.Signals(-status).name})", was_killed=True)
    errors.seek(0)
    lines = [line for line in errors.read().splitlines() if line.strip()]
    return Ending(lines[-1].removeprefix("error: ")[:500] if lines else f"its process ended with status {status}")
