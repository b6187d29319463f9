"""A subcommand for abscert: `abscert metadata FILE` prints what an ONNX file of this project says of itself."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.cli import options
from abscert_plugin.cli.console import OUT, print_json


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("metadata")(metadata)


def metadata(
    model: Annotated[Path, typer.Argument(help="deploy.onnx or abstract.onnx.")], json: options.Json = False
) -> None:
    """Print the metadata of an ONNX file, after they were held against its graph."""
    properties = dict(Artifact.open(model, Provider.CPU).metadata.as_properties())
    if json:
        print_json(properties)
        return
    for name, value in properties.items():
        OUT.print(f"{name}: {value}", highlight=False, soft_wrap=True)
