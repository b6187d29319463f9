"""Putting an ONNX classifier of others under abstraction: phi in front, then a point of each cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper

import abscert_plugin
from abscert_plugin.artifact.adapted import Adapted, adapt, opened
from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import INTERVAL, LOGITS, Metadata, write_metadata
from abscert_plugin.artifact.midpoint import Midpoint
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.phi import prepend_phi
from abscert_plugin.artifact.probe import Probe, agree, probe
from abscert_plugin.artifact.represented import Represented
from abscert_plugin.artifact.third_party import ThirdParty, brought_up, prefix_names, read_third_party
from abscert_plugin.artifact.write import ABSTRACT, DEPLOY, data_path, write_checked
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.errors import ConfigError, ExportError, UnsupportedModelError, VerifierError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import InputScale, Layout, Opening
from abscert_plugin.records import CHECKPOINT, RECORDS

_MODEL_PREFIX: Final = "model/"
_SAME_MODEL: Final = 1e-4  # of the largest logit: float32 sums in another order, or by a later operator set's rules
_SAME_GRAPH: Final = 1e-6  # of the largest logit: one graph on one input, with and without phi in front


@final
@dataclass(frozen=True, slots=True)
class WrapOptions:
    """How a classifier is put under abstraction.

    Args:
        grid: the cells.
        image_shape: (channels, height, width) of an image; needed where the classifier's input does not tell.
        layout: order of the axes that the classifier reads; where None, flat for an input of two axes, else nchw.
        scale: what the classifier reads for a pixel.
        output: the output that holds the logits; found by its type and shape where None.
        labels: how many classes there are, for a classifier that gives labels alone.
        levels: the stored value that stands for 1, where each cell is to stand for the stored value in it; the grid is
            `Grid.of_levels` of it then. None: for its mid-point.
        represented: the point on the pixel scale that each cell stands for, in place of its mid-point; empty for that.
    """

    grid: Grid
    image_shape: tuple[int, int, int] | None = None
    layout: Layout | None = None
    scale: InputScale = field(default_factory=InputScale)
    output: str | None = None
    labels: int | None = None
    levels: int | None = None
    represented: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.levels is not None and self.grid != Grid.of_levels(self.levels):
            raise ConfigError(
                f"expected a cell for each of {self.levels + 1} stored values, got {self.grid.cells} cells"
            )
        if self.levels is not None and self.represented:
            raise ConfigError("expected cells that stand for their stored values or for other points, got both")

    @property
    def opening(self) -> Opening:
        """How the classifier is to be read."""
        return Opening(self.image_shape, self.layout, self.scale, self.output)


@final
@dataclass(frozen=True, slots=True)
class Wrapped:
    """What was written, and what there is to say about it."""

    abstract: Path
    deploy: Path
    metadata: Metadata
    notes: tuple[str, ...]


def wrap(path: Path, folder: Path, options: WrapOptions) -> Wrapped:
    """Write `deploy.onnx` and `abstract.onnx` for the classifier in `path`, into `folder`.

    Soundness: nothing but phi reads `image`, so images of one cell get the same logits whatever the classifier is. It
    was seen to give the same bits for the same input twice, and draws no random numbers. Where the graph does not show
    that images of a batch get the logits that they get one by one, the batch is fixed to 1.

    Raises:
        UnsupportedModelError: if the classifier cannot be read or run, or its logits are not a function of one image.
        ConfigError: if an option does not fit the classifier.
        ExportError: if what would be written does not give the classifier's logits on the cells' points; nothing
            is written then.
    """
    source = read_third_party(path, options.output)
    _refuse_overwriting(source, folder)
    adapted = adapt(source, options.opening, options.labels)
    represented = Represented(options.grid, options.represented) if options.represented else None
    midpoint = Midpoint(adapted.preprocessing, options.levels, represented)
    images = probe_images(adapted.preprocessing.image_shape)
    inputs = midpoint.apply(options.grid.interval_image(images))
    seen = probe(opened(adapted, Provider.CPU, one_by_one=False), inputs, path, adapted.obstacle)
    metadata = Metadata(
        version=abscert_plugin.__version__,
        front=Cells(options.grid),
        image_shape=adapted.preprocessing.image_shape,
        classes=seen.logits.shape[1],
        network=f"wrapped:{path.name}",
        training="none",
        represented=options.represented,
    )
    abstract, deploy = _wrapped_models(adapted, midpoint, metadata, seen.batch or source.input.batch_symbol)
    write_checked({ABSTRACT: abstract, DEPLOY: deploy}, folder, _Check(options.grid, images, seen).run)
    return Wrapped(folder / ABSTRACT, folder / DEPLOY, metadata, seen.notes)


def probe_images(image_shape: tuple[int, int, int]) -> Float32[np.ndarray, "4 channels height width"]:
    """Return the images that logits are compared on: two random ones, a black one and a white one."""
    random = np.random.default_rng(0).random((2, *image_shape), dtype=np.float32)
    return np.concatenate([random, np.zeros_like(random[:1]), np.ones_like(random[:1])])


def _refuse_overwriting(source: ThirdParty, folder: Path) -> None:
    targets = [folder / name for name in (ABSTRACT, DEPLOY)]
    for target in (*targets, *map(data_path, targets)):
        if target.resolve() in source.file.files:
            raise ConfigError(f"{target} belongs to the classifier itself and would be replaced; choose another folder")
    for name in (CHECKPOINT, RECORDS):
        if (folder / name).exists():
            raise ConfigError(f"{folder} holds a run ({name}), whose files would be replaced; choose another folder")


def _wrapped_models(
    adapted: Adapted, midpoint: Midpoint, metadata: Metadata, batch: int | str | None
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return `abstract.onnx` and `deploy.onnx`."""
    abstract = brought_up(adapted.model, adapted.path)
    graph = abstract.graph
    given, answer = graph.input[0].name, graph.output[0].name
    prefix_names(graph, _MODEL_PREFIX)
    front, constants = midpoint.nodes(_MODEL_PREFIX + given)
    back = helper.make_node("Identity", [_MODEL_PREFIX + answer], [LOGITS], LOGITS)
    nodes = [*front, *graph.node, back]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    size = batch or "batch"
    channels, height, width = midpoint.preprocessing.image_shape
    graph.input.append(helper.make_tensor_value_info(INTERVAL, TensorProto.FLOAT, [size, 2 * channels, height, width]))
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [size, metadata.classes]))
    graph.name = "abstract"
    abstract.producer_name, abstract.producer_version = "abscert-plugin", metadata.version
    write_metadata(abstract, metadata)
    deploy = onnx.ModelProto()
    deploy.CopyFrom(abstract)
    assert metadata.grid is not None
    prepend_phi(deploy.graph, metadata.grid, midpoint.preprocessing.image_shape)
    return abstract, deploy


@final
@dataclass(frozen=True, slots=True)
class _Check:
    """Compares the files to be with what the classifier gave on the mid-points of the same images."""

    grid: Grid
    images: Float32[np.ndarray, "images channels height width"]
    seen: Probe

    def run(self, paths: Mapping[str, Path]) -> None:
        """Raise ExportError if a file does not give the classifier's logits."""
        for path in paths.values():
            check_artifact(read_model(path), path)
        deployed = _logits(paths[DEPLOY], self.images)
        _compare(DEPLOY, deployed, "the classifier's", self.seen.logits, _SAME_MODEL)
        abstract = _logits(paths[ABSTRACT], self.grid.interval_image(self.images))
        _compare(ABSTRACT, abstract, f"{DEPLOY}'s", deployed, _SAME_GRAPH)


def _logits(path: Path, inputs: np.ndarray) -> np.ndarray:
    try:
        return BlackBox(path, Provider.CPU).run(inputs)
    except (UnsupportedModelError, VerifierError) as error:
        raise ExportError(f"the classifier does not run under abstraction, nothing was written: {error}") from error


def _compare(name: str, logits: np.ndarray, source: str, expected: np.ndarray, tolerance: float) -> None:
    if not agree(logits, expected, tolerance):
        difference = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else logits.shape
        raise ExportError(
            f"expected the logits of {name} to be {source} to {tolerance:g} of the largest, got a difference of "
            f"{difference}; nothing was written"
        )
