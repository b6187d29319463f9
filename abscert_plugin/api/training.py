"""`abscert.train`, and what the command `train` shares with it: a training carried out in a folder, and exported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from abscert_plugin.api.grids import training_grid
from abscert_plugin.api.own import Loss, Network, OwnLoss, builder, network_name
from abscert_plugin.api.radii import RadiusLike, as_radius
from abscert_plugin.api.scratch import Scratch
from abscert_plugin.api.trained import Epoch, Teller, Trained
from abscert_plugin.api.training_data import Data, Pair, training_data
from abscert_plugin.api.wording import in_python
from abscert_plugin.choices import did_you_mean, member
from abscert_plugin.claim import Radius, validated
from abscert_plugin.data import DataSet
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.records import CHECKPOINT
from abscert_plugin.training.checkpoint import read_checkpoint
from abscert_plugin.training.edges import EdgeChoice, choose_grid
from abscert_plugin.training.initial import Initial
from abscert_plugin.training.loop import Observer
from abscert_plugin.training.method import Method, MethodEntry
from abscert_plugin.training.methods import METHODS, chosen_method
from abscert_plugin.training.options import GRADIENT_CLIP, PATIENCE
from abscert_plugin.training.run import (
    RunSpec,
    TrainingData,
    make_spec,
    prepare_folder,
    run_training,
    write_run,
)

_FEW: Final = 10_000  # images of a data set of which the settings of `digits` are taken, the smallest of ours


def carry_out(
    spec: RunSpec,
    data: TrainingData,
    out: Path,
    observer: Observer,
    edges: EdgeChoice | None = None,
    radius: Radius | None = None,
    holder: object = None,
) -> Trained:
    """Train in a folder, or go on with the training that it holds, and export the best epoch.

    Args:
        spec: what to train.
        data: what on.
        out: the folder.
        observer: told of every step.
        edges: how the edges of its cells are chosen; those of `spec` are uniform.
        radius: the ball by which they are chosen.
        holder: kept with the result.

    Raises:
        AbscertError: as `run_training` and `write_run`.
    """
    run = run_training(with_edges(spec, data, edges, radius), data, out, observer)
    return Trained(run, data, write_run(run, data, out), out, holder)


def need_classes(data: TrainingData) -> None:
    """Refuse data with nothing to tell apart.

    Raises:
        ConfigError: if there is one class alone.
    """
    if len(data.training.classes) < 2:
        raise ConfigError("expected labels of at least 2 classes, got 1")


def loop_options(entry: MethodEntry | None, **given: Any) -> dict[str, Any]:
    """Return options of the loop: a method's own where they were not given, and those of `baselines` of a caller's.

    Args:
        entry: the method's row of the table; None of a caller's.
        **given: fields of `TrainingConfig`; None where one was not given.
    """
    patience, clip = (PATIENCE, GRADIENT_CLIP) if entry is None else (entry.patience, entry.gradient_clip)
    own = {"patience": patience, "gradient_clip": clip}
    return {name: own.get(name) if value is None else value for name, value in given.items()}


def with_edges(spec: RunSpec, data: TrainingData, edges: EdgeChoice | None, radius: Radius | None) -> RunSpec:
    """Return what to train with the edges of its cells chosen on the training split."""
    if spec.grid is None:
        return spec
    return replace(spec, grid=choose_grid(edges or EdgeChoice.UNIFORM, spec.grid.cells, radius, data.training))


@in_python
def train(
    network: Network,
    data: Data,
    *,
    method: str | Method | Loss = "abstrain",
    radius: RadiusLike | None = None,
    radius_scale: str = "pixel",
    cells: int | None = None,
    granularity: float | None = None,
    edges: str | None = None,
    validation: DataSet | Pair | None = None,
    classes: int | Sequence[str] | None = None,
    activation: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    augmentation: str | None = None,
    precision: str = "auto",
    gradient_clip: float | None = None,
    average: float = 0.0,
    initial: str | PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    directory: str | PathLike[str] | None = None,
    image_size: int | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[Epoch], object] | None = None,
    **options: Any,
) -> Trained:
    """Train a network so that claims about it can be verified, and export the epoch that is best on validation images.

        trained = abscert.train(build, (images, labels), method="reachable", radius=0.05, cells=2, out="runs/own")
        trained.deploy                       # the ONNX file of the best epoch, which takes pixels in [0, 1]
        trained.verify(others, their_labels, radius=0.05)

    A network of one's own is a torch module, or a function of the number of input channels that returns one. Methods on
    cells (`abstrain`, `reachable`) feed it interval images, of twice as many channels; all others the images
    themselves; both on the training scale [-1, 1]. A module is copied, and its weights are where the training begins (a
    method with first weights of its own, such as `ibp`, draws them).

    Args:
        network: a name (`abscert train --help` lists them), a module, or a function as above.
        data: a data set's name, its training split of `load_data`, or (images, labels): [count, channels, height,
            width] of floats in [0, 1] or uint8, and whole numbers from 0.
        method: a name (`abscert baseline list`), a `Method`, or a loss of one's own: a function of (network, images,
            labels) that returns one number; it has the keyword `radius`, on the scale of `images`, if it asks for it.
        radius: of the ball to train for, on `radius_scale`; a method by name that has none leaves it aside, so that a
            loop over methods can give it to all.
        radius_scale: `pixel` (of pixels in [0, 1]) or `training` (of [-1, 1]).
        cells: number of cells of a pixel, 1 to 65,535, of methods on cells, and of a loss that is to have them; 10
            where a method has cells and nothing is given.
        granularity: width of a cell on the training scale, in place of `cells`.
        edges: `uniform`, `quantile` or `sparse`.
        validation: images that the epoch is chosen on; a tenth of the data, held out, where None.
        classes: names of the classes of arrays, or their number.
        activation: activation function of a network of ours.
        epochs: passes over the images; by the data where None, as the three that follow: of fewer than 10,000 images as
            arrays, those of `digits`.
        batch_size: images in a step.
        learning_rate: at its peak.
        augmentation: `none`, `cifar`, `shift` or `elastic`.
        patience: end after so many epochs without a lower loss; 0 never.
        precision: `auto`, `float32` or `bfloat16`.
        gradient_clip: greatest norm of a step's gradient.
        average: keep a moving average of the weights, such as 0.999.
        initial: folder of a training whose best weights this one begins with, or an ONNX file that it wrote.
        seed: of weights, order and augmentation, 0 to 2^31 - 1.
        device: `auto`, `cpu` or `cuda`.
        directory: folder of the files of a data set that is named.
        image_size: side in pixels that its images are resized to, as of `load_data`.
        out: folder for the training; a temporary one where None.
        resume: go on with the training that `out` holds.
        progress: called with an `Epoch` after each; what returns True ends the training there. What it raises does too,
            and comes out here. In both cases `resume=True` goes on with it.
        **options: the method's own, such as `share=0.3`.

    Raises:
        ConfigError: if an option has no meaning, or the network does not take the images.
        DataError: if images or labels have no meaning.
        CheckpointError: if `out` holds another training, or one that is not to be resumed; if `initial` has weights of
            another network.
        TrainingError: if the loss is no finite number.
        ExportError, UnsupportedModelError: if the network cannot be exported.
    """
    ball = None if radius is None else as_radius(radius, radius_scale)
    choice = None if edges is None else member(EdgeChoice, "edges", edges)
    entry, how = _method(method, ball, choice, cells is not None or granularity is not None, options)
    grid = training_grid(how.takes_intervals, "this method", cells, granularity)
    loaded = training_data(data, validation, classes, None if directory is None else Path(directory), image_size)
    need_classes(loaded)
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
    spec = spec_of(network, data, loaded, how, grid, activation or _activation(entry), device, chosen)
    if initial is not None:
        spec = replace(spec, initial=Initial.read(Path(initial)))
    scratch = Scratch(out)
    folder = scratch.path
    prepare_folder(folder, resume)
    teller = Teller(progress, spec.training.epochs, validated(how.claim, how.describe()))
    if (folder / CHECKPOINT).exists():
        teller.former(read_checkpoint(folder).history)
    return carry_out(spec, loaded, folder, teller, choice, ball, scratch)


def _method(
    method: str | Method | Loss,
    ball: Radius | None,
    edges: EdgeChoice | None,
    has_cells: bool,
    options: Mapping[str, Any],
) -> tuple[MethodEntry | None, Method]:
    """Return the method, and its row of the table if it has one."""
    if isinstance(method, str):
        entry = METHODS.named(method)
        unknown = [name for name in options if name not in entry.option_names]
        if unknown:
            hint = did_you_mean(unknown[0], [*entry.option_names, *(train.__annotations__)])
            raise ConfigError(f"there is no argument {unknown[0]!r} of train() or of the method {method}{hint}")
        given = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
        # a loop over methods gives all of them the radius, and `plain` has no use for it
        is_used = entry.takes_radius or edges is EdgeChoice.SPARSE
        return entry, chosen_method(method, ball if is_used else None, given, edges)
    if options:
        hint = did_you_mean(next(iter(options)), train.__annotations__)
        raise ConfigError(f"there is no argument {next(iter(options))!r} of train(){hint}")
    if isinstance(method, Method):
        return None, method
    if not callable(method):
        raise ConfigError(f"expected a method as a name, a Method or a loss function, got {type(method).__name__}")
    own = OwnLoss(method, has_cells, ball)
    own.told  # noqa: B018 - raises where it needs a radius
    return None, own


def _activation(entry: MethodEntry | None) -> str:
    return "relu" if entry is None else str(entry.activation)


def spec_of(
    network: Network,
    data: Data,
    loaded: TrainingData,
    how: Method,
    grid: Grid | None,
    activation: str,
    device: str,
    chosen: Mapping[str, Any],
) -> RunSpec:
    """Return what to train.

    Args:
        network: as of `train`.
        data: as of `train`.
        loaded: what the data are.
        how: the method.
        grid: its cells; None where it has none.
        activation: of a network of ours.
        device: `auto`, `cpu` or `cuda`.
        chosen: options of the loop; None where one was not given.

    Raises:
        ConfigError: if an option has no meaning, or the network does not take the images.
    """
    name = loaded.training.name
    like = "digits" if not isinstance(data, str | DataSet) and len(loaded.training) < _FEW else name
    if isinstance(network, str):
        made = make_spec(like, None, None, network, activation, grid, device, chosen, how)
    else:
        if not callable(network):
            kind = type(network).__name__
            raise ConfigError(
                f"expected a network as a name, a torch module or a function that returns one, got {kind}"
            )
        channels, classes = loaded.training.shape[0], len(loaded.training.classes)
        own = builder(network, channels, classes, how.takes_intervals)
        made = make_spec(
            like, None, None, network_name(network), activation, grid, device, chosen, how, own, is_convolutional=True
        )
    return replace(made, data=name)
