"""`abscert train` and `abscert tune`."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from abscert_plugin.choices import member
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import manual, options
from abscert_plugin.cli import method as method_options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json, say
from abscert_plugin.cli.progress import ProgressObserver, progress_bar, working
from abscert_plugin.cli.watching import PAGE, Watchers
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.memory import keep_freed_memory

# torch is imported when a command that trains is run: `abscert verify` must start without it.
if TYPE_CHECKING:
    from abscert_plugin.training.method import Method
    from abscert_plugin.training.run import TrainedRun
    from abscert_plugin.training.tuning import Tuned, TuningStep


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
    _training("--augmentation", help="none, cifar or shift.  [default: by data set]", metavar="NAME"),
]
Device = Annotated[options.DeviceName, typer.Option("--device", help="Where to train.", rich_help_panel=manual.RUNNING)]
GradientClip = Annotated[
    float | None, _training("--gradient-clip", help="Greatest norm of a step's gradient.  [default: by the method]")
]
Average = Annotated[float, _training("--average", help="Keep a moving average of the weights, such as 0.999; 0: none.")]
PrecisionName = Annotated[str, _training("--precision", help="auto, float32 or bfloat16.", metavar="NAME")]
_EXAMPLE = "abscert train --data mnist --method reachable --radius 0.1 --cells 2 --out runs/ball"
_TUNE_EXAMPLE = "abscert tune --data mnist --radius 0.05 --out runs/tuned"

Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help=f"Write {PAGE} into --out after each epoch: curves, and the epoch that is kept.",
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
    """Add the subcommands."""
    app.command("train", epilog=_EXAMPLE, rich_help_panel=manual.TRAIN)(train)
    app.command("tune", epilog=_TUNE_EXAMPLE, rich_help_panel=manual.TRAIN)(tune)


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
    from abscert_plugin.training.checkpoint import FILE_NAME
    from abscert_plugin.training.edges import EdgeChoice
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
    prepare_folder(out, resume)
    _say_what_is_resumed(out / FILE_NAME, resume)
    with working(f"reading {data}"):
        loaded = TrainingData.load(spec)
    keep_freed_memory()
    title = f"training by {method}" + (f", {grid.cells} cells" if grid is not None else "")
    with (
        progress_bar() as bar,
        interruptible(f"add --resume to go on with {out}"),
        watchers.watching(out, spec, ProgressObserver(bar, title, claimed(how))) as observer,
    ):
        trained = carry_out(spec, loaded, out, observer, choice, ball)
    if json:
        print_json({**facts(trained.run), **trained.exported.paths})
        return
    OUT.print(training_table(trained.run))
    OUT.print(f"wrote {' and '.join(trained.exported.paths.values())}", highlight=False, soft_wrap=True)


def tune(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for every step's training and the best one's ONNX files.",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ],
    radius: options.Radius,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    network: options.Network = "dm-small",
    activation: options.ActivationName = "relu",
    coarsest: Annotated[
        int, typer.Option("--coarsest", help="Number of cells to begin with.", rich_help_panel=manual.METHOD)
    ] = 2,
    least_step: Annotated[
        float, typer.Option("--least-step", help="Least change of d from step to step.", rich_help_panel=manual.METHOD)
    ] = 0.01,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="End after so many steps.  [default: all]", rich_help_panel=manual.METHOD),
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: Rate = None,
    patience: Patience = None,
    augmentation: AugmentationName = None,
    precision: PrecisionName = "auto",
    seed: options.Seed = 0,
    device: Device = options.DeviceName.AUTO,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Tune the number of cells (Algorithm 3): from coarse to fine, until the ends' gradients say stop."""
    from abscert_plugin.training.run import TrainingData, make_spec, prepare_folder, run_training, write_run
    from abscert_plugin.training.tuning import FILE_NAME, TuningConfig, step_folder
    from abscert_plugin.training.tuning import tune as run_tuning

    chosen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "augmentation": augmentation,
        "precision": precision,
        "seed": seed,
    }
    tuning = TuningConfig(float(Radius.parse(radius, radius_scale).pixel), coarsest, least_step, steps)
    spec = make_spec(data, data_dir, image_size, network, activation, Grid(coarsest), device, chosen)
    prepare_folder(out, resume)
    if (out / FILE_NAME).exists() and not resume:
        raise ConfigError(f"{out} already holds a tuning; add --resume to go on with it, or choose another --out")
    _say_what_is_resumed(out / FILE_NAME, resume)
    with working(f"reading {data}"):
        loaded = TrainingData.load(spec)
    keep_freed_memory()
    with progress_bar() as bar, interruptible(f"add --resume to go on with {out}"):
        tuned = run_tuning(
            spec,
            tuning,
            loaded,
            out,
            lambda count: ProgressObserver(bar, f"training, {count} cells"),
            lambda step: LOG.print(step_line(step), highlight=False),
        )
        cells = tuned.best.cells
        best = replace(spec, grid=Grid(cells))
        # the training is finished, so this only reads its checkpoint
        run = run_training(best, loaded, step_folder(out, cells), ProgressObserver(bar, "reading the best"))
    exported = write_run(run, loaded, out)
    if json:
        print_json({"best_cells": tuned.best.cells, "deploy": str(exported.deploy), **facts(run)})
        return
    OUT.print(tuning_table(tuned))
    OUT.print(f"wrote {' and '.join(exported.paths.values())}", highlight=False, soft_wrap=True)


def _say_what_is_resumed(path: Path, resume: bool) -> None:
    """Say that --resume found nothing, where it did not."""
    if resume and not path.exists():
        say(f"note: nothing to resume in {path.parent}, which has no {path.name}: it begins anew")


def claimed(method: "Method") -> str:
    """Return what a method's validation error is of; a ball with its radius and scale."""
    how = method.describe()
    is_ball = method.claim == "ball" and "radius" in how
    return f"{method.claim}, radius {_written(how['radius'])} {how['radius_scale']}" if is_ball else method.claim


def _written(radius: str) -> str:
    return Radius(Fraction(radius), RadiusScale.TRAINING).written  # a scale on which all have a meaning


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
        f"validation_{run.objective.claim}_error": run.validation_error,
        "seconds": sum(row["seconds"] for row in run.checkpoint.history),
    }


def training_table(run: "TrainedRun") -> Table:
    """Return the facts of a training as a table."""
    claim = run.objective.claim
    how = run.checkpoint.description["method_options"]
    radius = f", radius {_written(how['radius'])} on the {how['radius_scale']} scale" if "radius" in how else ""
    title = f"training (the epoch is chosen on the validation split, claim `{claim}`{radius})"
    table = Table(title=title, title_justify="left")
    for name in ("network", "cells", "d", "epochs", "best epoch", f"validation {claim} error", "seconds"):
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


def step_line(step: "TuningStep") -> str:
    """Return a tuning step in one line."""
    return (
        f"{step.cells} cells (d = {step.granularity:.4g}): validation cell error {step.validation_error:.2%}, mean "
        f"gradient lower {step.lower_gradient:+.2e}, upper {step.upper_gradient:+.2e}{': stop' if step.stops else ''}"
    )


def tuning_table(tuned: "Tuned") -> Table:
    """Return all steps of a tuning as a table; the best is marked."""
    table = Table(title="tuning (validation split, claim `cell`)", title_justify="left")
    for name in (
        "cells",
        "d",
        "validation\ncell error",
        "best\nepoch",
        "lower\ngradient",
        "upper\ngradient",
        "seconds",
        "",
    ):
        table.add_column(name, justify="right")
    for step in tuned.steps:
        notes = [*(["best"] if step is tuned.best else []), *(["stop"] if step.stops else [])]
        table.add_row(
            str(step.cells),
            f"{step.granularity:.4g}",
            f"{step.validation_error:.2%}",
            str(step.best_epoch),
            f"{step.lower_gradient:+.2e}",
            f"{step.upper_gradient:+.2e}",
            f"{step.seconds:.1f}",
            "\n".join(notes),
            style="bold" if step is tuned.best else None,
        )
    return table
