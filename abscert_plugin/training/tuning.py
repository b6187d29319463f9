"""Algorithm 3 of the paper: from coarse to fine cells, retraining at each step, until the gradient says stop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import CheckpointError, ConfigError, TrainingError
from abscert_plugin.files import read_json, write_json
from abscert_plugin.folders import alone_in
from abscert_plugin.grid import Grid
from abscert_plugin.training.checkpoint import check_same
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import Observer
from abscert_plugin.training.run import RunSpec, TrainedRun, TrainingData, run_training
from abscert_plugin.training.tuning_step import TUNING, TuningStep, step_folder
from abscert_plugin.wording import plain_words

_BATCH: Final = 500
_MOST_CELLS: Final = 255  # that the search goes up to: 8-bit images have no more to tell apart


@final
@dataclass(frozen=True, slots=True)
class TuningConfig:
    """Which cells to try.

    Args:
        radius: pixel-scale radius r; cells stay at least twice the paper's epsilon wide (d >= 2 epsilon, and
            epsilon = 2 r on the training scale), so N <= 1 / (2 r).
        coarsest: number of cells to begin with.
        least_step: least change of the granularity d from one step to the next (paper's code: 0.01).
        most_steps: end after so many steps; None tries all.

    Raises:
        ConfigError: if a value has no meaning, or no number of cells is left to try.
    """

    radius: float
    coarsest: int = 2
    least_step: float = 0.01
    most_steps: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ConfigError(f"expected a radius above 0 (pixel scale), got {self.radius}")
        if not 1 <= self.coarsest <= self.finest:
            raise ConfigError(
                f"expected a coarsest number of cells from 1 to {self.finest}, the finest whose cells are twice the "
                f"radius wide, got {self.coarsest}"
            )
        if not (math.isfinite(self.least_step) and self.least_step > 0):
            raise ConfigError(f"expected a least step above 0, got {self.least_step}")
        if self.most_steps is not None and self.most_steps < 1:
            raise ConfigError(f"expected at least 1 step, got {self.most_steps}")

    @property
    def finest(self) -> int:
        """The largest number of cells with d >= 2 epsilon."""
        return math.floor(min(_MOST_CELLS, 1 / (2 * self.radius) * (1 + 1e-12)))

    def cell_counts(self) -> list[int]:
        """Return the numbers of cells to try, from coarse to fine, ending with the finest."""
        counts = [self.coarsest]
        for cells in range(self.coarsest + 1, self.finest + 1):
            # 2 / 8 - 2 / 10 is less than 0.05 in floating point
            if 2 / counts[-1] - 2 / cells >= self.least_step * (1 - 1e-12) or cells == self.finest:
                counts.append(cells)
        return counts[: self.most_steps]


@final
@dataclass(frozen=True, slots=True)
class Tuned:
    """All steps, and which is the best: the least validation error, the coarser of equals."""

    steps: tuple[TuningStep, ...]

    @property
    def best(self) -> TuningStep:
        """The step to keep (Algorithm 3, lines 5 to 8)."""
        return min(self.steps, key=lambda step: step.validation_error)


def tune(
    spec: RunSpec,
    tuning: TuningConfig,
    data: TrainingData,
    out: Path,
    observer: Callable[[int], Observer],
    on_step: Callable[[TuningStep], object],
) -> Tuned:
    """Run Algorithm 3 in a folder, or go on with the tuning that is there.

    Args:
        spec: what to train; its number of cells is replaced at each step.
        tuning: which cells to try.
        data: training and validation splits; the best step is chosen on the latter.
        out: each step's training goes into `cells-NNN` below it.
        observer: returns who watches the training with so many cells.
        on_step: told of each finished step.

    Raises:
        CheckpointError: if the folder holds another tuning.
        RecordError: if another process is at work in it.

    Source: AbsCert paper, Algorithm 3.
    """
    description = {
        "tuning": asdict(tuning),
        "network": spec.network,
        "activation": str(spec.activation),
        "data_sha256": data.training.sha256,
        "validation_sha256": data.validation.sha256,
        "training": {
            key: value if isinstance(value, int | float | None) else str(value)
            for key, value in spec.training.describe().items()
        },
    }
    with alone_in(out):
        steps = _stored_steps(out, description)
        for cells in tuning.cell_counts()[len(steps) :]:
            if steps and steps[-1].stops:
                break
            run = run_training(replace(spec, grid=Grid(cells)), data, step_folder(out, cells), observer(cells))
            steps.append(_row(run, data.training))
            write_json(out / TUNING, {"description": description, "steps": msgspec.to_builtins(steps)})
            on_step(steps[-1])
    return Tuned(tuple(steps))


def mean_gradients(run: TrainedRun, data: DataSet) -> tuple[float, float]:
    """Return the mean gradient of the loss at the lower and at the upper ends, over all pixels of a split.

    The first C channels of an interval image are its lower ends, the last C its upper ends.

    Raises:
        TrainingError: if they are not finite numbers.

    Source: AbsCert paper, Algorithm 3, line 10.
    """
    feed = Feed(data, run.device)
    totals = torch.zeros(2, dtype=torch.float64)
    count = 0
    for images, labels in feed.batches(torch.arange(len(feed)), _BATCH):
        inputs = run.objective.encode(images).requires_grad_()
        loss: Tensor = functional.cross_entropy(run.network(inputs), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        lower, upper = gradient.chunk(2, dim=1)
        totals += torch.stack([lower.double().sum(), upper.double().sum()]).cpu()
        count += lower.numel()
    lower_mean, upper_mean = (totals / count).tolist()
    if not (math.isfinite(lower_mean) and math.isfinite(upper_mean)):
        raise TrainingError(f"the mean gradients are {lower_mean} and {upper_mean}; lower --learning-rate")
    return lower_mean, upper_mean


def _row(run: TrainedRun, data: DataSet) -> TuningStep:
    lower, upper = mean_gradients(run, data)
    assert run.grid is not None
    return TuningStep(
        cells=run.grid.cells,
        granularity=run.grid.granularity,
        validation_error=run.validation_error,
        best_epoch=run.checkpoint.best_epoch,
        epochs=run.checkpoint.epoch,
        lower_gradient=lower,
        upper_gradient=upper,
        seconds=sum(row["seconds"] for row in run.checkpoint.history),
        stops=upper < 0 < lower,
    )


def _with_none(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored description; files of former versions have the word None of a training's options that are none.

    No option is a word that anyone would call None: `None` stands for a number that is not given.
    """
    training = stored.get("training")
    if not isinstance(training, dict):
        return stored
    return {**stored, "training": {key: None if value == "None" else value for key, value in training.items()}}


def _stored_steps(out: Path, description: Mapping[str, Any]) -> list[TuningStep]:
    if not (out / TUNING).exists():
        return []
    value = read_json(out / TUNING)
    try:
        if not isinstance(value["description"], dict):
            raise TypeError("expected a description of names and values")
        check_same(_with_none(value["description"]), description, out)
        return msgspec.convert(value["steps"], list[TuningStep])
    except (KeyError, AttributeError, TypeError, msgspec.ValidationError) as error:
        raise CheckpointError(
            f"{out / TUNING} is not a tuning's file: {plain_words(error)}; choose another --out"
        ) from error
