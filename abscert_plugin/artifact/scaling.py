"""The scaling of a classifier of plain images as ONNX nodes that turn `image` into `scaled`, on the training scale."""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.front_graph import FrontGraph, put_in_front
from abscert_plugin.artifact.metadata import IMAGE, SCALED

SCALING: Final = FrontGraph(
    (
        helper.make_node("Add", [IMAGE, IMAGE], ["scaling/doubled"], "scaling/doubled"),
        helper.make_node("Add", ["scaling/doubled", "scaling/minus_one"], [SCALED], SCALED),
    ),
    (numpy_helper.from_array(np.full((1, 1, 1, 1), -1, dtype=np.float32), "scaling/minus_one"),),
)
"""As it is written: auto_LiRPA's patches take no factor but one for each channel, and no summand of another rank;
Marabou takes no factor but a single one, and subtracts nothing that is smaller than the image."""

FORMER: Final = FrontGraph(
    (
        helper.make_node("Mul", [IMAGE, "scaling/two"], ["scaling/doubled"], "scaling/doubled"),
        helper.make_node("Sub", ["scaling/doubled", "scaling/one"], [SCALED], SCALED),
    ),
    (
        numpy_helper.from_array(np.array(2, dtype=np.float32), "scaling/two"),
        numpy_helper.from_array(np.array(1, dtype=np.float32), "scaling/one"),
    ),
)
"""As it was written before; it gives the same bits."""


def scaling_of(graph: onnx.GraphProto) -> FrontGraph:
    """Return the scaling that a graph is to be held against: the former one where it has that one's constant."""
    names = {tensor.name for tensor in graph.initializer}
    return FORMER if "scaling/one" in names else SCALING


def prepend_scaling(graph: onnx.GraphProto, image_shape: tuple[int, int, int]) -> None:
    """Make a graph that takes `scaled` that of a classifier of images on the pixel scale: put 2 x - 1 in front."""
    graph.value_info.extend(graph.input)
    put_in_front(graph, SCALING, helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["batch", *image_shape]))
