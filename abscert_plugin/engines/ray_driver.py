"""The process that speaks to a Ray cluster, and the Ray task in which a node answers one of ours: all that imports Ray.

It is a process of its own since Ray writes to stdout and stderr as it likes, tries for minutes to reach a cluster that
is not there, and ends the process that loses its cluster.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from queue import Empty, Queue
from threading import Event as Flag
from threading import Thread
from typing import IO, Any, Final, final

import msgspec
import ray
from ray.exceptions import RayError, RayTaskError

from abscert_plugin.cores import THREADS
from abscert_plugin.engines.job import Deaths, Job, Task, TaskAnswer, Work, answered
from abscert_plugin.engines.pipe import messages, send
from abscert_plugin.engines.ray_cluster import RayJob, Room
from abscert_plugin.engines.worker import own_pipe
from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.memory import keep_freed_memory

_LOOK_EVERY: Final = 0.1  # seconds
_AHEAD: Final = 2  # tasks to each that the cluster has room for, so that no node waits for the next


def main() -> None:
    """Drive; why that cannot be done is the last line on stderr."""
    try:
        drive()
    except AbscertError as error:
        os.write(2, f"error: {error}\n".encode())
        raise SystemExit(1) from None


def drive() -> None:
    """Send the tasks that come on stdin to the cluster, and tell on stdout how each ends; once stdin ends, stop all.

    Raises:
        ConfigError: if Ray finds no cluster, or this machine is no node of it.
    """
    incoming = messages(os.fdopen(0, "rb", closefd=False))
    with os.fdopen(own_pipe(), "wb") as replies:
        head = next(incoming, None)
        if head is None:
            return
        asked = msgspec.msgpack.decode(head, type=RayJob)
        tasks, is_alone = Queue[Task](), Flag()
        Thread(target=_listen, args=(incoming, tasks, is_alone), daemon=True).start()
        try:
            # nothing of what the nodes print, and no warnings: what there is to say comes with the answers
            ray.init(address=asked.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            fault = " ".join(str(error).split())[:300]
            raise ConfigError(f"Ray cannot connect this machine to the cluster {asked.address}: {fault}") from error
        try:
            _Driver(asked, replies).run(tasks, is_alone)
        finally:
            ray.shutdown()


def _listen(incoming: Iterator[bytes], tasks: "Queue[Task]", is_alone: Flag) -> None:
    for message in incoming:
        tasks.put(msgspec.msgpack.decode(message, type=Task))
    is_alone.set()


@final
class _Driver:
    """Sends tasks to the cluster that this process is connected to.

    Args:
        asked: the job, and what a task takes of the cluster.
        replies: where to tell how tasks end.
    """

    def __init__(self, asked: RayJob, replies: IO[bytes]) -> None:
        self._asked, self._replies = asked, replies
        # Ray would end a worker with a GPU after each task, with all that it has opened
        options: dict[str, Any] = {"num_cpus": asked.cpus, "num_gpus": asked.gpus, "max_retries": 0, "max_calls": 0}
        self._remote = ray.remote(**options)(_answer)
        self._held = _Held(asked.job.opens, asked.cpus, [ray.put(asked.job.shared)])
        self._pending: dict[Any, Task] = {}
        self._deaths = Deaths()
        self._room = 0

    def run(self, tasks: "Queue[Task]", is_alone: Flag) -> None:
        """Send what comes and tell what ends, until nobody is at the other end."""
        while not is_alone.is_set():
            self._tell_room()
            self._take(tasks)
            if not self._pending:
                continue
            ended, _ = ray.wait(list(self._pending), num_returns=1, timeout=_LOOK_EVERY)
            for reference in ended:
                self._end(reference)
        for reference in self._pending:
            ray.cancel(reference, force=True)

    def _tell_room(self) -> None:
        """Tell how many tasks the cluster has room for, where that has changed."""
        there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        asked = {"CPU": float(self._asked.cpus), "GPU": self._asked.gpus}
        at_once = min(int(there.get(name, 0.0) / each) for name, each in asked.items() if each)
        room = _AHEAD * max(1, at_once)  # one waits at least, so that a cluster that can grow does
        if room != self._room:
            self._room = room
            send(self._replies, Room(room))

    def _take(self, tasks: "Queue[Task]") -> None:
        try:
            task = tasks.get(timeout=0.0 if self._pending else _LOOK_EVERY)
            while True:
                self._send(task)
                task = tasks.get_nowait()
        except Empty:
            pass

    def _send(self, task: Task) -> None:
        reference = self._remote.options(name=task.name or f"abscert {task.place}").remote(self._held, task)
        self._pending[reference] = task

    def _end(self, reference: Any) -> None:
        task = self._pending.pop(reference)
        last = self._deaths.last(_answer_of(reference, task))
        if last is None:
            self._send(task)
        else:
            send(self._replies, last)


@final
@dataclass(frozen=True)
class _Held:
    """A job, whose shared part each node fetches once; a process of Ray's serves the tasks of one driver alone."""

    opens: str
    cpus: int
    shared: list[Any] = field(compare=False)  # a reference in a list, which Ray does not follow for each task


@lru_cache(maxsize=1)
def _opened(held: _Held) -> Work:
    keep_freed_memory()
    os.environ[THREADS] = str(held.cpus)  # as Ray does, unless its node was started with another number
    return Job(held.opens, ray.get(held.shared[0])).opened()


def _answer(held: _Held, task: Task) -> TaskAnswer:
    """Answer a task, on the node where Ray starts this."""
    return answered(lambda: _opened(held), task)


def _answer_of(reference: Any, task: Task) -> TaskAnswer:
    """Return what a Ray task gave; where its process or node died, that it did."""
    try:
        answer: TaskAnswer = ray.get(reference)
    except RayTaskError as error:  # none of the task's own, which are told in its answer: such as a missing package
        return TaskAnswer(task.place, refusal=f"a node of the cluster cannot start: {_line(error.cause or error)}")
    except RayError as error:
        return TaskAnswer(task.place, loss=_line(error), is_death=True)
    return answer


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
