"""`abscert card`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.api.looking import model_in
from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import OUT, print_json, say
from abscert_plugin.report.card_folder import write_card
from abscert_plugin.report.holdings import read_holdings
from abscert_plugin.report.model_card import model_card

_EXAMPLE: Final = "abscert card runs/ball --license mit"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("card", epilog=_EXAMPLE, rich_help_panel=manual.DEPLOY)(card)


def card(  # one parameter per option
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a training, with its deploy.onnx, or any ONNX classifier.", autocompletion=completion.model
        ),
    ],
    guard: Annotated[
        Path | None,
        typer.Option(
            "--guard",
            help="What `abscert guard` wrote of it.  [default: guard.onnx beside it]",
            metavar="FILE",
            rich_help_panel=manual.CONTENT,
            autocompletion=completion.model,
        ),
    ] = None,
    certificate: Annotated[
        list[Path] | None,
        typer.Option(
            "--certificate",
            help="What `abscert verify` wrote; may be repeated.",
            metavar="FILE",
            rich_help_panel=manual.CONTENT,
            autocompletion=completion.json_file,
        ),
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            "--records",
            help="Folder of a verification that is not beside the model; may be repeated.",
            metavar="FOLDER",
            rich_help_panel=manual.CONTENT,
            autocompletion=completion.run_folder,
        ),
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="License of the model as hubs name it, such as mit.  [default: none is named]",
            metavar="NAME",
            rich_help_panel=manual.CONTENT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for card, model, guard and certificates.  [default: the run's]",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write a model card, as model hubs read it, out of what is on record; all figures with claim, radius and file."""
    run, found = model_in(run)
    holdings = read_holdings(run, guard, certificate or (), records or ())
    folder = out or holdings.model.path.parent
    path, former = write_card(holdings, model_card(holdings, license_name), folder)
    say(found)
    for place in holdings.left_out:
        say(f"note: left out {place}, which is about another file or was set aside")
    if former is not None:
        say(f"note: renamed the former card to {former}")
    if not holdings.verified:
        say("note: no verification of this file is on record, and the card says so")
    if json:
        print_json({"card": str(path), "verifications": len(holdings.verified), "model_sha256": holdings.model.sha256})
        return
    OUT.print(f"wrote {path}: {len(holdings.verified)} verifications", highlight=False, soft_wrap=True)
