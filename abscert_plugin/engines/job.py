"""What an engine is asked for, and what it answers: bytes in, bytes out, so that neither knows what the work is."""

import platform
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final, Protocol, TypeAlias, final, runtime_checkable

import msgspec

from abscert_plugin.errors import AbscertError

MOST_DEATHS: Final = 3
"""Workers that may die of one task: after so many it is lost."""
Work: TypeAlias = Callable[[bytes], bytes]
"""What makes an answer of a task."""


@final
class EngineError(AbscertError):
    """Workers that cannot be started or reached, or a cluster that was lost."""


@final
class KilledError(AbscertError):
    """What a task had started was killed by a signal: the task is handed out again, as if its worker had died."""


@final
class Job(msgspec.Struct, frozen=True):
    """What all tasks are about.

    Args:
        opens: `module:function`, of a module that every worker has. It is called once in each worker's process with
            `shared`, and returns what makes answers of tasks. It may be called anew after a death.
        shared: what all tasks need; it is sent once to each machine.
    """

    opens: str
    shared: bytes = b""

    def opened(self) -> Work:
        """Return what makes answers of tasks.

        Raises:
            AbscertError: whatever of these the function raises.
        """
        module, _, name = self.opens.partition(":")
        work: Work = getattr(import_module(module), name)(self.shared)
        return work


@final
class Task(msgspec.Struct, frozen=True, tag=True):
    """A task.

    Args:
        place: its number among the tasks of a job.
        content: what it is.
        name: what a dashboard calls it.
    """

    place: int
    content: bytes
    name: str = ""


@final
class TaskAnswer(msgspec.Struct, frozen=True, tag=True):
    """How a task ended: with a content, refused, or lost.

    Args:
        place: the task's number.
        content: the answer, where it is neither refused nor lost.
        refusal: the one line of an `AbscertError`; empty where there was none.
        loss: why there is no answer and will be none: the task's workers died, or its code failed.
        is_death: of a loss, whether another try may help.
    """

    place: int
    content: bytes = b""
    refusal: str = ""
    loss: str = ""
    is_death: bool = False


Answers: TypeAlias = Generator[TaskAnswer, None, None]


@runtime_checkable
class Engine(Protocol):
    """A way to have tasks answered by other processes."""

    @property
    def cpus(self) -> int:
        """CPU cores, and so threads, of a worker."""
        ...

    def __str__(self) -> str:
        """What it is, in a few words, for run.json."""
        ...

    def check(self) -> None:
        """Refuse at once what cannot work, as far as that can be seen from here; `hand_out` does too.

        Raises:
            EngineError: if nothing answers at an address.
            ConfigError: if a package is missing.
        """
        ...

    def hand_out(self, job: Job, tasks: Iterable[Task], on_look: Callable[[], object]) -> Answers:
        """Yield the answer of each task as it comes, in any order; close it to stop all workers.

        A task whose worker dies is handed out again, elsewhere if need be; after `MOST_DEATHS` it is lost.

        Args:
            job: what the tasks are about.
            tasks: the tasks; they are asked for as workers come free, so they may be made one by one.
            on_look: called every second.

        Raises:
            EngineError: if workers cannot be started or reached.
            ConfigError: if a package is missing.
        """
        ...


def answered(work: Callable[[], Work], task: Task) -> TaskAnswer:
    """Return the answer of a task; whatever goes wrong is told in it.

    Args:
        work: opens the job, or returns what was opened before.
        task: the task.
    """
    try:
        do = work()
    except AbscertError as error:
        return TaskAnswer(task.place, refusal=str(error))
    except Exception as error:  # noqa: BLE001 - whatever its modules raise: no other task fares better
        return TaskAnswer(task.place, refusal=f"a worker on {platform.node()} cannot start: {_line(error)}")
    try:
        return TaskAnswer(task.place, do(task.content))
    except KilledError as error:
        return TaskAnswer(task.place, loss=str(error), is_death=True)
    except AbscertError as error:
        return TaskAnswer(task.place, refusal=str(error))
    except Exception as error:  # noqa: BLE001 - a fault of our code, or memory that ran out: the other tasks go on
        return TaskAnswer(task.place, loss=_line(error))


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@final
@dataclass(slots=True)
class Deaths:
    """How many workers have died of each task."""

    _counts: dict[int, int] = field(init=False, default_factory=dict)

    def last(self, answer: TaskAnswer) -> TaskAnswer | None:
        """Return an answer that is its task's last; count a death, and return None where it is to be handed out again.

        After the last death that a task may have, the answer is that the task is lost.
        """
        if not answer.is_death:
            return answer
        count = self._counts[answer.place] = self._counts.get(answer.place, 0) + 1
        if count < MOST_DEATHS:
            return None
        return TaskAnswer(answer.place, loss=f"its worker died {count} times: {answer.loss}")
