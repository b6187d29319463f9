"""The engine `processes`: workers on this machine, each a process of its own, so that none dies of another."""

import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread
from typing import Final, TypeAlias, final

import msgspec

from abscert_plugin.cores import available_cores
from abscert_plugin.engines.job import MOST_DEATHS, Answers, Deaths, EngineError, Job, Task, TaskAnswer
from abscert_plugin.engines.pipe import messages, send
from abscert_plugin.engines.worker import COMMAND, Opened, environment
from abscert_plugin.errors import ConfigError

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at workers that tell nothing."""
_decoder: Final = msgspec.msgpack.Decoder(Opened | TaskAnswer)


@final
@dataclass(frozen=True, slots=True)
class Processes:
    """Workers on this machine.

    Args:
        workers: how many, at least 1; as many as there are cores for, where None.
        cpus: threads of each, at least 1.

    Raises:
        ConfigError: if one of these is below 1.
    """

    workers: int | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        for option, count in (("workers", self.workers), ("cpus", self.cpus)):
            if count is not None and count < 1:
                raise ConfigError(f"expected --{option} of at least 1, got {count}")

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self.workers or max(1, available_cores() // self.cpus)

    def __str__(self) -> str:
        return f"{self.count} processes"

    def check(self) -> None:
        """Do nothing: there is nothing to see before a worker starts."""

    def hand_out(self, job: Job, tasks: Iterable[Task], on_look: Callable[[], object]) -> Answers:
        """Yield the answer of each task as it comes; see `Engine.hand_out`.

        Raises:
            EngineError: if workers cannot be started, or die before they have opened the job.
        """
        crew = _Crew(job, self.count, self.cpus)
        waiting = iter(tasks)
        try:
            while crew.feed(waiting):
                try:
                    answer = crew.next_answer()
                except Empty:
                    on_look()
                    continue
                if answer is not None:
                    yield answer
        finally:
            crew.end()


@final
class _Worker:
    """A process that answers tasks.

    Args:
        job: what they are about.
        cpus: threads of the process.
        temporary: folder for its temporary files.
        events: told what it says, and None once it has ended.
    """

    def __init__(self, job: Job, cpus: int, temporary: str, events: "Events") -> None:
        self.task: Task | None = None
        self.has_opened = False
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed where the process ends
        try:
            self._process = subprocess.Popen(  # noqa: S603
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment(cpus, temporary),
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        except OSError as error:
            self._log.close()
            raise EngineError(f"cannot start a worker: {error.strerror}; use fewer --workers") from error
        self._tasks: Queue[Task | None] = Queue()
        self._talk = Thread(target=self._converse, args=(job, events), daemon=True)
        self._talk.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def give(self, task: Task) -> None:
        """Hand it a task; it has none."""
        self.task = task
        self._tasks.put(task)

    def fate(self) -> str:
        """Return how it ended, once it has."""
        status = self._process.wait()
        if status < 0:
            return f"it was ended by signal {-status} ({signal.Signals(-status).name})"
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return f"it ended with status {status}{f': {lines[-1][:300]}' if lines else ''}"

    def end(self) -> None:
        """End it: it writes nothing that could be lost."""
        self._process.kill()
        self._process.wait()
        self._tasks.put(None)
        self._talk.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent any more
                    pipe.close()
        self._log.close()

    def _converse(self, job: Job, events: "Events") -> None:
        """Send what it is to do, and pass on what it says to that: a thread of its own, since pipes are narrow."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        with suppress(OSError):  # it has ended, or is being ended
            send(requests, job)
            for message in messages(replies):
                events.put((self, _decoder.decode(message)))
                task = self._tasks.get()
                if task is None:
                    return
                send(requests, task)
        events.put((self, None))


Events: TypeAlias = "Queue[tuple[_Worker, Opened | TaskAnswer | None]]"


@final
class _Crew:
    """The workers of a job, and the tasks that they are at.

    Args:
        job: what the tasks are about.
        count: how many workers there may be.
        cpus: threads of each.
    """

    def __init__(self, job: Job, count: int, cpus: int) -> None:
        self._job, self._count, self._cpus = job, count, cpus
        self._free: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._again = deque[Task]()
        self._deaths = Deaths()
        self._stillborn = 0  # since one has last opened the job
        self._events: Events = Queue()
        self._temporary = tempfile.TemporaryDirectory(prefix="abscert-workers-", ignore_cleanup_errors=True)

    def feed(self, waiting: Iterator[Task]) -> bool:
        """Hand tasks to all that are free, or may be started; return whether any is at work."""
        while len(self._busy) < self._count:
            task = self._again.popleft() if self._again else next(waiting, None)
            if task is None:
                break
            worker = self._free_one() or _Worker(self._job, self._cpus, self._temporary.name, self._events)
            self._busy.append(worker)
            worker.give(task)
        return bool(self._busy)

    def _free_one(self) -> _Worker | None:
        """Return a worker that is free and alive; None where there is none."""
        while self._free:
            worker = self._free.pop()
            if worker.is_alive:
                return worker
            worker.end()
        return None

    def next_answer(self) -> TaskAnswer | None:
        """Wait for the next event, and return the answer that it is; None where it is none.

        Raises:
            Empty: if there is none for a second.
            EngineError: if several workers in a row have died before they had opened the job.
        """
        worker, event = self._events.get(timeout=LOOK_EVERY)
        if isinstance(event, Opened):
            worker.has_opened, self._stillborn = True, 0
            return None
        self._busy.remove(worker)
        task, worker.task = worker.task, None
        assert task is not None  # a worker says nothing unasked
        if event is not None:
            self._free.append(worker)
            return self._last(task, event)
        fate = worker.fate()
        worker.end()
        if worker.has_opened:
            return self._last(task, TaskAnswer(task.place, loss=fate, is_death=True))
        self._again.append(task)
        self._stillborn += 1
        if self._stillborn >= MOST_DEATHS:
            raise EngineError(f"no worker can be started: {fate}; use fewer --workers where memory runs out")
        return None

    def _last(self, task: Task, answer: TaskAnswer) -> TaskAnswer | None:
        """Return an answer that is the task's last; None where it is to be handed out again."""
        last = self._deaths.last(answer)
        if last is None:
            self._again.append(task)
        return last

    def end(self) -> None:
        """End all workers."""
        for worker in (*self._busy, *self._free):
            worker.end()
        self._temporary.cleanup()
