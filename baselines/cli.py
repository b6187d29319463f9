"""`abscert baseline`: train by a method of the table, certify what came out, list the methods."""

import inspect
from collections.abc import Callable
from functools import WRAPPER_ASSIGNMENTS, wraps
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import options, train, verify
from abscert_plugin.cli.console import LOG, OUT, print_json

_COMPARED: Final = {"method": inspect.Parameter.empty, "patience": 0, "gradient_clip": 10.0}
"""Defaults of `abscert baseline train` that differ from those of `abscert train`; a method has to be named."""


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = typer.Typer(help="Certified training by other methods, on the same data, networks, loop and verifier.")
    train_baseline.__signature__ = _with_defaults(train.train, **_COMPARED)  # type: ignore[attr-defined]
    group.command("train", cls=options.NamesInHelp)(train_baseline)
    group.command("certify")(certify)
    group.command("list")(list_methods)
    app.add_typer(group, name="baseline")


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
    run: Annotated[Path, typer.Argument(help="Folder of a training, or its deploy.onnx.")],
    radius: options.Radius,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    inputs: options.InputsName = "float",
    data: options.KnownData = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    bound: options.BoundName = None,
    timeout: options.Timeout = 10.0,
    limit: options.Limit = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images that are decided together.  [default: by claim]")
    ] = None,
    provider: Annotated[Provider, typer.Option("--provider", help="Where to run.")] = Provider.AUTO,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the records.  [default: beside the model]")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Also write all verdicts into one file for `abscert check`.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Rename a former run in --out and start anew.")] = False,
    json: options.Json = False,
) -> None:
    """Decide the claim `ball` for every test image: `abscert verify --claim ball` with the training's own network."""
    is_folder = run.is_dir()
    verify.verify(
        model=run / "deploy.onnx" if is_folder else run,
        data=data,
        data_dir=data_dir,
        image_size=image_size,
        claim=options.ClaimName.BALL,
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


def list_methods(json: options.Json = False) -> None:
    """List the methods, what they do, their papers and options."""
    from abscert_plugin.training.methods import METHODS

    if json:
        rows = [
            {"name": row.name, "summary": row.summary, "source": row.source, "options": list(row.option_names)}
            for row in METHODS.values()
        ]
        print_json({"methods": rows})
        return
    table = Table(title="methods (`abscert train --method NAME`)", title_justify="left")
    for name in ("name", "what its loss is", "source", "options (--set NAME=VALUE)"):
        table.add_column(name, no_wrap=name == "name")
    for row in METHODS.values():
        table.add_row(row.name, row.summary, row.source, ", ".join(row.option_names))
    OUT.print(table)
