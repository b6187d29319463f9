"""`abscert compare`: methods head to head."""

import typer

from compare.cli import kept, output, pictures, runs, times


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = typer.Typer(help="Compare methods head to head: plans, their runs, and what these come to.")
    for command in (runs.plans, runs.plan, runs.run, runs.status, output.tables):
        group.command(command.__name__)(command)
    for picture in (pictures.report, pictures.curves, pictures.landscape):
        group.command(picture.__name__)(picture)
    group.command("keep")(kept.keep)
    group.command("times")(times.times)
    group.command("work", hidden=True)(runs.work)
    group.command("ray-driver", hidden=True)(runs.ray_driver)
    app.add_typer(group, name="compare")
