"""`abscert tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import manual, options, train
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json
from abscert_plugin.cli.progress import ProgressObserver, progress_bar, working
from abscert_plugin.cli.watching import watching_tuning
from abscert_plugin.grid import Grid
from abscert_plugin.memory import keep_freed_memory

# torch is imported when a command that trains is run: `abscert verify` must start without it.
if TYPE_CHECKING:
    from abscert_plugin.api.tuning import Tuning
    from abscert_plugin.training.loop import Observer
    from abscert_plugin.training.tuning_step import TuningStep

_EXAMPLE: Final = "abscert tune --data mnist --radius 0.05 --out runs/tuned"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("tune", epilog=_EXAMPLE, rich_help_panel=manual.TRAIN)(tune)


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
    epochs: train.Epochs = None,
    batch_size: train.BatchSize = None,
    learning_rate: train.Rate = None,
    patience: train.Patience = None,
    augmentation: train.AugmentationName = None,
    precision: train.PrecisionName = "auto",
    seed: options.Seed = 0,
    device: train.Device = options.DeviceName.AUTO,
    resume: options.Resume = False,
    watch: train.Watch = False,
    json: options.Json = False,
) -> None:
    """Tune the number of cells (Algorithm 3): from coarse to fine, until the ends' gradients say stop."""
    from abscert_plugin.api.tuning import carry_out_tuning, prepare_tuning
    from abscert_plugin.training.run import TrainingData, make_spec
    from abscert_plugin.training.tuning import TuningConfig
    from abscert_plugin.training.tuning_step import TUNING

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
    prepare_tuning(out, resume)
    train.say_what_is_resumed(out / TUNING, resume)
    with working(f"reading {data}"):
        loaded = TrainingData.load(spec)
    keep_freed_memory()
    with (
        progress_bar() as bar,
        interruptible(f"add --resume to go on with {out}"),
        watching_tuning(out, watch) as watcher,
    ):

        def observer(cells: int) -> "Observer":
            return watcher.observer(cells, ProgressObserver(bar, f"training, {cells} cells"))

        def on_step(step: "TuningStep") -> None:
            LOG.print(step_line(step), highlight=False)
            watcher.on_step(step.cells)

        tuned = carry_out_tuning(spec, tuning, loaded, out, observer, on_step)
    exported = tuned.trained.exported
    if json:
        told = {"best_cells": tuned.best.cells, "deploy": str(exported.deploy)}
        print_json({**told, **train.facts(tuned.trained.run)})
        return
    OUT.print(tuning_table(tuned))
    OUT.print(f"wrote {' and '.join(exported.paths.values())}", highlight=False, soft_wrap=True)


def step_line(step: "TuningStep") -> str:
    """Return a tuning step in one line."""
    return (
        f"{step.cells} cells (d = {step.granularity:.4g}): validation cell error {step.validation_error:.2%}, mean "
        f"gradient lower {step.lower_gradient:+.2e}, upper {step.upper_gradient:+.2e}{': stop' if step.stops else ''}"
    )


def tuning_table(tuned: "Tuning") -> Table:
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
