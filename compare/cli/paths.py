"""The results folder that subcommands read, and the file that some of them write."""

from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin import files
from abscert_plugin.cli import completion, manual
from abscert_plugin.cli.console import LOG
from abscert_plugin.errors import ConfigError
from compare.plans.plan import shipped_plans

Results = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Folder of the runs; one folder serves many plans.",
        metavar="FOLDER",
        rich_help_panel=manual.OUTPUT,
    ),
]
plan_name: Final = completion.one_of(lambda: tuple(shipped_plans()))
"""What completes a plan's name."""
DEFAULT_RESULTS: Final = Path("results")


def write_text(into: Path, text: str) -> None:
    """Write a file whole or not at all, and say so.

    Raises:
        ConfigError: if it cannot be written.
    """
    files.write_text(into, text, "choose another --into", ConfigError)
    LOG.print(f"wrote {into}", highlight=False, soft_wrap=True)
