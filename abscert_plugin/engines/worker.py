"""A worker's process on this machine: opens a job that comes on stdin, and answers its tasks on stdout."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from queue import Queue
from threading import Thread
from typing import Final, final

import msgspec

from abscert_plugin.cores import with_threads
from abscert_plugin.engines.job import Job, Task, answered
from abscert_plugin.engines.pipe import messages, send
from abscert_plugin.memory import keep_freed_memory

COMMAND: Final = (sys.executable, "-c", "from abscert_plugin.engines.worker import serve; serve()")
"""Starts one, of this very interpreter; without the command line's modules, which take a second to import."""


def environment(cpus: int, temporary: str) -> Mapping[str, str]:
    """Return the variables of a worker.

    Args:
        cpus: how many threads it computes with.
        temporary: where it has its temporary files.
    """
    return {**with_threads(cpus), **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary)}


@final
class Opened(msgspec.Struct, frozen=True, tag=True):
    """A worker has opened its job."""


def own_pipe() -> int:
    """Return what takes this process's messages; whatever else is written to stdout goes to stderr from now on."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return replies


def serve() -> None:
    """Answer the tasks that come on stdin; once it ends, end at once, whatever is being done."""
    keep_freed_memory()
    incoming = messages(os.fdopen(0, "rb", closefd=False))
    tasks: Queue[Task] = Queue()
    with os.fdopen(own_pipe(), "wb") as replies:
        head = next(incoming, None)
        if head is None:
            return
        job = msgspec.msgpack.decode(head, type=Job)

        def listen() -> None:
            for message in incoming:
                tasks.put(msgspec.msgpack.decode(message, type=Task))
            os._exit(0)

        Thread(target=listen, daemon=True).start()
        work = cache(job.opened)
        with suppress(Exception):  # each task is told of it
            work()
        send(replies, Opened())
        while True:
            send(replies, answered(work, tasks.get()))
