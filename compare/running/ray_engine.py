"""The engine `ray`: sends the runs to a Ray cluster that is there, many at once.

Every node has abscert-plugin installed and sees the results folder by one path, as over NFS. Each run that is not done
is one Ray task, and the task starts the process that the engine `local` starts. A run whose node or process is killed
is tried again, elsewhere if need be, and goes on from its last checkpoint. The lock in a run's folder keeps two
processes out of it (lock.py says on which file systems). A run's process ends with its task, the tasks with the
driver, and the driver with this process: whatever is killed, nothing goes on unseen.

Ray itself is spoken to in ray_driver.py, a process of its own; here is the side that needs no Ray.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import MappingProxyType
from typing import IO, Final, TypeAlias, final

import msgspec

from abscert_plugin.data.request import DATA_VARIABLE
from abscert_plugin.errors import AbscertError, ConfigError
from compare.plans.planned_run import Run
from compare.results.stored_run import State, StoredRun
from compare.running.worker import LOCK, LOOK_EVERY, abscert_command

AUTO: Final = "auto"
_ANSWERS_WITHIN: Final = 30.0  # seconds, with the start of the driver; Ray itself would try for minutes
_CONNECTS_WITHIN: Final = 5.0
_ENDS_WITHIN: Final = 10.0
_SHOWN_WITHIN: Final = 90.0  # seconds until a file that a node has written is seen here: NFS remembers for up to 60
_QUIET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would send this folder to the nodes and install it
    }
)


@final
class ClusterError(AbscertError):
    """A Ray cluster that does not answer, or that was lost."""


@final
@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster, and what a run takes of it.

    Args:
        address: HOST:PORT of its head node, or `auto`, the cluster that this machine is a node of.
        cpus: CPU cores a run, at least 1; a run uses so many threads.
        gpus: GPUs a run; with 0 it sees none, and below 1 several runs share one.

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


@final
class RayTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task of Ray: a run to carry out, and its folder as every node sees it."""

    run: Run
    folder: str


@final
class RayJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the driver is asked for: the runs, where their data are, and what of which cluster each takes."""

    tasks: tuple[RayTask, ...]
    data_dir: str | None
    address: str
    cpus: int
    gpus: float


@final
class Connected(msgspec.Struct, frozen=True, tag=True):
    """The cluster has answered."""


@final
class Ended(msgspec.Struct, frozen=True, tag=True):
    """A run has ended: its key, and why it failed (empty where it did not)."""

    key: str
    reason: str


Event: TypeAlias = Connected | Ended
Events: TypeAlias = "Queue[Event | str]"  # a text is the last: why the driver ended, empty where it did not say
_decoder: Final = msgspec.json.Decoder(Event)


def carry_out(
    todo: Sequence[StoredRun],
    data_dir: Path | None,
    cluster: Cluster,
    on_progress: Callable[[Sequence[StoredRun]], None],
) -> Generator[tuple[StoredRun, str], None, None]:
    """Send the runs to a cluster; yield each as it ends, with the reason of its failure or "".

    Args:
        todo: the runs; the folder that theirs lie in is there, and every node sees it by the same path.
        data_dir: where the data sets' files are, on every node; `$ABSCERT_DATA` where None.
        cluster: where to.
        on_progress: told every second of the runs that a node has begun.

    Raises:
        ConfigError: if Ray is not installed.
        ClusterError: if the cluster does not answer, or is lost.
    """
    if not todo:
        return
    if find_spec("ray") is None:
        raise ConfigError("the engine ray needs Ray: pip install 'abscert-plugin[ray]', here and on every node")
    _check_listening(cluster.address)
    data = data_dir or os.environ.get(DATA_VARIABLE)
    job = RayJob(
        tasks=tuple(RayTask(stored.run, str(stored.folder.absolute())) for stored in todo),
        data_dir=str(Path(data).expanduser().absolute()) if data else None,
        address=cluster.address,
        cpus=cluster.cpus,
        gpus=cluster.gpus,
    )
    left = {stored.run.key: stored for stored in todo}
    before = {key: _begun(stored) for key, stored in left.items()}
    with _driver(job) as events:
        while left:
            try:
                ended = events.get(timeout=LOOK_EVERY)
            except Empty:
                on_progress([stored for key, stored in left.items() if _begun(stored) != before[key]])
                continue
            if not isinstance(ended, Ended):
                fault = str(ended) or f"the Ray cluster at {cluster.address} was lost"
                raise ClusterError(f"{fault}; the same command goes on with the plan")
            stored = left.pop(ended.key)
            yield stored, ended.reason or _why_not_seen(stored, _SHOWN_WITHIN)


def _check_listening(address: str) -> None:
    """Refuse an address where nothing is, before Ray is loaded to find that out."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTS_WITHIN).close()
    except OSError as error:
        fault = error.strerror or error
        raise ClusterError(f"no Ray cluster at {address} ({fault}); start one, or correct --address") from error


@contextmanager
def _driver(job: RayJob) -> Iterator[Events]:
    """Start the driver, and end it on leaving; with it ends all that it has under way on the cluster.

    Raises:
        ClusterError: if the cluster does not answer.
    """
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(  # noqa: S603
            abscert_command("ray-driver"),
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
                driver.stdin.write(msgspec.json.encode(job) + b"\n")
                driver.stdin.flush()
            fault = _why_not_connected(job.address, events)
            if fault:
                driver.kill()  # Ray itself goes on trying
                raise ClusterError(fault)
            yield events
        finally:
            with suppress(BrokenPipeError):
                driver.stdin.close()
            try:
                driver.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:  # it waits for a cluster that is lost
                driver.kill()
                driver.wait()


def _listen(output: IO[bytes], log: IO[str], events: Events) -> None:
    """Pass on what the driver tells, and once it has ended, why; all else in its output is Ray's own."""
    for line in output:
        with suppress(msgspec.DecodeError):
            events.put(_decoder.decode(line))
    log.seek(0)
    faults = [line.removeprefix("error: ") for line in log.read().splitlines() if line.startswith("error: ")]
    events.put(faults[-1][:500] if faults else "")


def _why_not_connected(address: str, events: Events) -> str:
    """Return why the driver is not connected to the cluster; empty where it is."""
    try:
        first = events.get(timeout=_ANSWERS_WITHIN)
    except Empty:
        first = ""
    if isinstance(first, Connected):
        return ""
    return str(first) or f"no Ray cluster answers at {address}; correct --address, and start this on one of its nodes"


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
