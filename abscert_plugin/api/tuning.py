"""`abscert.tune`, and what the command `tune` shares with it: Algorithm 3 carried out in a folder, and exported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import final

from abscert_plugin.api.own import Network
from abscert_plugin.api.radii import RadiusLike, as_radius
from abscert_plugin.api.scratch import Scratch
from abscert_plugin.api.trained import Trained
from abscert_plugin.api.training import need_classes, spec_of
from abscert_plugin.api.training_data import Data, Pair, training_data
from abscert_plugin.api.wording import in_python
from abscert_plugin.data import DataSet
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.training.abstrain import ABSTRAIN
from abscert_plugin.training.loop import Observer, SilentObserver
from abscert_plugin.training.run import RunSpec, TrainingData, prepare_folder, run_training, write_run
from abscert_plugin.training.tuning import TuningConfig
from abscert_plugin.training.tuning import tune as run_tuning
from abscert_plugin.training.tuning_step import TUNING, TuningStep, step_folder


@final
@dataclass(frozen=True)
class Tuning:
    """A tuning of the number of cells that has ended.

    Args:
        steps: what each number of `cells` came to, from coarse to fine: `validation_error` (of the claim `cell`, 0 to
            1), `lower_gradient` and `upper_gradient` (of the loss, at the ends of the intervals), and so on.
        best: the step with the least validation error, the coarser of equals.
        trained: the training of that step, whose files lie in the tuning's folder.
    """

    steps: tuple[TuningStep, ...]
    best: TuningStep
    trained: Trained

    @property
    def cells(self) -> int:
        """The number of cells to take."""
        return self.best.cells

    def __repr__(self) -> str:
        tried = ", ".join(str(step.cells) for step in self.steps)
        return f"<Tuning: {self.cells} cells of {tried}; {self.trained!r}>"


def prepare_tuning(out: Path, resume: bool) -> None:
    """See that a tuning can be written in a folder; it is made once there is something to write.

    Raises:
        CheckpointError, ConfigError: if a training or a tuning is there already and is not to be resumed.
        RecordError: if the folder cannot be written.
    """
    prepare_folder(out, resume)
    if (out / TUNING).exists() and not resume:
        raise ConfigError(f"{out} already holds a tuning; add --resume to go on with it, or choose another --out")


def carry_out_tuning(
    spec: RunSpec,
    tuning: TuningConfig,
    data: TrainingData,
    out: Path,
    observer: Callable[[int], Observer],
    on_step: Callable[[TuningStep], object],
    holder: object = None,
) -> Tuning:
    """Tune in a folder, or go on with the tuning that it holds, and export the best step there.

    Args:
        spec: what to train; its number of cells is replaced at each step.
        tuning: which cells to try.
        data: what on.
        out: the folder; each step has one below it.
        observer: returns who watches the training with so many cells.
        on_step: told of each step that has ended.
        holder: kept with the result.

    Raises:
        AbscertError: as `abscert_plugin.training.tuning.tune` and `write_run`.
    """
    tuned = run_tuning(spec, tuning, data, out, observer, on_step)
    best = tuned.best
    # the training has ended, so this only reads its checkpoint
    run = run_training(replace(spec, grid=Grid(best.cells)), data, step_folder(out, best.cells), SilentObserver())
    return Tuning(tuned.steps, best, Trained(run, data, write_run(run, data, out), out, holder))


@in_python
def tune(
    network: Network,
    data: Data,
    radius: RadiusLike,
    *,
    radius_scale: str = "pixel",
    coarsest: int = 2,
    least_step: float = 0.01,
    steps: int | None = None,
    validation: DataSet | Pair | None = None,
    classes: int | Sequence[str] | None = None,
    activation: str = "relu",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    augmentation: str | None = None,
    precision: str = "auto",
    seed: int = 0,
    device: str = "auto",
    directory: str | PathLike[str] | None = None,
    image_size: int | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[TuningStep], object] | None = None,
) -> Tuning:
    """Tune the number of cells (the paper's Algorithm 3): from coarse to fine, until the ends' gradients say stop.

        tuned = abscert.tune(build, (images, labels), radius=0.05, out="runs/tuned")
        tuned.cells                          # how many cells a pixel is to have
        tuned.trained.verify(others, their_labels, claim="cell")

    Args:
        network: as of `train`; each step begins with the same first weights.
        data: as of `train`.
        radius: cells stay at least four times as wide as it on the pixel scale (d >= 2 epsilon), so that a ball reaches
            few of them.
        radius_scale: `pixel` (of pixels in [0, 1]) or `training` (of [-1, 1]).
        coarsest: number of cells to begin with.
        least_step: least change of the width d of a cell, on the training scale, from one step to the next.
        steps: end after so many; None tries all.
        validation: images that epochs and cells are chosen on; a tenth of the data, held out, where None.
        classes: names of the classes of arrays, or their number.
        activation: activation function of a network of ours.
        epochs: passes over the images in each step; None: by the data, and so for each option below that may be None.
        batch_size: images in a step of a training.
        learning_rate: at its peak.
        patience: end a training after so many epochs without a lower loss; 0 never.
        augmentation: `none`, `cifar`, `shift` or `elastic`.
        precision: `auto`, `float32` or `bfloat16`.
        seed: of weights, order and augmentation, 0 to 2^31 - 1.
        device: `auto`, `cpu` or `cuda`.
        directory: folder of the files of a data set that is named.
        image_size: side in pixels that its images are resized to, as of `load_data`.
        out: folder for all trainings; a temporary one where None.
        resume: go on with the tuning that `out` holds.
        progress: called with each step that has ended; what it raises comes out here, and `resume=True` goes on.

    Raises:
        ConfigError: if an option has no meaning, no number of cells is left to try, or the network does not take the
            images.
        DataError: if images or labels have no meaning.
        CheckpointError: if `out` holds another tuning.
        TrainingError: if a loss or a gradient is no finite number.
        ExportError, UnsupportedModelError: if the network cannot be exported.
    """
    tuning = TuningConfig(float(as_radius(radius, radius_scale).pixel), coarsest, least_step, steps)
    loaded = training_data(data, validation, classes, None if directory is None else Path(directory), image_size)
    need_classes(loaded)
    chosen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "augmentation": augmentation,
        "precision": precision,
        "seed": seed,
    }
    spec = spec_of(network, data, loaded, ABSTRAIN, Grid(coarsest), activation, device, chosen)
    scratch = Scratch(out)
    prepare_tuning(scratch.path, resume)
    return carry_out_tuning(spec, tuning, loaded, scratch.path, _silent, progress or _untold, scratch)


def _silent(cells: int) -> Observer:  # noqa: ARG001 - as the command's, which names them
    return SilentObserver()


def _untold(step: TuningStep) -> None:
    """Tell nobody."""
