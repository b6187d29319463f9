"""Where the command line writes: results to stdout, progress and messages to stderr."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.console import Console

# paths and messages are shown as they stand: no markup, no emoji codes
OUT: Final = Console(markup=False, emoji=False)
LOG: Final = Console(stderr=True, markup=False, emoji=False)
_INTERRUPTED: Final = 130


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, and nothing else."""
    typer.echo(json.dumps(value, allow_nan=False))


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Turn Ctrl-C into one line that says how to go on, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        LOG.print(f"stopped; {advice}", highlight=False)
        raise typer.Exit(_INTERRUPTED) from None


def say(note: str) -> None:
    """Print a line on stderr; nothing where it is empty."""
    if note:
        LOG.print(note, highlight=False, soft_wrap=True)


def say_closed(reason: str) -> None:
    """Say what of a file stays closed, and what that means; nothing where nothing does."""
    say(f"note: {reason}" if reason else "")
