"""`abscert compare`: methods head to head."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import typer

from abscert_plugin.cli import manual
from compare.cli import kept, output, pictures, runs, times

_EXAMPLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "plans": "abscert compare plans",
        "plan": "abscert compare plan mnist-cpu",
        "run": "abscert compare run digits-smoke --out results",
        "status": "abscert compare status --out results",
        "tables": "abscert compare tables --out results --format csv --into tables.csv",
        "report": "abscert compare report --out results --into comparison.html",
        "curves": "abscert compare curves --out results --into curves.svg",
        "landscape": "abscert compare landscape --plan paper-figure3 --out results",
        "keep": "abscert compare keep --out results --into kept",
        "times": "abscert compare times paper-table3 --out results",
    }
)


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = manual.Commands(help="Compare methods head to head: plans, their runs, and what these come to.")
    commands = (runs.plans, runs.plan, runs.run, runs.status)
    made = (output.tables, pictures.report, pictures.curves, pictures.landscape, kept.keep, times.times)
    for command in (*commands, *made):
        group.command(command.__name__, epilog=_EXAMPLES[command.__name__])(command)
    group.command("work", hidden=True)(runs.work)
    app.add_typer(group, name="compare", rich_help_panel=manual.COMPARE)
