"""`abscert guard`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.claim import RadiusScale
from abscert_plugin.cli import completion, foreign, manual, options
from abscert_plugin.cli.console import OUT, print_json
from abscert_plugin.errors import ConfigError

_EXAMPLE: Final = "abscert guard runs/ball --radius 0.1 --out runs/ball/guard.onnx"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("guard", epilog=_EXAMPLE, rich_help_panel=manual.DEPLOY)(guard)


def guard(  # one parameter per option
    model: Annotated[
        Path,
        typer.Argument(
            help="deploy.onnx, the folder of a training, or any ONNX classifier.", autocompletion=completion.model
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="The ONNX file to write.", metavar="FILE", rich_help_panel=manual.OUTPUT),
    ],
    radius: Annotated[
        list[str],
        typer.Option(
            "--radius",
            help="Radius, such as 0.1 or 8/255; may be repeated, a column each.",
            metavar="R",
            rich_help_panel=manual.CLAIM,
        ),
    ],
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    inputs: options.InputsName = "float",
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            help="What certifies: ibp, or crown-ibp, which certifies more and takes longer.",
            metavar="NAME",
            rich_help_panel=manual.CLAIM,
        ),
    ] = "ibp",
    largest: Annotated[
        bool,
        typer.Option(
            "--largest",
            help="Also answer the largest of these radii that is certified.",
            rich_help_panel=manual.CLAIM,
        ),
    ] = False,
    image_shape: foreign.ImageShape = None,
    layout: foreign.LayoutName = None,
    input_range: foreign.InputRange = None,
    mean: foreign.Mean = None,
    std: foreign.Std = None,
    output: foreign.Output = None,
    constant: foreign.Constants = None,
    json: options.Json = False,
) -> None:
    """Write a classifier that certifies every image it is given: logits, label, certified and margin, in plain ONNX.

    `certified` is true only where every image within the radius provably gets the label, in any order of the float32
    sums, on any runtime. `margin` is the proven lower bound of the label's logit over any other.
    """
    from abscert_plugin.artifact.foreign import open_classifier
    from abscert_plugin.ball import Ball
    from abscert_plugin.blackbox import Provider
    from abscert_plugin.bounds.bounder import BoundMethod
    from abscert_plugin.choices import member
    from abscert_plugin.claim import Inputs, Radius
    from abscert_plugin.guards.write import write_guard

    if out.suffix != ".onnx":
        raise ConfigError(f"expected --out as the name of an ONNX file, such as guard.onnx, got {out}")
    if out.exists() and model.exists() and out.resolve() == model.resolve():
        raise ConfigError(f"expected --out beside the model, got the model itself: {out}")
    kind = member(Inputs, "inputs", inputs)
    balls = [Ball(Radius.parse(text, radius_scale), kind) for text in radius]
    opening = foreign.opening(image_shape, layout, input_range, mean, std, output, constant)
    artifact = open_classifier(model, Provider.CPU, opening)
    write_guard(artifact, balls, out, largest, member(BoundMethod, "bound", bound))
    size = out.stat().st_size / model.stat().st_size
    if json:
        print_json({"guard": str(out), "radii": [str(ball.radius.given) for ball in balls], "size_ratio": size})
        return
    told = ", ".join(str(ball.radius) for ball in balls)
    OUT.print(f"wrote {out} for radius {told}: {size:.1f} times the size of {model}", highlight=False, soft_wrap=True)
