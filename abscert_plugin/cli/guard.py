"""`abscert guard`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.api.looking import model_in
from abscert_plugin.artifact.model_file import need_content
from abscert_plugin.claim import RadiusScale
from abscert_plugin.cli import completion, foreign, manual, options
from abscert_plugin.cli.console import OUT, print_json, say
from abscert_plugin.cli.progress import telling

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
            autocompletion=completion.bound,
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
    model, found = model_in(model)
    need_content(model)  # before torch is imported, which takes seconds

    from abscert_plugin.api.guarding import check_target, make_guard
    from abscert_plugin.artifact.foreign import open_classifier
    from abscert_plugin.ball import Ball
    from abscert_plugin.blackbox import Provider
    from abscert_plugin.choices import member
    from abscert_plugin.claim import Inputs, Radius

    check_target(out, model)
    kind = member(Inputs, "inputs", inputs)
    balls = [Ball(Radius.parse(text, radius_scale), kind) for text in radius]
    opening = foreign.opening(image_shape, layout, input_range, mean, std, output, constant)
    with telling(f"writing the guard of {model.name}") as tell:
        make_guard(open_classifier(model, Provider.CPU, opening), out, balls, largest, bound, tell)
    say(found)
    size = out.stat().st_size / model.stat().st_size
    if json:
        print_json({"guard": str(out), "radii": [str(ball.radius.given) for ball in balls], "size_ratio": size})
        return
    told = ", ".join(str(ball.radius) for ball in balls)
    OUT.print(f"wrote {out} for radius {told}: {size:.1f} times the size of {model}", highlight=False, soft_wrap=True)
