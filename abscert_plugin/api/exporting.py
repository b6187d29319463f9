"""`abscert.export` and `abscert.wrap`: a training or a module as ONNX, in fewer bits, and under abstraction."""

import tempfile
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import numpy as np

from abscert_plugin.api.arrays import Images, as_pixels
from abscert_plugin.api.grids import wrapping_grid
from abscert_plugin.api.models import Model, as_file, is_module, module_as_file, module_opening
from abscert_plugin.api.reading import Reading, opening_of
from abscert_plugin.api.wording import in_python
from abscert_plugin.artifact.export import Exported
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.precision import FilePrecision, Narrowed, narrow
from abscert_plugin.artifact.wrap import WrapOptions, Wrapped, probe_images
from abscert_plugin.artifact.wrap import wrap as write
from abscert_plugin.artifact.write import DEPLOY
from abscert_plugin.ball import LEVELS
from abscert_plugin.blackbox import Provider
from abscert_plugin.choices import member
from abscert_plugin.data import DataSet
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import Opening
from abscert_plugin.training.checkpoint import Checkpoint
from abscert_plugin.training.edges import histogram, means
from abscert_plugin.training.run import restore, write_onnx

if TYPE_CHECKING:
    from torch import nn

_PROBES: Final = 32


def export_training(folder: Path, out: Path | None) -> tuple[Exported, Checkpoint]:
    """Write the ONNX files of a training's best epoch, checked on random images, and return its checkpoint too.

    Raises:
        CheckpointError: if the folder holds no training.
        ExportError: if they cannot be written or give other logits than torch.
    """
    network, config, grid, checkpoint = restore(folder)
    # random images of 8-bit pixels: an export needs no data set
    shape = (_PROBES, *config.image_shape)
    probes = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32) / np.float32(255)
    return write_onnx(network, config, grid, checkpoint, probes, out or folder), checkpoint


def open_deployed(path: Path) -> Artifact:
    """Open a deployed file, or that of a training's folder, to be written in fewer bits.

    Raises:
        UnsupportedModelError: if it is none.
    """
    return Artifact.open(path / DEPLOY if path.is_dir() else path, Provider.CPU)


def narrow_file(
    source: Artifact, precision: str, out: Path | None, images: DataSet | Images | None
) -> tuple[Narrowed, int]:
    """Write a deployed file in fewer bits, and return it with the number of images that it was compared on.

    Args:
        source: the file.
        precision: `float16` or `int8`.
        out: the folder; that of the file where None.
        images: of the training split, which show the ranges of whole numbers; none for float16.

    Raises:
        ConfigError: if there is no such precision, or images are missing or have no meaning.
        DataError: if they do not fit the file.
        AbscertError: as `narrow`.
    """
    shape = source.metadata.image_shape
    if member(FilePrecision, "precision", precision) is FilePrecision.FLOAT16:
        if images is not None:
            raise ConfigError("expected --data, --data-dir and --image-size with --precision int8 alone")
        pixels = probe_images(shape)
    elif images is None:
        raise ConfigError("expected images of the training split, by which int8 finds its ranges")
    elif isinstance(images, DataSet):
        source.check_fit(images.shape, images.labels)
        pixels = images.all_pixels()
    else:
        pixels = as_pixels(images, shape)
    kind = FilePrecision(precision)
    return narrow(source, kind, out or source.path.parent, pixels), len(pixels)


@in_python
def export(
    model: "str | PathLike[str] | nn.Module",
    out: str | PathLike[str] | None = None,
    *,
    precision: str | None = None,
    images: DataSet | Images | None = None,
    **reading: Unpack[Reading],
) -> Exported:
    """Write the ONNX files of a training's best epoch, or one of a torch module, checked against torch.

        abscert.export(network, "model.onnx", image_shape=(3, 32, 32))
        abscert.export("runs/own", precision="int8", images=images)

    A module is exported as `verify` does it: a copy in evaluation mode, on the CPU, with a free batch size.

    Args:
        model: folder of a training, or a `torch.nn.Module`; with `precision`, a deployed file too, but no module.
        out: folder for the files of a training (its own where None); the file of a module.
        precision: `float16` or `int8`: write `deploy-PRECISION.onnx` of the training's `deploy.onnx` instead, whose
            network has fewer bits, and whose phi is the same.
        images: for int8, images of the training split, which show the ranges: [count, channels, height, width], floats
            in [0, 1] or uint8, or `load_data(name, "train", limit=500)`.
        **reading: of a module, `image_shape` and how it reads pixels, see `Reading`.

    Returns:
        Where they are (`deploy`, and `abstract` of a training on cells), and how far their logits are from torch's, or,
        with `precision`, from those of the file.

    Raises:
        CheckpointError: if the folder holds no training.
        ConfigError: if an option is missing or has no meaning.
        UnsupportedModelError: if the module cannot be exported, or gives an image other logits in a batch.
        ExportError: if a file cannot be written or gives other logits than torch; nothing is written then.
    """
    opening = opening_of(reading)
    if precision is not None:
        if not isinstance(model, str | PathLike) or opening is not None:
            raise ConfigError("expected the folder of a training or its deploy.onnx, and nothing else, with precision")
        made, _ = narrow_file(open_deployed(Path(model)), precision, None if out is None else Path(out), images)
        return Exported(None, made.path, made.largest_difference)
    if images is not None:
        raise ConfigError("expected images with precision='int8' alone")
    if isinstance(model, str | PathLike):
        if opening is not None:
            raise ConfigError("expected nothing on how pixels are read with a training: its files say it themselves")
        return export_training(Path(model), None if out is None else Path(out))[0]
    if not is_module(model):
        raise ConfigError(f"expected the folder of a training or a torch module, got {type(model).__name__}")
    if out is None or Path(out).suffix != ".onnx":
        raise ConfigError(f"expected out as the name of an ONNX file, such as model.onnx, got {out}")
    path = Path(out)
    return Exported(None, path, module_as_file(model, path, None, opening))


def wrap_file(
    model: Path,
    out: Path,
    grid: Grid,
    opening: Opening,
    classes: int | None = None,
    lossless: bool = False,
    counted: DataSet | None = None,
) -> Wrapped:
    """Put the classifier in a file under abstraction.

    Args:
        model: the file.
        out: folder for deploy.onnx and abstract.onnx.
        grid: the cells.
        opening: how it reads images.
        classes: how many there are, for one that gives labels alone.
        lossless: whether each cell stands for the 8-bit value in it.
        counted: training images; each cell stands for the mean of their pixels in it. None: for its mid-point.

    Raises:
        AbscertError: as `abscert_plugin.artifact.wrap.wrap`.
    """
    options = WrapOptions(
        grid=grid,
        image_shape=opening.image_shape,
        layout=opening.layout,
        scale=opening.scale,
        output=opening.output,
        labels=classes,
        levels=LEVELS if lossless else None,
        represented=() if counted is None else means(grid, histogram(counted)),
    )
    return write(model, out, options)


@in_python
def wrap(
    model: Model,
    out: str | PathLike[str],
    cells: int | None = None,
    *,
    granularity: float | None = None,
    lossless: bool = False,
    represent: DataSet | None = None,
    classes: int | None = None,
    **reading: Unpack[Reading],
) -> Wrapped:
    """Put any classifier under abstraction: phi in front, then a point of each cell fed to the model.

        wrapped = abscert.wrap("classifier.onnx", "runs/wrapped", cells=20)
        abscert.verify(wrapped.deploy, images, labels, claim="cell")

    Args:
        model: as of `verify`, one that this project did not make; of a torch module, name `image_shape` too.
        out: folder for `deploy.onnx` and `abstract.onnx`.
        cells: number of cells of a pixel, 1 to 65,535; 10 where nothing is given.
        granularity: width of a cell on the training scale, in place of `cells`.
        lossless: 256 cells, each of which stands for its own 8-bit value.
        represent: training images (`load_data(name, "train")`); each cell stands for the mean of their pixels in it, in
            place of its mid-point.
        classes: how many there are, for a model that gives labels alone.
        **reading: how the model reads pixels, see `Reading`.

    Returns:
        Where the two files are (`deploy`, `abstract`), and `notes`.

    Raises:
        ConfigError, GridError: if an option has no meaning or does not fit the model.
        UnsupportedModelError: if the model cannot be read, exported or run.
        ExportError: if what would be written does not give the model's logits; nothing is written then.
    """
    if lossless and represent is not None:
        raise ConfigError("expected lossless or represent, got both: a lossless cell stands for its own 8-bit value")
    grid = wrapping_grid(cells, granularity, lossless)
    opening = opening_of(reading)
    with tempfile.TemporaryDirectory(prefix="abscert-") as folder:
        path = as_file(model, Path(folder), None if represent is None else represent.shape, opening)
        how = module_opening(opening) if is_module(model) else opening or Opening()
        if represent is not None:
            how = replace(how, image_shape=how.image_shape or represent.shape)
        return wrap_file(path, Path(out), grid, how, classes, lossless, represent)
