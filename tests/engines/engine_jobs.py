"""Jobs for engines' tests, of which each worker imports this file."""

import os
import signal
import time
from pathlib import Path

from abscert_plugin.engines.job import KilledError, Work
from abscert_plugin.errors import ConfigError

JOB = "engine_jobs:opened"
UNOPENED = "engine_jobs:refused"
BROKEN = "engine_jobs:broken"
DYING = "engine_jobs:dying"


def opened(shared: bytes) -> Work:
    """Return what puts `shared` in front of a task's words, and does what its first one says."""
    return lambda content: shared + _done(content.decode().split())


def _done(words: list[str]) -> bytes:
    match words:
        case ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["die-once", path] if not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case ["refuse"]:
            raise ConfigError("expected something else")
        case ["killed"]:
            raise KilledError("what it had started was killed")
        case ["fail"]:
            raise RuntimeError("a fault\nof ours")
        case ["print"]:
            os.write(1, b"what a library prints\n")
        case ["sleep", seconds, path]:
            Path(path).write_text(str(os.getpid()))
            time.sleep(float(seconds))
        case ["pid"]:
            return str(os.getpid()).encode()
        case ["threads"]:
            return os.environ["OMP_NUM_THREADS"].encode()
    return " ".join(words).encode()


def refused(_: bytes) -> Work:
    """Refuse to open."""
    raise ConfigError("expected another machine")


def broken(_: bytes) -> Work:
    """Fail to open."""
    raise ImportError("No module named 'other'")


def dying(_: bytes) -> Work:
    """Die while opening."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
