"""Files that one process at a time holds, on whatever node of a cluster it runs."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from abscert_plugin.errors import RecordError

_LOOK_EVERY: Final = 0.5  # seconds between two tries


@contextmanager
def locked(path: Path, message: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a file; it says which process holds it, and its time is the moment when that one took it.

    What holds: the operating system's lock on the open file (flock), so a process that ends lets go, however it ends.
    Linux carries it to the server of NFS (version 3 with a lock daemon, and version 4), so that it holds between
    nodes. It holds on each node alone where NFS is mounted with `nolock` or `local_lock=flock` or `all`, or Lustre
    with `localflock`. A node that loses its network for longer than the server's lease (90 seconds by default) loses
    the lock; its processes may still live. Without `fcntl` (Windows) nothing is held.

    Args:
        path: the file, in a folder that is there.
        message: the error's words where another process holds it; who does is added.
        patience: seconds to wait for another process to let go.

    Raises:
        RecordError: if another process holds it for longer, or the file system has no locks.
    """
    try:
        import fcntl  # POSIX alone has it
    except ModuleNotFoundError:
        yield
        return
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    until = time.monotonic() + patience
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise RecordError(f"{message} (held by {_holder(file)})") from error
                time.sleep(_LOOK_EVERY)
            except OSError as error:
                raise RecordError(f"cannot lock {path}: {error.strerror}; choose another file system") from error
        _sign(file)
        yield


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    file.write(f"process {os.getpid()} of {platform.node()}\n")
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "an unknown process"
