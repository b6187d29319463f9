"""What `abscert.train` returns, and what it tells while it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, final

from numpy.typing import ArrayLike
from torch import nn

from abscert_plugin.api.arrays import Images
from abscert_plugin.api.guarding import Guard, guard
from abscert_plugin.api.radii import RadiusLike
from abscert_plugin.api.verdicts import Verdicts
from abscert_plugin.api.verifying import verify
from abscert_plugin.artifact.export import Exported
from abscert_plugin.grid import Grid
from abscert_plugin.training.run import TrainedRun, TrainingData, write_onnx


@final
@dataclass(frozen=True, slots=True)
class Epoch:
    """How a training stands after an epoch.

    Args:
        epoch: its number, from 1.
        epochs: how many there are at most.
        loss: mean loss of its steps.
        validation_error: share of the validation images that fail `claim`, 0 to 1.
        claim: what that error is of: `cell`, `ball`, or `clean` or `attacked`, which claim nothing.
        learning_rate: at its end.
        seconds: that its steps took.
        images_per_second: that were learned from.
        seconds_left: as far as the epochs so far tell.
        best_epoch: the epoch with the least validation error so far, whose weights are exported.
        best_error: that error.
    """

    epoch: int
    epochs: int
    loss: float
    validation_error: float
    claim: str
    learning_rate: float
    seconds: float
    images_per_second: float
    seconds_left: float
    best_epoch: int
    best_error: float


@final
class Trained:
    """A training that has ended, or was stopped, with its files.

    Attributes:
        folder: checkpoint, history.jsonl, run.json and the ONNX files; it goes with this object where no `out` was
            named.
        deploy: `deploy.onnx`, which takes pixels in [0, 1], of the best epoch.
        abstract: `abstract.onnx`, which takes interval images; None without cells.
        network: the torch network of the best epoch, in evaluation mode, which reads the training scale [-1, 1].
        run: all else that is known of it.
    """

    def __init__(self, run: TrainedRun, data: TrainingData, exported: Exported, folder: Path, holder: object) -> None:
        self.run = run
        self.folder = folder
        self.exported = exported
        self.deploy = exported.deploy
        self.abstract = exported.abstract
        self.network: nn.Module = run.network
        self._data = data
        self._holder = holder  # of a temporary folder

    @property
    def method(self) -> str:
        """The method's name; of a loss of one's own that of the function."""
        return self.run.objective.name

    @property
    def grid(self) -> Grid | None:
        """The cells; None without."""
        return self.run.grid

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """A row for each epoch: loss, validation_error, learning_rate, seconds, images_per_second."""
        return self.run.checkpoint.history

    @property
    def best_epoch(self) -> int:
        """The epoch with the least validation error, whose weights are exported."""
        return self.run.checkpoint.best_epoch

    @property
    def validation_error(self) -> float:
        """The best epoch's share of validation images that fail the method's claim, 0 to 1."""
        return self.run.validation_error

    @property
    def finished(self) -> bool:
        """Whether it has ended by itself; one that was stopped can be gone on with by `resume=True`."""
        return self.run.checkpoint.finished

    def verify(
        self,
        images: Images,
        labels: ArrayLike | None = None,
        radius: RadiusLike | None = None,
        claim: str | None = None,
        **options: Any,
    ) -> Verdicts:
        """Return the verdicts on images by `deploy.onnx`; see `abscert.verify`."""
        return verify(self.deploy, images, labels, radius, claim, **options)

    def guard(
        self, radius: RadiusLike | Sequence[RadiusLike], out: str | PathLike[str] | None = None, **options: Any
    ) -> Guard:
        """Write a classifier that certifies by itself, `guard.onnx` in the folder if no other is named.

        See `abscert.guard`.
        """
        return guard(self.deploy, self.folder / "guard.onnx" if out is None else out, radius, **options)

    def export(self, folder: str | PathLike[str]) -> Exported:
        """Write the ONNX files of the best epoch into another folder, checked against torch.

        Raises:
            ExportError: if they cannot be written.
        """
        run = self.run
        return write_onnx(run.network, run.config, run.grid, run.checkpoint, self._data.probes, Path(folder))

    def __repr__(self) -> str:
        run = self.run
        return (
            f"<Trained: {run.config.title} by {run.objective.name}, epoch {self.best_epoch} of {run.checkpoint.epoch}, "
            f"validation error ({run.validated}) {self.validation_error:.2%}, {self.deploy}>"
        )


@final
class Teller:
    """An observer that hands each epoch to a function.

    Args:
        tell: the function; None tells nobody.
        epochs: how many there are at most.
        claim: what the validation error is of.
    """

    def __init__(self, tell: Callable[[Epoch], object] | None, epochs: int, claim: str) -> None:
        self._tell = tell
        self._epochs = epochs
        self._claim = claim
        self._seconds: list[float] = []
        self._best: tuple[float, int] | None = None

    def former(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Take notice of the epochs of a training that is gone on with."""
        for row in history:
            self._note(row)

    def _note(self, row: Mapping[str, Any]) -> tuple[float, int]:
        self._seconds.append(row["seconds"])
        if self._best is None or row["validation_error"] < self._best[0]:
            self._best = row["validation_error"], row["epoch"]
        return self._best

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Do nothing."""

    def on_step(self, images: int, loss: float | None) -> None:
        """Do nothing."""

    def on_epoch(self, row: Mapping[str, Any]) -> bool:
        """Hand on the epoch; True where the function ends the training."""
        error, best = self._note(row)
        if self._tell is None:
            return False
        left = (self._epochs - row["epoch"]) * sum(self._seconds) / len(self._seconds)
        told = Epoch(
            epoch=row["epoch"],
            epochs=self._epochs,
            loss=row["loss"],
            validation_error=row["validation_error"],
            claim=self._claim,
            learning_rate=row["learning_rate"],
            seconds=row["seconds"],
            images_per_second=row["images_per_second"],
            seconds_left=left,
            best_epoch=best,
            best_error=error,
        )
        return self._tell(told) is True
