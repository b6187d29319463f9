"""`abscert show`."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.cli import options
from abscert_plugin.cli.console import OUT


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("show")(show)


def show(
    records: Annotated[list[Path], typer.Argument(help="One or more records.jsonl, or the folders that hold them.")],
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page with pictures (one records file).")
    ] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
) -> None:
    """Show records: a table in the terminal, and a page with the images that failed."""
