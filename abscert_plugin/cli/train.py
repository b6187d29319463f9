"""`abscert train`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from abscert_plugin.choices import member
from abscert_plugin.claim import RadiusScale
from abscert_plugin.cli import manual, options
from abscert_plugin.cli import method as method_options
from abscert_plugin.cli.console import OUT, interruptible, print_json, say
from abscert_plugin.cli.progress import ProgressObserver, progress_bar, working
from abscert_plugin.cli.watching import Watchers
from abscert_plugin.memory import keep_freed_memory
from abscert_plugin.records import CHECKPOINT
from abscert_plugin.report.training_page import claim_of

# torch is imported when a command that trains is run: `abscert verify` must start without it.
if TYPE_CHECKING:
    from abscert_plugin.training.run import TrainedRun


def _training(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=manual.TRAINING, **settings)


Epochs = Annotated[int | None, _training("--epochs", help="Passes over the training split.  [default: by data set]")]
BatchSize = Annotated[int | None, _training("--batch-size", help="Images per step.  [default: by data set]")]
Rate = Annotated[float | None, _training("--learning-rate", help="Rate at its peak.  [default: by data set]")]
Patience = Annotated[
    int | None,
    _training("--patience", help="End after so many epochs without a lower loss; 0: never.  [default: by the method]"),
]
AugmentationName = Annotated[
    str | None,
    _training("--augmentation", help="none, cifar, shift or elastic.  [default: by data set]", metavar="NAME"),
]
Device = Annotated[options.DeviceName, typer.Option("--device", help="Where to train.", rich_help_panel=manual.RUNNING)]
GradientClip = Annotated[
    float | None, _training("--gradient-clip", help="Greatest norm of a step's gradient.  [default: by the method]")
]
Average = Annotated[float, _training("--average", help="Keep a moving average of the weights, such as 0.999; 0: none.")]
PrecisionName = Annotated[str, _training("--precision", help="auto, float32 or bfloat16.", metavar="NAME")]
InitialWeights = Annotated[
    Path | None,
    _training(
        "--initial",
        help="Begin with the best weights of the training in this folder, or of its ONNX file.  [default: random]",
        metavar="PATH",
    ),
]
_EXAMPLE = "abscert train --data mnist --method reachable --radius 0.1 --cells 2 --out runs/ball"

Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Write a page into --out after each epoch: curves, and what is kept.",
        rich_help_panel=manual.OUTPUT,
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        help="Also log the epochs to tensorboard or mlflow; may be repeated.",
        metavar="NAME",
        rich_help_panel=manual.OUTPUT,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("train", epilog=_EXAMPLE, rich_help_panel=manual.TRAIN)(train)


def train(  # one parameter per option
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for checkpoints, ONNX files and history.",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ],
    method: method_options.MethodName = "abstrain",
    settings: method_options.Settings = None,
    radius: method_options.TrainingRadius = None,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    network: options.Network = "dm-small",
    activation: method_options.MethodActivation = None,
    cells: options.Cells = None,
    granularity: options.Granularity = None,
    edges: method_options.Edges = None,
    robust_loss: method_options.RobustLossName = None,
    bounds: method_options.BoundsName = None,
    share: method_options.Share = None,
    natural_end: method_options.NaturalEnd = None,
    ramp: method_options.Ramp = None,
    regulariser: method_options.Regulariser = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: Rate = None,
    patience: Patience = None,
    augmentation: AugmentationName = None,
    precision: PrecisionName = "auto",
    gradient_clip: GradientClip = None,
    average: Average = 0.0,
    initial: InitialWeights = None,
    seed: options.Seed = 0,
    device: Device = options.DeviceName.AUTO,
    resume: options.Resume = False,
    watch: Watch = False,
    log: Log = None,
    json: options.Json = False,
) -> None:
    """Train a network by a method and export it; the epoch is chosen on the validation split."""
    from abscert_plugin.api.grids import training_grid
    from abscert_plugin.api.training import carry_out, loop_options
    from abscert_plugin.training.edges import EdgeChoice
    from abscert_plugin.training.initial import Initial
    from abscert_plugin.training.methods import METHODS, chosen_method
    from abscert_plugin.training.run import TrainingData, make_spec, prepare_folder

    flags = {
        "robust_loss": robust_loss,
        "bounds": bounds,
        "share": share,
        "natural_end": natural_end,
        "ramp": ramp,
        "regulariser": regulariser,
    }
    watchers = Watchers.asked(watch, log or ())
    entry = METHODS.named(method)
    ball = method_options.chosen_radius(radius, radius_scale)
    choice = None if edges is None else member(EdgeChoice, "edges", edges)
    how = chosen_method(method, ball, method_options.chosen_settings(entry, settings or (), flags), choice)
    chosen = loop_options(
        entry,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        augmentation=augmentation,
        precision=precision,
        gradient_clip=gradient_clip,
        average=average,
        seed=seed,
    )
    grid = training_grid(how.takes_intervals, method, cells, granularity)
    if grid is not None:
        options.note_one_cell(grid)
    named = activation or str(entry.activation)
    spec = make_spec(data, data_dir, image_size, network, named, grid, device, chosen, how)
    if initial is not None:
        spec = replace(spec, initial=Initial.read(initial))
    prepare_folder(out, resume)
    say_what_is_resumed(out / CHECKPOINT, resume)
    with working(f"reading {data}"):
        loaded = TrainingData.load(spec)
    keep_freed_memory()
    said = {"claim": how.claim, "method_options": how.describe()}
    title = f"training by {method}" + (f", {grid.cells} cells" if grid is not None else "")
    with (
        progress_bar() as bar,
        interruptible(f"add --resume to go on with {out}"),
        watchers.watching(out, spec, ProgressObserver(bar, title, claim_of(said))) as observer,
    ):
        trained = carry_out(spec, loaded, out, observer, choice, ball)
    if json:
        print_json({**facts(trained.run), **trained.exported.paths})
        return
    OUT.print(training_table(trained.run))
    OUT.print(f"wrote {' and '.join(trained.exported.paths.values())}", highlight=False, soft_wrap=True)


def say_what_is_resumed(path: Path, resume: bool) -> None:
    """Say that --resume found nothing, where it did not."""
    if resume and not path.exists():
        say(f"note: nothing to resume in {path.parent}, which has no {path.name}: it begins anew")


def facts(run: "TrainedRun") -> dict[str, Any]:
    """Return what a finished training amounts to."""
    grid = run.grid
    return {
        "method": run.objective.name,
        "network": run.config.name,
        "activation": str(run.config.activation),
        "cells": None if grid is None else grid.cells,
        "granularity": None if grid is None else grid.granularity,
        "epochs": run.checkpoint.epoch,
        "best_epoch": run.checkpoint.best_epoch,
        "edges": None if grid is None else list(grid.inner_edges),
        "claim": run.objective.claim,
        f"validation_{run.validated}_error": run.validation_error,
        "seconds": sum(row["seconds"] for row in run.checkpoint.history),
    }


def training_table(run: "TrainedRun") -> Table:
    """Return the facts of a training as a table."""
    title = f"training (the epoch is chosen on the validation split: {claim_of(run.checkpoint.description)})"
    table = Table(title=title, title_justify="left")
    for name in ("network", "cells", "d", "epochs", "best epoch", f"validation error, {run.validated}", "seconds"):
        table.add_column(name, justify="left" if name == "network" else "right")
    table.add_row(
        f"{run.config.name}, {run.config.activation}",
        *(["none", ""] if run.grid is None else [str(run.grid.cells), f"{run.grid.granularity:.4g}"]),
        str(run.checkpoint.epoch),
        str(run.checkpoint.best_epoch),
        f"{run.validation_error:.2%}",
        f"{facts(run)['seconds']:.1f}",
    )
    return table
