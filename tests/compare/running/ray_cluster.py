"""A Ray cluster of two nodes on this machine, each with one CPU: to be killed, and never left behind."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--object-store-memory=80000000")
_WORK = " compare work "
# a node that refuses connections five times is dead: after 15 seconds by default. A slow one has as long as ever
_SOON_MISSED = {"RAY_health_check_initial_delay_ms": "500", "RAY_health_check_period_ms": "500"}


@dataclass(frozen=True)
class Node:
    """A node: all its processes are of one session."""

    session: int

    def processes(self) -> dict[int, str]:
        """Return the command lines of what is alive of it, by process number."""
        found = {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.session and state not in "ZX":
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        return found

    def run(self) -> tuple[Path, int]:
        """Return the folder of the run that it is at work on, and the number of the run's process."""
        ((number, line),) = [(number, line) for number, line in self.processes().items() if _WORK in line]
        return Path(line.partition(_WORK)[2].split()[0]), number

    def run_folder(self) -> Path | None:
        """Return the folder of the run that it is at work on; None where it is at none."""
        try:
            return self.run()[0]
        except ValueError:
            return None

    def kill(self, spare: str = "\0") -> None:
        """Kill its processes, without those whose command line has a certain part."""
        for number, line in self.processes().items():
            if spare not in line:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)


@dataclass(frozen=True)
class Cluster:
    """Nodes, of which two live at most; the first holds what the cluster cannot lose."""

    address: str
    nodes: list[Node]

    def both(self) -> tuple[Node, Node]:
        """Return two nodes that live, after starting one in place of one that was killed."""
        if not self.nodes[-1].processes():
            _start(self.nodes, f"--address={self.address}")
        return self.nodes[0], self.nodes[-1]


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """Start a cluster; kill what is left of it on leaving, and assert that nothing is.

    It has a token of its own, which what is started meanwhile finds in the environment. Without, a file in the home
    folder that any `ray.init()` leaves there would make the head ask for a token, and no one else bring it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: there are sockets in it
    nodes: list[Node] = []
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    former = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        _start(nodes, "--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}")
        address = (folder / "ray_current_cluster").read_text().strip()
        _start(nodes, f"--address={address}")
        yield Cluster(address, nodes)
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for node in reversed(nodes):
            until = time.monotonic() + 10
            while node.processes() and time.monotonic() < until:
                node.kill()
                time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
    assert not any(node.processes() for node in nodes)


def _start(nodes: list[Node], *arguments: str) -> None:
    command = [*_RAY, "--node-ip-address=127.0.0.1", "--disable-usage-stats", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", **_SOON_MISSED}
    with tempfile.TemporaryFile("w+") as log:
        starting = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        nodes.append(Node(starting.pid))
        status = starting.wait(120)
        log.seek(0)
        assert status == 0, log.read()
