"""`abscert compare`: methods head to head."""

import typer

from compare.cli import output, runs


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = typer.Typer(help="Compare methods head to head: plans, their runs, and what these come to.")
    for command in (runs.plans, runs.plan, runs.run, runs.status, output.tables, output.report, output.landscape):
        group.command(command.__name__)(command)
    group.command("work", hidden=True)(runs.work)
    app.add_typer(group, name="compare")
