"""A process that ends with the one that started it: that one holds the other end of its stdin, and writes nothing."""

import os
import signal
from collections.abc import Callable
from threading import Thread


def when_stdin_ends(act: Callable[[], object]) -> None:
    """Act once the process at the other end of stdin has ended or closed it, on a thread of its own."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        act()

    Thread(target=watch, daemon=True).start()


def end_with_parent() -> None:
    """Have this process, the first of a group, end with all of its group once stdin ends."""
    when_stdin_ends(_end_group)


def _end_group() -> None:
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
