"""The engine `ray`: sends tasks to a Ray cluster that is there, many at once.

Every node has the package of the job installed. A task whose node or process is killed is handed out again, elsewhere
if need be. Tasks end with the driver, and the driver with this process: whatever is killed, nothing goes on unseen.

Ray itself is spoken to in ray_driver.py, a process of its own; here is the side that needs no Ray.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from queue import Empty, Queue
from threading import Thread
from types import MappingProxyType
from typing import IO, Final, TypeAlias, final

import msgspec

from abscert_plugin.engines.job import Answers, EngineError, Job, Task, TaskAnswer
from abscert_plugin.engines.pipe import messages, send
from abscert_plugin.errors import ConfigError

AUTO: Final = "auto"
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a cluster that tells nothing."""
_COMMAND: Final = "from abscert_plugin.engines.ray_driver import main; main()"
_ANSWERS_WITHIN: Final = 30.0  # seconds, with the start of the driver; Ray itself would try for minutes
_CONNECTS_WITHIN: Final = 5.0
_ENDS_WITHIN: Final = 10.0
_QUIET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would send this folder to the nodes and install it
    }
)


@final
@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster, and what a task takes of it.

    Args:
        address: HOST:PORT of its head node, or `auto`, the cluster that this machine is a node of.
        cpus: CPU cores a task, at least 1; a task uses so many threads.
        gpus: GPUs a task; with 0 it sees none, and below 1 several tasks share one.

    Raises:
        ConfigError: if one of these has no meaning.
    """

    address: str = AUTO
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if self.address != AUTO and not (host and "/" not in host and port.isdecimal() and int(port) < 2**16):
            raise ConfigError(f"expected --address auto or HOST:PORT of the head node, got {self.address!r}")
        if self.cpus < 1:
            raise ConfigError(f"expected --cpus of at least 1, got {self.cpus}")
        if not (0 <= self.gpus <= 1 or (self.gpus > 0 and self.gpus.is_integer())):
            raise ConfigError(f"expected --gpus from 0 to 1, or a whole number, got {self.gpus}")

    def __str__(self) -> str:
        return "a Ray cluster"

    def check(self) -> None:
        """Refuse to go on where Ray is not installed, or nothing listens at the address.

        Raises:
            ConfigError: if Ray is not installed.
            EngineError: if nothing listens there.
        """
        if find_spec("ray") is None:
            raise ConfigError("the engine ray needs Ray: pip install 'abscert-plugin[ray]', here and on every node")
        _check_listening(self.address)

    def hand_out(self, job: Job, tasks: Iterable[Task], on_look: Callable[[], object]) -> Answers:
        """Yield the answer of each task as it comes; see `Engine.hand_out`.

        Raises:
            ConfigError: if Ray is not installed.
            EngineError: if the cluster does not answer, or is lost.
        """
        waiting = iter(tasks)
        task = next(waiting, None)
        if task is None:
            return
        self.check()
        with _driver(RayJob(job, self.address, self.cpus, self.gpus)) as (driver, events):
            room = sent = 0
            while task is not None or sent:
                while task is not None and sent < room:
                    with suppress(OSError):  # it has ended, which the events tell
                        send(driver, task)
                    sent += 1
                    task = next(waiting, None)
                try:
                    event = events.get(timeout=LOOK_EVERY)
                except Empty:
                    on_look()
                    continue
                if isinstance(event, Room):
                    room = event.tasks
                elif isinstance(event, TaskAnswer):
                    sent -= 1
                    yield event
                else:
                    raise EngineError(event or f"the Ray cluster at {self.address} was lost")


@final
class RayJob(msgspec.Struct, frozen=True):
    """What the driver is asked for: a job, and what of which cluster each task takes."""

    job: Job
    address: str
    cpus: int
    gpus: float


@final
class Room(msgspec.Struct, frozen=True, tag=True):
    """The cluster has answered, or has grown or shrunk: how many tasks it takes at once, with some that wait there."""

    tasks: int


Events: TypeAlias = "Queue[Room | TaskAnswer | str]"
"""A text is the last: why the driver ended, empty if it did not say."""
_decoder: Final = msgspec.msgpack.Decoder(Room | TaskAnswer)


def _check_listening(address: str) -> None:
    """Refuse an address where nothing is, before Ray is loaded to find that out."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTS_WITHIN).close()
    except OSError as error:
        fault = error.strerror or error
        raise EngineError(f"no Ray cluster at {address} ({fault}); start one, or correct --address") from error


@contextmanager
def _driver(job: RayJob) -> Iterator[tuple[IO[bytes], Events]]:
    """Start the driver, and end it on leaving; with it ends all that it has under way on the cluster.

    Raises:
        EngineError: if the cluster does not answer.
    """
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **_QUIET},
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        ) as driver,
    ):
        assert driver.stdin is not None
        assert driver.stdout is not None
        events: Events = Queue()
        Thread(target=_listen, args=(driver.stdout, log, events), daemon=True).start()
        try:
            with suppress(BrokenPipeError):  # it has ended, and its log says why
                send(driver.stdin, job)
            fault = _why_not_connected(job.address, events)
            if fault:
                driver.kill()  # Ray itself goes on trying
                raise EngineError(fault)
            yield driver.stdin, events
        finally:
            with suppress(BrokenPipeError):
                driver.stdin.close()
            try:
                driver.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:  # it waits for a cluster that is lost
                driver.kill()
                driver.wait()


def _listen(output: IO[bytes], log: IO[str], events: Events) -> None:
    """Pass on what the driver tells, and once it has ended, why."""
    for message in messages(output):
        events.put(_decoder.decode(message))
    log.seek(0)
    faults = [line.removeprefix("error: ") for line in log.read().splitlines() if line.startswith("error: ")]
    events.put(faults[-1][:500] if faults else "")


def _why_not_connected(address: str, events: Events) -> str:
    """Return why the driver is not connected to the cluster; empty where it is."""
    try:
        first = events.get(timeout=_ANSWERS_WITHIN)
    except Empty:
        first = ""
    if isinstance(first, Room):
        events.put(first)  # the first for whoever hands out
        return ""
    return str(first) or f"no Ray cluster answers at {address}; correct --address, and start this on one of its nodes"
