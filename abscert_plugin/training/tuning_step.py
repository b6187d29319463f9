"""A step of a tuning, as its file keeps it."""

from pathlib import Path
from typing import Final, final

import msgspec

TUNING: Final = "tune.json"
"""The file of a tuning's steps."""


@final
class TuningStep(msgspec.Struct, frozen=True):
    """One row of the tuning's table.

    Args:
        cells: number of cells; `granularity` is the paper's d.
        validation_error: cell error on the validation split, 0 to 1.
        best_epoch, epochs: the epoch chosen, and how many were run.
        lower_gradient, upper_gradient: mean gradient of the loss at the lower and at the upper ends.
        seconds: time of the training.
        stops: whether the gradients end the tuning here.
    """

    cells: int
    granularity: float
    validation_error: float
    best_epoch: int
    epochs: int
    lower_gradient: float
    upper_gradient: float
    seconds: float
    stops: bool


def step_folder(folder: Path, cells: int) -> Path:
    """Return the folder of the training of a step, below that of the tuning."""
    return folder / f"cells-{cells:03d}"
