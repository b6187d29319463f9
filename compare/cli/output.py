"""`abscert compare tables`: what is made of the records of a results folder, as text."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.choices import expected_one_of
from abscert_plugin.cli import manual
from abscert_plugin.errors import ConfigError
from compare.cli.paths import DEFAULT_RESULTS, Results, write_text


def tables(
    out: Results = DEFAULT_RESULTS,
    table: Annotated[
        str,
        typer.Option(
            "--table",
            help="all, errors, or 1 to 5: a table of the paper, ours beside the printed figures.",
            metavar="NAME",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = "all",
    form: Annotated[
        str,
        typer.Option(
            "--format", help="markdown, csv, latex, html or json.", metavar="NAME", rich_help_panel=manual.OUTPUT
        ),
    ] = "markdown",
    into: Annotated[
        Path | None,
        typer.Option(
            "--into", help="File to write to.  [default: stdout]", metavar="FILE", rich_help_panel=manual.OUTPUT
        ),
    ] = None,
) -> None:
    """Make the tables of a results folder from its records alone, ours beside the paper's printed figures."""
    from compare.tables.catalogue import select_tables
    from compare.tables.formats import FORMATS

    if form not in FORMATS:
        raise ConfigError(expected_one_of("--format", FORMATS, form))
    text = FORMATS[form](select_tables(out, table))
    if into is None:
        typer.echo(text, nl=False)
        return
    write_text(into, text)
