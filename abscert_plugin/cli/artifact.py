"""`abscert export` and `abscert wrap`."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.cli import options
from abscert_plugin.cli.console import LOG, OUT, print_json
from abscert_plugin.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("export")(export)
    app.command("wrap")(wrap)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training, as `abscert train --out` wrote it.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the ONNX files.  [default: the run's]")] = None,
    json: options.Json = False,
) -> None:
    """Write abstract.onnx and deploy.onnx of a training's best epoch, checked against torch."""
    import numpy as np

    from abscert_plugin.training.run import restore, write_onnx

    network, config, grid, checkpoint = restore(run)
    # random images of 8-bit pixels: an export needs no data set
    shape = (32, *config.image_shape)
    probes = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32) / np.float32(255)
    exported = write_onnx(network, config, grid, checkpoint, probes, out or run)
    if json:
        print_json({**exported.paths, "best_epoch": checkpoint.best_epoch})
        return
    OUT.print(
        f"wrote {' and '.join(exported.paths.values())} (epoch {checkpoint.best_epoch}, logits within "
        f"{exported.largest_difference:.1e} of torch's)",
        highlight=False,
        soft_wrap=True,
    )


def wrap(
    model: Annotated[Path, typer.Argument(help="Any ONNX classifier with one input.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for deploy.onnx and abstract.onnx.")],
    cells: options.Cells = None,
    granularity: options.Granularity = None,
    image_shape: Annotated[
        str | None, typer.Option("--image-shape", help="C,H,W of an image, where the model's input does not tell.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="nchw, nhwc or flat.  [default: by the model's input]")
    ] = None,
    input_range: Annotated[
        str, typer.Option("--input-range", help="What pixel 0 and pixel 1 are to the model: 0,1 or 0,255 or -1,1.")
    ] = "0,1",
    mean: Annotated[str, typer.Option("--mean", help="Subtracted, one value or one per channel.")] = "0",
    std: Annotated[str, typer.Option("--std", help="Divided by, one value or one per channel.")] = "1",
    output: Annotated[str | None, typer.Option("--output", help="Which output holds the logits.")] = None,
    json: options.Json = False,
) -> None:
    """Put any ONNX classifier under abstraction: phi in front, the cell's mid-point fed to the model."""
    from abscert_plugin.artifact.midpoint import InputScale, Layout
    from abscert_plugin.artifact.wrap import WrapOptions
    from abscert_plugin.artifact.wrap import wrap as write

    shape = None if image_shape is None else _shape(image_shape)
    low, high = _numbers("--input-range", input_range, 2)
    try:
        chosen_layout = None if layout is None else Layout(layout)
    except ValueError as error:
        raise ConfigError(f"expected --layout of {', '.join(Layout)}, got {layout!r}") from error
    wrapped = write(
        model,
        out,
        WrapOptions(
            grid=options.chosen_grid(cells, granularity),
            image_shape=shape,
            layout=chosen_layout,
            scale=InputScale((low, high), _numbers("--mean", mean), _numbers("--std", std)),
            output=output,
        ),
    )
    for note in wrapped.notes:
        LOG.print(f"note: {note}", highlight=False, soft_wrap=True)
    if json:
        print_json({"deploy": str(wrapped.deploy), "abstract": str(wrapped.abstract), "notes": list(wrapped.notes)})
        return
    OUT.print(f"wrote {wrapped.deploy} and {wrapped.abstract}", highlight=False, soft_wrap=True)


def _numbers(option: str, text: str, count: int | None = None) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"expected {option} as numbers joined by commas, got {text!r}") from error
    if count is not None and len(values) != count:
        raise ConfigError(f"expected {count} numbers in {option}, got {text!r}")
    return values


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"expected --image-shape as C,H,W, such as 3,224,224, got {text!r}") from error
    return channels, height, width
