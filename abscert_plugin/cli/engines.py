"""Options that choose an engine, the same in every subcommand that hands work out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final, TypeAlias

import typer

from abscert_plugin.cli import completion, manual
from abscert_plugin.engines.job import EngineError
from abscert_plugin.engines.table import LOCAL

__all__ = ["LOCAL", "Address", "Cpus", "Gpus", "Name", "Workers", "few_batches", "going_on"]

Name: TypeAlias = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Who does the work: {engines}. local: this process, one thing after another; processes: several here; "
        "ray: those of a Ray cluster.",
        metavar="NAME",
        rich_help_panel=manual.RUNNING,
        autocompletion=completion.engine,
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes, of --engine processes.  [default: as many as there are cores for]",
        rich_help_panel=manual.RUNNING,
    ),
]
Address: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray: HOST:PORT of the head node.  [default: auto]",
        metavar="HOST:PORT",
        rich_help_panel=manual.RUNNING,
    ),
]
Cpus: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--cpus", help="Cores, and threads, of a worker of an engine.  [default: 1]", rich_help_panel=manual.RUNNING
    ),
]
Gpus: TypeAlias = Annotated[
    float | None,
    typer.Option("--gpus", help="Ray: GPUs of a worker.  [default: 0]", rich_help_panel=manual.RUNNING),
]


_FEW: Final = 16


def few_batches(images: int, at_once: int) -> str:
    """Return a line that says how more workers can take part, where there are few batches; empty elsewhere."""
    batches = -(-images // at_once)
    if batches >= _FEW or at_once == 1:
        return ""
    busy = "1 has" if batches == 1 else f"{batches} have"
    return f"note: a worker takes {at_once} images at a time, so only {busy} work; a smaller --batch-size helps"


@contextmanager
def going_on(advice: str) -> Iterator[None]:
    """Say how to go on where an engine fails.

    Raises:
        EngineError: in place of one that does not say so.
    """
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{error}; {advice}") from error
