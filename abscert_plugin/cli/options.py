"""Options that mean the same in every subcommand."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from abscert_plugin.api.grids import DEFAULT_CELLS
from abscert_plugin.api.guess import DEFAULT_DATA
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import DECIDED_AT_ONCE, Claim, RadiusScale
from abscert_plugin.cli import completion, manual
from abscert_plugin.cli.console import LOG
from abscert_plugin.grid import ONE_CELL, Grid


class DeviceName(StrEnum):
    """Where a network is trained."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data: TypeAlias = Annotated[
    str,
    typer.Option("--data", help="{data}.", metavar="NAME", rich_help_panel=manual.DATA, autocompletion=completion.data),
]
KnownData: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="{data}.  [default: the one that the file names, else digits]",
        metavar="NAME",
        rich_help_panel=manual.DATA,
        autocompletion=completion.data,
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the data set's files.  [default: $ABSCERT_DATA]",
        metavar="FOLDER",
        rich_help_panel=manual.DATA,
    ),
]
ImageSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        help="Resize and crop the images of --data folder or imagenet to this side.  "
        "[default: their own, 224 of imagenet]",
        rich_help_panel=manual.DATA,
    ),
]
Limit: TypeAlias = Annotated[
    int | None,
    typer.Option("--limit", help="Only the first so many images.  [default: all]", rich_help_panel=manual.DATA),
]
Cells: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--cells",
        help=f"Number of cells per pixel, 1 to 65,535.  [default: {DEFAULT_CELLS}]",
        rich_help_panel=manual.METHOD,
    ),
]
Granularity: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--granularity",
        help="Width d of a cell on the training scale, in place of --cells.  [default: by --cells]",
        rich_help_panel=manual.METHOD,
    ),
]
Network: TypeAlias = Annotated[
    str,
    typer.Option(
        "--network",
        help="{networks}.",
        metavar="NAME",
        rich_help_panel=manual.NETWORK,
        autocompletion=completion.network,
    ),
]
ActivationName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--activation",
        help="{activations}.",
        metavar="NAME",
        rich_help_panel=manual.NETWORK,
        autocompletion=completion.activation,
    ),
]
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", help="Seed of weights, order and augmentation.", rich_help_panel=manual.RUNNING)
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object on stdout and nothing else there.", rich_help_panel=manual.OUTPUT
    ),
]
Resume: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that --out holds.", rich_help_panel=manual.OUTPUT)
]
Fresh: TypeAlias = Annotated[
    bool,
    typer.Option("--fresh", help="Rename a former run in --out and start anew.", rich_help_panel=manual.OUTPUT),
]
RecordsOut: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the records.  [default: beside the model]",
        metavar="FOLDER",
        rich_help_panel=manual.OUTPUT,
    ),
]
CertificateOut: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        help="Also write all verdicts into this file for `abscert check`.  [default: none]",
        metavar="FILE",
        rich_help_panel=manual.OUTPUT,
    ),
]
DecidedTogether: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="Images that are decided together.  "
        f"[default: {DECIDED_AT_ONCE[Claim.CELL]}, of a ball {DECIDED_AT_ONCE[Claim.BALL]}, "
        "fewer where --timeout is long]",
        rich_help_panel=manual.RUNNING,
    ),
]
ProviderName: TypeAlias = Annotated[
    Provider, typer.Option("--provider", help="Where onnxruntime runs the file.", rich_help_panel=manual.RUNNING)
]
InputsName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--inputs",
        help="Images of the ball: float, or uint8 for those of 8 bits alone.",
        metavar="KIND",
        rich_help_panel=manual.CLAIM,
        autocompletion=completion.inputs,
    ),
]
BoundName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--bound",
        help="Decide by this bound alone: {bounds} (claim ball).  [default: all of them, then a search]",
        metavar="NAME",
        rich_help_panel=manual.ADVANCED,
        autocompletion=completion.bound,
    ),
]
ArithmeticName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--arithmetic",
        help="What verdicts hold for: any-order of the file's sums, wide-sums (those of float16 are held in float32), "
        "or this-runtime.  [default: any-order, or wide-sums of float16, where the file's graph can be read]",
        metavar="KIND",
        rich_help_panel=manual.ADVANCED,
        autocompletion=completion.arithmetic,
    ),
]
Timeout: TypeAlias = Annotated[
    float,
    typer.Option(
        "--timeout",
        help="Seconds an image (claim ball). With more than before, what was left open is decided again.",
        rich_help_panel=manual.RUNNING,
    ),
]
Exhaustive: TypeAlias = Annotated[
    int,
    typer.Option(
        "--exhaustive",
        help="Run all combinations of cells where there are no more than this.",
        rich_help_panel=manual.ADVANCED,
    ),
]
BlackBoxOnly: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--black-box", help="Run the file alone: no gradients, no bounds (claim ball).", rich_help_panel=manual.ADVANCED
    ),
]
CheckpointFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="The training's folder: open its network in place of the file's own (claim ball).  [default: the file's]",
        metavar="FOLDER",
        rich_help_panel=manual.ADVANCED,
        autocompletion=completion.run_folder,
    ),
]
Radius: TypeAlias = Annotated[
    str,
    typer.Option("--radius", help="Radius, such as 0.1 or 8/255.", metavar="R", rich_help_panel=manual.CLAIM),
]
KnownClaim: TypeAlias = Annotated[
    Claim | None,
    typer.Option(
        "--claim",
        help="What to decide.  [default: ball where --radius is given, else what the model was trained for]",
        rich_help_panel=manual.CLAIM,
    ),
]
KnownRadius: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--radius",
        help="Radius of the ball, such as 0.1 or 8/255.  [default: the one that the model was trained for]",
        metavar="R",
        rich_help_panel=manual.CLAIM,
    ),
]
RadiusScaleName: TypeAlias = Annotated[
    RadiusScale, typer.Option("--radius-scale", help="Scale of --radius.", rich_help_panel=manual.CLAIM)
]


def known_data(given: str | None, told: str | None, teller: str) -> tuple[str, str]:
    """Return the data set to use, and a line that says where its name comes from; empty where it was given.

    Args:
        given: what `--data` says.
        told: the name that a file gives; None where it gives none.
        teller: that file, in words.
    """
    if given is not None:
        return given, ""
    if told is None:
        return DEFAULT_DATA, f"note: {teller} names no data set; taking {DEFAULT_DATA}, choose another with --data"
    return told, f"note: taking the data set {told}, as {teller} says"


def note_one_cell(grid: Grid) -> None:
    """Say so where one cell decides nothing."""
    if grid.cells == 1:
        LOG.print(ONE_CELL, highlight=False)
