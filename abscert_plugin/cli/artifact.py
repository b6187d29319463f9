"""`abscert export` and `abscert wrap`."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer

from abscert_plugin.api.looking import model_in
from abscert_plugin.artifact.model_file import need_content
from abscert_plugin.cli import completion, foreign, manual, options
from abscert_plugin.cli.console import LOG, OUT, print_json, say
from abscert_plugin.cli.progress import progress_bar
from abscert_plugin.errors import ConfigError

if TYPE_CHECKING:
    from abscert_plugin.data import DataSet

_EXPORT: Final = "abscert export runs/mnist --precision int8"
_WRAP: Final = "abscert wrap model.onnx --cells 64 --data mnist --out runs/wrapped"


class Represent(StrEnum):
    """What a wrapped classifier reads for a cell."""

    MIDPOINTS = "midpoints"
    MEANS = "means"


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("export", epilog=_EXPORT, rich_help_panel=manual.DEPLOY)(export)
    app.command("wrap", epilog=_WRAP, rich_help_panel=manual.DEPLOY)(wrap)


def export(  # one parameter per option
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a training, as `abscert train --out` wrote it, or, with --precision, a file.",
            autocompletion=completion.run_folder,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the ONNX files.  [default: the run's]",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Write deploy-PRECISION.onnx of deploy.onnx instead: its network in float16 or int8.  [default: none]",
            metavar="NAME",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Data set whose training images show the ranges (int8).  [default: the training's]",
            metavar="NAME",
            rich_help_panel=manual.DATA,
            autocompletion=completion.data,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    calibration: Annotated[
        int,
        typer.Option(
            "--calibration",
            min=1,
            help="How many of these images are run (int8).",
            metavar="N",
            rich_help_panel=manual.DATA,
        ),
    ] = 500,
    json: options.Json = False,
) -> None:
    """Write abstract.onnx and deploy.onnx of a training's best epoch, checked against torch, or one in fewer bits."""
    if precision is not None:
        _narrow(run, out, precision, (data, data_dir, image_size), calibration, json)
        return
    if (data, data_dir, image_size) != (None, None, None):
        raise ConfigError("expected --data, --data-dir and --image-size with --precision int8 alone")

    from abscert_plugin.api.exporting import export_training

    exported, checkpoint = export_training(run, out)
    if json:
        print_json({**exported.paths, "best_epoch": checkpoint.best_epoch})
        return
    OUT.print(
        f"wrote {' and '.join(exported.paths.values())} (epoch {checkpoint.best_epoch}, logits within "
        f"{exported.largest_difference:.1e} of torch's)",
        highlight=False,
        soft_wrap=True,
    )


def _narrow(
    run: Path,
    out: Path | None,
    precision: str,
    given: tuple[str | None, Path | None, int | None],
    calibration: int,
    json: bool,
) -> None:
    """Write a deployed file in fewer bits."""
    from abscert_plugin.api.exporting import narrow_file, open_deployed
    from abscert_plugin.artifact.precision import FilePrecision
    from abscert_plugin.choices import member
    from abscert_plugin.data import Split, load_data

    kind = member(FilePrecision, "precision", precision)
    source, images, note = open_deployed(run), None, ""
    data, data_dir, image_size = given
    if kind is FilePrecision.INT8:
        name, note = options.known_data(data, source.metadata.trained_on, "the model")
        images = load_data(name, Split.TRAIN, data_dir, image_size).first(calibration)
    elif (data, data_dir, image_size) != (None, None, None):
        raise ConfigError("expected --data, --data-dir and --image-size with --precision int8 alone")
    made, count = narrow_file(source, precision, out, images)
    say(note)
    size, former = made.path.stat().st_size, source.path.stat().st_size
    if json:
        print_json({"deploy": str(made.path), "bytes": size, "largest_difference": made.largest_difference})
        return
    OUT.print(
        f"wrote {made.path}: {size:,} bytes in place of {former:,}, logits within {made.largest_difference:.2g} of the "
        f"file's on {count:,} {'training' if kind is FilePrecision.INT8 else 'random'} images",
        highlight=False,
        soft_wrap=True,
    )


def wrap(
    model: Annotated[Path, typer.Argument(help="Any ONNX classifier with one input.", autocompletion=completion.model)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for deploy.onnx and abstract.onnx.",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ],
    cells: options.Cells = None,
    granularity: options.Granularity = None,
    lossless: Annotated[
        bool,
        typer.Option(
            "--lossless",
            help="256 cells, each of which stands for its own 8-bit value.",
            rich_help_panel=manual.METHOD,
        ),
    ] = False,
    represent: Annotated[
        Represent,
        typer.Option(
            "--represent",
            help="What a cell stands for: its mid-point, or the mean of --data in it.",
            rich_help_panel=manual.METHOD,
        ),
    ] = Represent.MIDPOINTS,
    image_shape: foreign.ImageShape = None,
    layout: foreign.LayoutName = None,
    input_range: foreign.InputRange = None,
    mean: foreign.Mean = None,
    std: foreign.Std = None,
    output: foreign.Output = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            min=2,
            help="How many there are, for a model that gives labels alone.  [default: as many as --data has]",
            metavar="N",
            rich_help_panel=manual.MODEL_INPUT,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Data set on which to compare the accuracy with the model's own.  [default: none]",
            metavar="NAME",
            rich_help_panel=manual.DATA,
            autocompletion=completion.data,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    json: options.Json = False,
) -> None:
    """Put any ONNX classifier under abstraction: phi in front, a point of the cell fed to the model."""
    model, found = model_in(model)
    need_content(model)  # before torch is imported, which takes seconds

    from abscert_plugin.api.exporting import wrap_file
    from abscert_plugin.api.grids import wrapping_grid
    from abscert_plugin.artifact.foreign import open_foreign
    from abscert_plugin.artifact.opened import Artifact
    from abscert_plugin.blackbox import Provider
    from abscert_plugin.data import Split, load_data
    from abscert_plugin.preprocessing import Opening

    if represent is Represent.MEANS and (lossless or data is None):
        raise ConfigError("expected --data to count pixels of, and no --lossless, with --represent means")
    grid = wrapping_grid(cells, granularity, lossless)
    asked = foreign.opening(image_shape, layout, input_range, mean, std, output) or Opening()
    images = None if data is None else load_data(data, Split.TEST, data_dir, image_size)
    if images is not None:
        asked = replace(asked, image_shape=asked.image_shape or images.shape)
        classes = classes or len(images.classes)
    options.note_one_cell(grid)
    counted = None
    if represent is Represent.MEANS and data is not None:
        counted = load_data(data, Split.TRAIN, data_dir, image_size)
    wrapped = wrap_file(model, out, grid, asked, classes, lossless, counted)
    say(found)
    for note in wrapped.notes:
        LOG.print(f"note: {note}", highlight=False, soft_wrap=True)
    accuracies = {}
    if images is not None:
        original = open_foreign(model, Provider.CPU, asked, images.shape, classes)
        accuracies = {
            name: _measured(run, images, title)
            for name, run, title in (
                ("accuracy", original.run_images, "running the model"),
                ("wrapped_accuracy", Artifact.open(wrapped.deploy, Provider.CPU).run_images, "running deploy.onnx"),
            )
        }
    if json:
        facts = {"deploy": str(wrapped.deploy), "abstract": str(wrapped.abstract), "notes": list(wrapped.notes)}
        print_json({**facts, **accuracies})
        return
    OUT.print(f"wrote {wrapped.deploy} and {wrapped.abstract}", highlight=False, soft_wrap=True)
    if accuracies:
        told = "{accuracy:.2%} as the model is, {wrapped_accuracy:.2%} under abstraction".format(**accuracies)
        OUT.print(f"accuracy on {data}: {told}", highlight=False)


def _measured(run: Callable[[np.ndarray], np.ndarray], images: "DataSet", title: str) -> float:
    """Return the accuracy of a file on images, which takes a while."""
    from abscert_plugin.verification.logits import accuracy

    with progress_bar() as bar:
        task = bar.add_task(title, total=len(images), note="")
        return accuracy(run, images, lambda count: bar.advance(task, count))
