"""Where the command line writes: results to stdout, progress and messages to stderr."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn, final

import typer
from rich.console import Console

# paths and messages are shown as they stand: no markup, no emoji codes
OUT: Final = Console(markup=False, emoji=False)
LOG: Final = Console(stderr=True, markup=False, emoji=False)
_INTERRUPTED: Final = 130
_TERMINATED: Final = 143


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, and nothing else."""
    typer.echo(json.dumps(value, allow_nan=False))


@final
class _Terminated(KeyboardInterrupt):
    """The process was asked to end, as a batch system asks whose time is up."""


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line that says how to go on, and exit status 130 or 143."""
    is_main = threading.current_thread() is threading.main_thread()  # others may set no handler
    former = signal.signal(signal.SIGTERM, _terminate) if is_main else None
    try:
        yield
    except KeyboardInterrupt as stop:
        LOG.print(f"stopped; {advice}", highlight=False)
        raise typer.Exit(_TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED) from None
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def say(note: str) -> None:
    """Print a line on stderr; nothing where it is empty."""
    if note:
        LOG.print(note, highlight=False, soft_wrap=True)


def say_closed(reason: str) -> None:
    """Say what of a file stays closed, and what that means; nothing where nothing does."""
    say(f"note: {reason}" if reason else "")
