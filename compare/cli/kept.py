"""`abscert compare keep`: the records of a results folder, without weights and models."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.cli import manual, options
from abscert_plugin.cli.console import OUT, print_json
from compare.cli.paths import DEFAULT_RESULTS, Results


def keep(
    into: Annotated[
        Path,
        typer.Option(
            "--into",
            help="Results folder that the copy goes to; it may hold other runs.",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ],
    out: Results = DEFAULT_RESULTS,
    json: options.Json = False,
) -> None:
    """Copy the records of runs that have ended: small enough to commit, enough for tables and pages."""
    from compare.results.kept_records import keep as keep_records

    copied = keep_records(out, into)
    if json:
        print_json({"kept": [folder.name for folder in copied], "into": str(into)})
        return
    OUT.print(f"kept {len(copied)} runs in {into}", highlight=False, soft_wrap=True)
