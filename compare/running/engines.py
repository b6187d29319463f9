"""Engines: how the runs that are not done are carried out, one at a time here or many at once on a cluster."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from abscert_plugin.data.request import DATA_VARIABLE
from abscert_plugin.engines.job import Engine, Job, Task, TaskAnswer
from compare.results.stored_run import State, StoredRun
from compare.running.worker import LOCK, LOOK_EVERY, AskedRun, carrying_out, packed, run_in_process

OnProgress: TypeAlias = Callable[[Sequence[StoredRun]], None]
# each run as it ends, with the reason of its failure or ""
Endings: TypeAlias = Generator[tuple[StoredRun, str], None, None]
_OPENS: Final = f"{carrying_out.__module__}:{carrying_out.__name__}"  # installed, it is below abscert_plugin
_SHOWN_WITHIN: Final = 90.0  # seconds until a file that a node has written is seen here: NFS remembers for up to 60


def endings(
    todo: Sequence[StoredRun], engine: Engine | None, data_dir: Path | None, on_progress: OnProgress
) -> Endings:
    """Carry runs out; yield each as it ends, with the reason of its failure or "".

    With an engine, every machine has abscert-plugin and sees the results folder by one path, as over NFS. A run's
    process is the one that is started without an engine too. A run whose process or machine is killed goes on from its
    last checkpoint, elsewhere if need be; the lock in its folder keeps two processes out of it (`files.locked` says on
    which file systems).

    Args:
        todo: the runs; the folder that theirs lie in is there.
        engine: who carries them out; None: one process here at a time.
        data_dir: where the data sets' files are, on every machine; `$ABSCERT_DATA` where None.
        on_progress: told every second of the runs that are at work.

    Raises:
        EngineError: if workers cannot be started or reached.
        ConfigError: if a package is missing.
    """
    if engine is None:
        for stored in todo:
            yield stored, run_in_process(stored, data_dir, partial(on_progress, (stored,))).reason
        return
    data = data_dir or os.environ.get(DATA_VARIABLE)
    where = str(Path(data).expanduser().absolute()) if data else None
    tasks = [
        Task(place, packed(AskedRun(stored.run, str(stored.folder.absolute()), where)), stored.run.title)
        for place, stored in enumerate(todo)
    ]
    left = dict(enumerate(todo))
    before = {place: _begun(stored) for place, stored in left.items()}

    def look() -> None:
        on_progress([stored for place, stored in left.items() if _begun(stored) != before[place]])

    with closing(engine.hand_out(Job(_OPENS), tasks, look)) as answers:
        for answer in answers:
            stored = left.pop(answer.place)
            yield stored, _reason(answer) or _why_not_seen(stored, _SHOWN_WITHIN)


def _reason(answer: TaskAnswer) -> str:
    """Return why a run failed; empty where it did not."""
    return answer.loss or answer.refusal or answer.content.decode()


def _begun(stored: StoredRun) -> int:
    """Return when a process last began to work on a run; 0 where none has."""
    try:
        return (stored.folder / LOCK).stat().st_mtime_ns
    except OSError:
        return 0


def _why_not_seen(stored: StoredRun, within: float) -> str:
    """Return why a run that ended well on its node is not done here; empty where it is."""
    until = time.monotonic() + within
    while stored.state is not State.DONE:
        if time.monotonic() >= until:
            return f"its node wrote it elsewhere: every node has to see {stored.folder.parent} as the same folder"
        time.sleep(LOOK_EVERY)
        with suppress(OSError):
            os.listdir(stored.folder)  # noqa: PTH208 - so that an NFS client looks again
    return ""
