"""`abscert train` and `abscert tune`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer
from rich.progress import Progress, TaskID
from rich.table import Table

from abscert_plugin.cli import options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json, progress_bar
from abscert_plugin.errors import ConfigError

# torch is imported when a command that trains is run: `abscert verify` must start without it.
if TYPE_CHECKING:
    from abscert_plugin.training.run import RunSpec, TrainedRun
    from abscert_plugin.training.tuning import Tuned, TuningStep

Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training split.  [default: by data set]")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images per step.  [default: by data set]")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Adam's rate at its peak.  [default: by data set]")]
Patience = Annotated[
    int | None, typer.Option("--patience", help="End after so many epochs without a lower loss; 0: never.")
]
AugmentationName = Annotated[str | None, typer.Option("--augmentation", help="none or cifar.  [default: by data set]")]
Device = Annotated[options.DeviceName, typer.Option("--device", help="Where to train.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="auto, float32 or bfloat16.")]


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("train")(train)
    app.command("tune")(tune)


def train(  # one parameter per option
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, ONNX files and history.")],
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    network: options.Network = "dm-small",
    activation: options.ActivationName = "relu",
    cells: options.Cells = None,
    granularity: options.Granularity = None,
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
    """Train an interval network (Algorithm 2) and export it; the epoch is chosen on the validation split."""
    from abscert_plugin.training.run import TrainingData, prepare_folder, run_training, write_run

    chosen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "augmentation": augmentation,
        "precision": precision,
        "seed": seed,
    }
    grid = options.chosen_grid(cells, granularity)
    spec = make_spec(data, data_dir, image_size, network, activation, grid.cells, device, chosen)
    prepare_folder(out, resume)
    loaded = TrainingData.load(spec)
    with progress_bar() as bar, interruptible(f"add --resume to go on with {out}"):
        run = run_training(spec, loaded, out, ProgressObserver(bar, f"training, {grid.cells} cells"))
    exported = write_run(run, loaded, out)
    if json:
        print_json({**facts(run), "deploy": str(exported.deploy), "abstract": str(exported.abstract)})
        return
    OUT.print(training_table(run))
    OUT.print(f"wrote {exported.deploy} and {exported.abstract}", highlight=False, soft_wrap=True)


def tune(
    out: Annotated[Path, typer.Option("--out", help="Folder for every step's training and the best one's ONNX files.")],
    radius: options.Radius,
    radius_scale: options.RadiusScaleName = options.RadiusScale.PIXEL,
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    network: options.Network = "dm-small",
    activation: options.ActivationName = "relu",
    coarsest: Annotated[int, typer.Option("--coarsest", help="Number of cells to begin with.")] = 2,
    least_step: Annotated[float, typer.Option("--least-step", help="Least change of d from step to step.")] = 0.01,
    steps: Annotated[int | None, typer.Option("--steps", help="End after so many steps.  [default: all]")] = None,
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
    from abscert_plugin.training.run import TrainingData, prepare_folder, run_training, write_run
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
    tuning = TuningConfig(options.pixel_radius(radius, radius_scale), coarsest, least_step, steps)
    spec = make_spec(data, data_dir, image_size, network, activation, coarsest, device, chosen)
    prepare_folder(out, resume)
    if (out / FILE_NAME).exists() and not resume:
        raise ConfigError(f"{out} already holds a tuning; add --resume to go on with it, or choose another --out")
    loaded = TrainingData.load(spec)
    with progress_bar() as bar, interruptible(f"add --resume to go on with {out}"):
        tuned = run_tuning(
            spec,
            tuning,
            loaded,
            out,
            lambda count: ProgressObserver(bar, f"training, {count} cells"),
            lambda step: LOG.print(step_line(step), highlight=False),
        )
        best = replace(spec, cells=tuned.best.cells)
        # the training is finished, so this only reads its checkpoint
        run = run_training(best, loaded, step_folder(out, best.cells), ProgressObserver(bar, "reading the best"))
    exported = write_run(run, loaded, out)
    if json:
        print_json({"best_cells": tuned.best.cells, "deploy": str(exported.deploy), **facts(run)})
        return
    OUT.print(tuning_table(tuned))
    OUT.print(f"wrote {exported.deploy} and {exported.abstract}", highlight=False, soft_wrap=True)


def make_spec(
    data: str,
    data_dir: Path | None,
    image_size: int | None,
    network: str,
    activation: str,
    cells: int,
    device: str,
    chosen: Mapping[str, Any],
) -> "RunSpec":
    """Return what to train: the data set's defaults with the options that were given.

    Raises:
        ConfigError: if an option has no meaning.
    """
    from abscert_plugin.networks import Activation
    from abscert_plugin.training.config import Augmentation, Precision, default_config
    from abscert_plugin.training.run import RunSpec

    named = {"augmentation": Augmentation, "precision": Precision}
    given = {key: value for key, value in chosen.items() if value is not None}
    for key, kind in named.items():
        if key in given:
            given[key] = _member(kind, key, given[key])
    training = replace(default_config(data, network), **given)
    return RunSpec(
        data, data_dir, image_size, network, _member(Activation, "activation", activation), cells, training, str(device)
    )


def _member(kind: Any, option: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(f"expected --{option} of {', '.join(kind)}, got {value!r}") from error


@final
class ProgressObserver:
    """Shows a training as a progress bar: loss, validation cell error, images a second, time left."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._title = title
        self._task: TaskID | None = None
        self._loss = self._error = ""

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task(self._title, total=total_steps, completed=steps_done, note="")

    def on_step(self, images: int, loss: float | None) -> None:  # noqa: ARG002 - steps are counted, not images
        """Advance the bar."""
        if self._task is None:
            return
        if loss is not None:
            self._loss = f"loss {loss:.4f}"
        self._bar.update(self._task, advance=1, note=f"{self._loss} {self._error}")

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Print the epoch's row above the bar."""
        self._error = f"validation cell error {row['validation_error']:.2%}"
        LOG.print(
            f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  {self._error}  {row['images_per_second']:,.0f} images/s",
            highlight=False,
        )


def facts(run: "TrainedRun") -> dict[str, Any]:
    """Return what a finished training amounts to."""
    return {
        "network": run.config.name,
        "activation": str(run.config.activation),
        "cells": run.grid.cells,
        "granularity": run.grid.granularity,
        "epochs": run.checkpoint.epoch,
        "best_epoch": run.checkpoint.best_epoch,
        "validation_cell_error": run.validation_error,
        "seconds": sum(row["seconds"] for row in run.checkpoint.history),
    }


def training_table(run: "TrainedRun") -> Table:
    """Return the facts of a training as a table."""
    table = Table(title="training (the epoch is chosen on the validation split, claim `cell`)", title_justify="left")
    for name in ("network", "cells", "d", "epochs", "best epoch", "validation cell error", "seconds"):
        table.add_column(name, justify="left" if name == "network" else "right")
    table.add_row(
        f"{run.config.name}, {run.config.activation}",
        str(run.grid.cells),
        f"{run.grid.granularity:.4g}",
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
        "validation cell error",
        "best epoch",
        "lower gradient",
        "upper gradient",
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
            ", ".join(notes),
            style="bold" if step is tuned.best else None,
        )
    return table
