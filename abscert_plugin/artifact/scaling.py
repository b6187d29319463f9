"""The scaling of a classifier of plain images as ONNX nodes that turn `image` into `scaled`, and their check."""

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import IMAGE, SCALED, PlainMetadata, read_plain_metadata
from abscert_plugin.artifact.phi import PhiGraph, check_front, put_in_front
from abscert_plugin.errors import UnsupportedModelError

_SCALING: Final = PhiGraph(
    (
        helper.make_node("Mul", [IMAGE, "scaling/two"], ["scaling/doubled"], "scaling/doubled"),
        helper.make_node("Sub", ["scaling/doubled", "scaling/one"], [SCALED], SCALED),
    ),
    (
        numpy_helper.from_array(np.array(2, dtype=np.float32), "scaling/two"),
        numpy_helper.from_array(np.array(1, dtype=np.float32), "scaling/one"),
    ),
)


def prepend_scaling(graph: onnx.GraphProto, image_shape: tuple[int, int, int]) -> None:
    """Make a graph that takes `scaled` that of a classifier of images on the pixel scale: put 2 x - 1 in front."""
    graph.value_info.extend(graph.input)
    put_in_front(graph, _SCALING, helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["batch", *image_shape]))


def check_plain(model: onnx.ModelProto, path: Path) -> PlainMetadata:
    """Return the metadata of a classifier of plain images after checking its scaling.

    Soundness: bounds are computed on the training scale, so `scaled` must be 2 x - 1 of the image, and nothing else may
    read the image.

    Raises:
        UnsupportedModelError: if metadata are missing, there is another input, or the scaling is another.
    """
    metadata = read_plain_metadata(model, path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    if inputs != [IMAGE]:
        raise UnsupportedModelError(f"{path}: expected the one input `{IMAGE}`, got {inputs}")
    if model.functions:
        raise UnsupportedModelError(f"{path} defines functions of its own; this is refused")
    refusal = f"{path}: the part between `{IMAGE}` and `{SCALED}` is not 2 x - 1; export the training again"
    check_front(model.graph, _SCALING, SCALED, refusal)
    return metadata
