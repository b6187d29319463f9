"""phi as an ONNX graph: nodes that turn `image` into `interval`, and the check that a file holds just these.

Each pixel's cell is found by binary search over the table of edges: comparisons and look-ups only, so that every
execution provider gives the same bits, equal to `Grid.interval_image`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import IMAGE, INTERVAL, Metadata, read_metadata
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.grid import Grid

_PREFIX: Final = "phi/"


@final
@dataclass(frozen=True, slots=True)
class PhiGraph:
    """The nodes and tables that compute `interval` from `image`."""

    nodes: tuple[onnx.NodeProto, ...]
    initializers: tuple[onnx.TensorProto, ...]


def phi_graph(grid: Grid) -> PhiGraph:
    """Return phi for images on the pixel scale [0, 1] as ONNX nodes of opset 13 and later."""
    bits = max(1, math.ceil(math.log2(grid.cells)))
    # Edge k opens cell k; past the last cell nothing is reached, whatever the pixel.
    opening = np.full(2**bits, np.inf, dtype=np.float32)
    opening[: grid.cells] = grid.edges[:-1]
    ends = grid.training_edges
    initializers = [
        _constant("edges", opening),
        _constant("lower", ends[:-1]),
        _constant("upper", ends[1:]),
        _constant("zero", np.array(0, dtype=np.int64)),
    ]
    nodes: list[onnx.NodeProto] = []
    cell = "zero"
    for step in (2**power for power in reversed(range(bits))):
        initializers.append(_constant(f"step_{step}", np.array(step, dtype=np.int64)))
        nodes += [
            _node("Add", [cell, f"step_{step}"], f"candidate_{step}"),
            _node("Gather", ["edges", f"candidate_{step}"], f"edge_{step}", axis=0),
            helper.make_node(
                "GreaterOrEqual",
                [IMAGE, f"{_PREFIX}edge_{step}"],
                [f"{_PREFIX}above_{step}"],
                f"{_PREFIX}above_{step}",
            ),
            _node("Where", [f"above_{step}", f"candidate_{step}", cell], f"cell_{step}"),
        ]
        cell = f"cell_{step}"
    nodes += [
        _node("Gather", ["lower", cell], "lower_ends", axis=0),
        _node("Gather", ["upper", cell], "upper_ends", axis=0),
    ]
    nodes.append(
        helper.make_node("Concat", [f"{_PREFIX}lower_ends", f"{_PREFIX}upper_ends"], [INTERVAL], INTERVAL, axis=1)
    )
    return PhiGraph(tuple(nodes), tuple(initializers))


def prepend_phi(graph: onnx.GraphProto, grid: Grid, image_shape: tuple[int, int, int]) -> None:
    """Make the graph of an interval network that of the deployed classifier: put phi in front of its one input."""
    (interval,) = graph.input
    batch = interval.type.tensor_type.shape.dim[0]
    size = batch.dim_value if batch.HasField("dim_value") else (batch.dim_param or "batch")
    image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [size, *image_shape])
    graph.value_info.append(interval)
    put_in_front(graph, phi_graph(grid), image)


def put_in_front(graph: onnx.GraphProto, front: PhiGraph, image: onnx.ValueInfoProto) -> None:
    """Put nodes and their tables before those of a graph, which then reads `image` and nothing else.

    The graph's own tensors stay where they are: protobuf puts none that is over 2 GiB into a message.
    """
    del graph.input[:]
    graph.input.append(image)
    for place, table in enumerate(front.initializers):
        graph.initializer.insert(place, table)
    for place, node in enumerate(front.nodes):
        graph.node.insert(place, node)
    graph.name = "deploy"


def check_artifact(model: onnx.ModelProto, path: Path) -> Metadata:
    """Return the metadata of an ONNX file of this project after checking that its graph is what they say.

    Soundness: a verdict about cells holds only if the network sees nothing but phi(image). So every node on the
    way from `image` to `interval` must be the one that `phi_graph` writes for this grid, and nothing else may read
    `image`. A file whose only input is `interval` has no phi to check.

    Raises:
        UnsupportedModelError: if metadata are missing, there is more than one input, or phi is not this grid's.
    """
    metadata = read_metadata(model, path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    if inputs not in ([IMAGE], [INTERVAL]):
        raise UnsupportedModelError(f"{path}: expected one input, `{IMAGE}` or `{INTERVAL}`, got {inputs}")
    if any(function.domain in ("", "ai.onnx") for function in model.functions):
        raise UnsupportedModelError(f"{path} defines functions under the names of standard operators; this is refused")
    if inputs == [IMAGE]:
        refusal = (
            f"{path}: the part between `{IMAGE}` and `{INTERVAL}` is not the abstraction that its metadata name, "
            "so no verdict about cells would hold; export or wrap the model again"
        )
        check_front(model.graph, phi_graph(metadata.grid), INTERVAL, refusal)
    return metadata


def check_front(graph: onnx.GraphProto, phi: PhiGraph, made: str, refusal: str) -> None:
    """Raise unless a graph begins with exactly these nodes, and the rest sees nothing of the image but what they make.

    Args:
        graph: the graph, with the input `image`.
        phi: the nodes and tables that it has to begin with.
        made: the name of what they make of the image.
        refusal: what to say otherwise.

    Raises:
        UnsupportedModelError: if it does not.
    """
    expected_nodes = {node.SerializeToString(deterministic=True) for node in phi.nodes}
    found = [node for node in graph.node if set(node.output) & {name for item in phi.nodes for name in item.output}]
    if len(found) != len(phi.nodes) or {node.SerializeToString(deterministic=True) for node in found} != expected_nodes:
        raise UnsupportedModelError(refusal)
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for expected in phi.initializers:
        stored = tables.get(expected.name)
        if stored is None or stored.SerializeToString(deterministic=True) != expected.SerializeToString(
            deterministic=True
        ):
            raise UnsupportedModelError(refusal)
    outputs = {name for node in phi.nodes for name in node.output}
    given = [tensor.name for tensor in graph.initializer] + [value.name for value in graph.input]
    given += [tensor.values.name for tensor in graph.sparse_initializer]
    once = [IMAGE, *(tensor.name for tensor in phi.initializers)]
    if outputs & set(given) or any(given.count(name) != 1 for name in once):
        raise UnsupportedModelError(refusal)  # which of two definitions counts is up to the backend
    names = {IMAGE, *outputs} - {made}
    others = [node for node in graph.node if node.SerializeToString(deterministic=True) not in expected_nodes]
    if names & (_names_read(others) | {output.name for output in graph.output}):
        raise UnsupportedModelError(refusal)


def _names_read(nodes: list[onnx.NodeProto]) -> set[str]:
    """Return every name that these nodes, and the graphs inside them, read."""
    names: set[str] = set()
    for node in nodes:
        names |= set(node.input)
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                names |= _names_read(list(graph.node)) | {output.name for output in graph.output}
    return names


def _node(operator: str, inputs: list[str], output: str, axis: int | None = None) -> onnx.NodeProto:
    name = _PREFIX + output
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return helper.make_node(operator, [_PREFIX + source for source in inputs], [name], name, **attributes)


def _constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values, _PREFIX + name)
