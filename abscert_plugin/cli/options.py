"""Options that mean the same in every subcommand."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, final

import typer
from typer.core import TyperCommand, TyperOption

from abscert_plugin.claim import PROVABLE, Arithmetic, RadiusScale
from abscert_plugin.cli.console import LOG
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid

DEFAULT_CELLS: Final = 10
DEFAULT_DATA: Final = "digits"


class ClaimName(StrEnum):
    """The claims that `verify` decides."""

    CELL = "cell"
    BALL = "ball"


class DeviceName(StrEnum):
    """Where a network is trained."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data: TypeAlias = Annotated[str, typer.Option("--data", help="Data set; `abscert data` lists them.")]
KnownData: TypeAlias = Annotated[
    str | None,
    typer.Option("--data", help="Data set.  [default: the one that the file names, else digits]"),
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data set's files.  [default: $ABSCERT_DATA]")
]
ImageSize: TypeAlias = Annotated[
    int | None,
    typer.Option("--image-size", help="Resize and crop the images of --data folder or imagenet to this side."),
]
Cells: TypeAlias = Annotated[
    int | None, typer.Option("--cells", help=f"Number of cells per pixel, 1 to 65,535.  [default: {DEFAULT_CELLS}]")
]
Granularity: TypeAlias = Annotated[
    float | None, typer.Option("--granularity", help="Width d of a cell on the training scale, in place of --cells.")
]
Network: TypeAlias = Annotated[
    str,
    typer.Option("--network", help="{networks}."),
]
ActivationName: TypeAlias = Annotated[str, typer.Option("--activation", help="{activations}.")]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of weights, order and augmentation.")]
Limit: TypeAlias = Annotated[int | None, typer.Option("--limit", help="Only the first so many images.")]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]
Resume: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on with the run that --out holds.")]
InputsName: TypeAlias = Annotated[
    str, typer.Option("--inputs", help="Images of the ball: float, or uint8 for those of 8 bits alone.")
]
BoundName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--bound", help="Decide by this bound alone: ibp, crown-ibp, crown-lbp, crown or optimised (claim ball)."
    ),
]
ArithmeticName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--arithmetic",
        help="What verdicts hold for: any-order of the file's sums, wide-sums (those of float16 are held in float32), "
        "or this-runtime.  [default: any-order, or wide-sums of float16, where the file's graph can be read]",
    ),
]
Timeout: TypeAlias = Annotated[float, typer.Option("--timeout", help="Seconds an image (claim ball).")]
Exhaustive: TypeAlias = Annotated[
    int, typer.Option("--exhaustive", help="Run all combinations of cells where there are no more than this.")
]
BlackBoxOnly: TypeAlias = Annotated[
    bool, typer.Option("--black-box", help="Run the file alone: no gradients, no bounds (claim ball).")
]
CheckpointFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="The training's folder: open its network, not the file's own (claim ball)."),
]
Radius: TypeAlias = Annotated[str, typer.Option("--radius", help="Radius, such as 0.1 or 8/255.")]
RadiusScaleName: TypeAlias = Annotated[RadiusScale, typer.Option("--radius-scale", help="Scale of --radius.")]


@final
class NamesInHelp(TyperCommand):
    """A command whose help has the names of the tables, which need torch, in place of `{networks}` and the like."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from abscert_plugin.networks import NETWORKS, Activation
        from abscert_plugin.training.methods import METHODS

        names: dict[str, list[str]] = {
            "{networks}": list(NETWORKS),
            "{activations}": [str(name) for name in Activation],
            "{methods}": list(METHODS),
        }
        for option in (one for one in self.params if isinstance(one, TyperOption)):
            for word, those in names.items():
                option.help = (option.help or "").replace(word, ", ".join(those))
        super().format_help(ctx, formatter)


def asked_arithmetic(given: str | None) -> Arithmetic | None:
    """Return what `--arithmetic` asks for.

    Raises:
        ConfigError: if it is nothing that can be asked for.
    """
    if given not in (None, *PROVABLE, Arithmetic.THIS_RUNTIME):
        raise ConfigError(f"expected --arithmetic any-order, wide-sums or this-runtime, got {given!r}")
    return None if given is None else Arithmetic(given)


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
    return told, f"note: the data set is {told}, as {teller} says"


def chosen_grid(cells: int | None, granularity: float | None) -> Grid:
    """Return the grid that the two options ask for, and say so where one cell decides nothing.

    Raises:
        ConfigError: if both are given.
        GridError: if the grid cannot exist.
    """
    if cells is not None and granularity is not None:
        raise ConfigError("expected --cells or --granularity, got both; they say the same thing")
    grid = (
        Grid.from_granularity(granularity)
        if granularity is not None
        else Grid(DEFAULT_CELLS if cells is None else cells)
    )
    if grid.cells == 1:
        LOG.print("note: with one cell every image is the same to the network, so it decides nothing", highlight=False)
    return grid
