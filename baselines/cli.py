"""`abscert baseline`: train by a method of the table, certify what came out, list the methods."""

import inspect
from collections.abc import Callable
from dataclasses import asdict
from functools import WRAPPER_ASSIGNMENTS, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Claim, Radius, RadiusScale
from abscert_plugin.cli import completion, manual, options, train, verify
from abscert_plugin.cli.console import LOG, OUT, print_json
from abscert_plugin.training.options import GRADIENT_CLIP, PATIENCE

if TYPE_CHECKING:
    from abscert_plugin.training.method import MethodEntry

_TRAIN_HELP: Final = "Train by `abscert train`, with the defaults that comparisons have for every method."
_TRAIN: Final = "abscert baseline train --method crown-ibp --radius 0.1 --data mnist --out runs/crown"
_CERTIFY: Final = "abscert baseline certify runs/crown --radius 0.1 --data mnist --timeout 1"
_LIST: Final = "abscert baseline list mtl-ibp"
_COMPARED: Final = {"method": inspect.Parameter.empty, "patience": PATIENCE, "gradient_clip": GRADIENT_CLIP}
"""Defaults of `abscert baseline train` that differ from those of `abscert train`; a method has to be named."""


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = manual.Commands(help="Certified training by other methods, on the same data, networks, loop and verifier.")
    train_baseline.__signature__ = _with_defaults(train.train, **_COMPARED)  # type: ignore[attr-defined]
    group.command("train", help=_TRAIN_HELP, epilog=_TRAIN)(train_baseline)
    group.command("certify", epilog=_CERTIFY)(certify)
    group.command("list", epilog=_LIST)(list_methods)
    app.add_typer(group, name="baseline", rich_help_panel=manual.COMPARE)


@wraps(train.train, assigned=[name for name in WRAPPER_ASSIGNMENTS if name.startswith("__annot")])  # its options
def train_baseline(**given: Any) -> None:
    """Train by `abscert train`, with the defaults that comparisons have for every method."""
    from abscert_plugin.training.methods import METHODS

    name, radius = given["method"], given["radius"]
    is_unused = radius is not None and not METHODS.named(name).takes_radius and given["edges"] is None
    if is_unused:
        Radius.parse(radius, given["radius_scale"])
        given |= {"radius": None, "radius_scale": RadiusScale.PIXEL}
    train.train(**given)
    if is_unused:
        LOG.print(f"note: {name} trains for no ball: --radius was left aside", highlight=False)


def _with_defaults(function: Callable[..., None], **defaults: Any) -> inspect.Signature:
    """Return the signature of a command with other defaults for some of its options."""
    signature = inspect.signature(function)
    chosen = [
        one.replace(kind=one.KEYWORD_ONLY, default=defaults.get(one.name, one.default))
        for one in signature.parameters.values()
    ]
    return signature.replace(parameters=chosen)


def certify(  # one parameter per option
    run: Annotated[
        Path, typer.Argument(help="Folder of a training, or its deploy.onnx.", autocompletion=completion.model)
    ],
    radius: options.KnownRadius = None,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    inputs: options.InputsName = "float",
    data: options.KnownData = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    bound: options.BoundName = None,
    timeout: options.Timeout = 10.0,
    limit: options.Limit = None,
    batch_size: options.DecidedTogether = None,
    provider: options.ProviderName = Provider.AUTO,
    out: options.RecordsOut = None,
    certificate: options.CertificateOut = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
) -> None:
    """Decide the claim `ball` for every test image: `abscert verify --claim ball` with the training's own network."""
    from abscert_plugin.artifact.write import DEPLOY

    is_folder = run.is_dir()
    verify.verify(
        model=run / DEPLOY if is_folder else run,
        data=data,
        data_dir=data_dir,
        image_size=image_size,
        claim=Claim.BALL,
        radius=radius,
        radius_scale=radius_scale,
        inputs=inputs,
        bound=bound,
        timeout=timeout,
        checkpoint=run if is_folder else None,
        limit=limit,
        batch_size=batch_size,
        provider=provider,
        out=out,
        certificate=certificate,
        fresh=fresh,
        json=json,
    )


def list_methods(
    name: Annotated[
        str | None,
        typer.Argument(help="A method to look at closely.  [default: list all]", autocompletion=completion.method),
    ] = None,
    json: options.Json = False,
) -> None:
    """List the methods, what they do, their papers, and their options with meaning, default and range."""
    from abscert_plugin.training.methods import METHODS

    chosen = list(METHODS.values()) if name is None else [METHODS.named(name)]
    if json:
        print_json({"methods": [_facts(row) for row in chosen]})
        return
    if name is None:
        table = Table(title="methods (`abscert train --method NAME`)", title_justify="left")
        for title in ("name", "what its loss is", "source"):
            table.add_column(title, no_wrap=title == "name")
        for row in chosen:
            table.add_row(row.name, row.summary, row.source)
        OUT.print(table)
    for row in chosen:
        _print_options(row)


def _facts(row: "MethodEntry") -> dict[str, Any]:
    return {
        "name": row.name,
        "summary": row.summary,
        "source": row.source,
        "takes_radius": row.takes_radius,
        "options": [asdict(facts) for facts in row.option_facts],
    }


def _print_options(row: "MethodEntry") -> None:
    """Print the options of a method as a table, a row for each."""
    radius = "; --radius is the ball to train for" if row.takes_radius else ""
    if not row.option_facts:
        OUT.print(f"{row.name} ({row.source}): no options{radius}", highlight=False)
        return
    table = Table(title=f"{row.name} ({row.source}): --set NAME=VALUE{radius}", title_justify="left")
    for title in ("name", "what it is", "default", "values"):
        table.add_column(title, no_wrap=title in ("name", "default"))
    for facts in row.option_facts:
        table.add_row(facts.name, facts.meaning, facts.default, facts.range)
    OUT.print(table)
