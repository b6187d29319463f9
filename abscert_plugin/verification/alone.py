"""A file's graph as one of images alone: where it moves the axis of the batch, each image is a batch of one.

What holds of an image alone is what a verdict is about: files whose graphs do not show that the images of a batch stay
apart are run image by image. So the batch is one more axis of one entry in the file's own tensors, and another one is
put in front of all of them (`graph/lift.py`).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from abscert_plugin.blackbox import shapes_by_running
from abscert_plugin.bounds.proof.constants import exact
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.graph.lift import lifted
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.walk import BROKEN, ON_CONSTANTS, UnsupportedNodeError
from abscert_plugin.wording import one_line


def alone(graph: Graph, model: onnx.ModelProto, shape: tuple[int, ...]) -> Graph:
    """Return the graph of a batch of inputs, each of which is a batch of one image, with an output [batch, entries].

    Args:
        graph: the file's graph, with all its tensors; its batch is free, or one.
        model: what it was read from.
        shape: of an image as the graph reads it.

    Raises:
        UnsupportedModelError: if an operator has no such form, or the file does not run.
    """
    if graph.input_type != TensorProto.FLOAT or (graph.input_shape or (None,))[0] not in (None, 1):
        raise UnsupportedModelError("expected a batch of one image of float32")
    try:
        shapes = shapes_by_running(graph, model, (1, *shape))
    except (ValueError, VerifierError) as error:  # beyond protobuf's 2 GiB, or it does not run
        raise UnsupportedModelError(f"the shapes of its tensors are not known: {error}") from error
    try:
        return lifted(_folded(graph, shapes), shapes)
    except BROKEN as error:  # at nodes that are not as ONNX defines them
        raise UnsupportedModelError(one_line(error)) from error


def _folded(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """Return the graph with sizes, and what is exactly known of constants, as constants that it holds."""
    tensors, nodes = dict(graph.tensors), list[Node]()
    for node in graph.between(graph.input):
        found: Mapping[str, np.ndarray] | None = None
        if node.operator == "Shape":
            sizes = shapes[node.inputs[0]][node.attributes.get("start", 0) : node.attributes.get("end")]
            found = {node.outputs[0]: np.array(sizes, np.int64)}
        elif node.operator in ON_CONSTANTS and all(name in tensors for name in node.inputs if name):
            try:
                arrays = {name: numpy_helper.to_array(tensors[name]) for name in node.inputs if name}
                found = exact(node, arrays, graph.opset)
            except UnsupportedNodeError:
                found = None
        if found is None:
            nodes.append(_gathering(node, tensors))
        else:
            tensors.update((name, numpy_helper.from_array(array, name)) for name, array in found.items())
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def _gathering(node: Node, tensors: dict[str, TensorProto]) -> Node:
    """Return a GatherND along the first axis as the Gather that it is; any other node as it is."""
    if node.operator != "GatherND" or node.attributes.get("batch_dims", 0) or node.inputs[1] not in tensors:
        return node
    places = numpy_helper.to_array(tensors[node.inputs[1]])
    if places.shape[-1:] != (1,):
        return node
    name = f"{node.outputs[0]}\0places"  # NUL is in no name of a file that was checked
    tensors[name] = numpy_helper.from_array(places[..., 0], name)
    return replace(node, operator="Gather", inputs=(node.inputs[0], name), attributes={"axis": 0})
