"""`abscert export` and `abscert wrap`."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.cli import foreign, options
from abscert_plugin.cli.console import LOG, OUT, print_json


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
    image_shape: foreign.ImageShape = None,
    layout: foreign.LayoutName = None,
    input_range: foreign.InputRange = None,
    mean: foreign.Mean = None,
    std: foreign.Std = None,
    output: foreign.Output = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, help="How many there are, for a model that gives labels alone.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Put any ONNX classifier under abstraction: phi in front, the cell's mid-point fed to the model."""
    from abscert_plugin.artifact.wrap import WrapOptions
    from abscert_plugin.artifact.wrap import wrap as write
    from abscert_plugin.preprocessing import Opening

    asked = foreign.opening(image_shape, layout, input_range, mean, std, output) or Opening()
    wrapped = write(
        model,
        out,
        WrapOptions(
            grid=options.chosen_grid(cells, granularity),
            image_shape=asked.image_shape,
            layout=asked.layout,
            scale=asked.scale,
            output=asked.output,
            labels=classes,
        ),
    )
    for note in wrapped.notes:
        LOG.print(f"note: {note}", highlight=False, soft_wrap=True)
    if json:
        print_json({"deploy": str(wrapped.deploy), "abstract": str(wrapped.abstract), "notes": list(wrapped.notes)})
        return
    OUT.print(f"wrote {wrapped.deploy} and {wrapped.abstract}", highlight=False, soft_wrap=True)
