"""phi as an ONNX graph: nodes that turn `image` into `interval`.

Each pixel's cell is found by binary search over the table of edges: comparisons and look-ups only, so that every
execution provider gives the same bits, equal to `Grid.interval_image`.
"""

import math
from typing import Any, Final

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.front_graph import FrontGraph, put_in_front
from abscert_plugin.artifact.metadata import IMAGE, INTERVAL
from abscert_plugin.grid import Grid

_PREFIX: Final = "phi/"


def phi_in(graph: onnx.GraphProto, grid: Grid) -> FrontGraph:
    """Return phi as a file has to hold it: those of before have no more ends than cells."""
    is_former = any(tensor.name == f"{_PREFIX}lower" and [*tensor.dims] == [grid.cells] for tensor in graph.initializer)
    return phi_graph(grid, is_former)


def phi_graph(grid: Grid, is_former: bool = False) -> FrontGraph:
    """Return phi for images on the pixel scale [0, 1] as ONNX nodes of opset 13 and later.

    Args:
        grid: the cells.
        is_former: whether there are no more ends than cells, so that a pixel of inf is looked up outside the table.
    """
    bits = max(1, math.ceil(math.log2(grid.cells)))
    # Edge k opens cell k; past the last cell nothing is reached, but by a pixel of inf: that gets the last cell's ends,
    # since a look-up outside the table would cost the whole batch its answers.
    opening = np.full(2**bits, np.inf, dtype=np.float32)
    opening[: grid.cells] = grid.edges[:-1]
    length = grid.cells if is_former else 2**bits
    lower, upper = (to_length(ends, length) for ends in (grid.training_edges[:-1], grid.training_edges[1:]))
    initializers = [
        _constant("edges", opening),
        _constant("lower", lower),
        _constant("upper", upper),
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
    return FrontGraph(tuple(nodes), tuple(initializers))


def prepend_phi(graph: onnx.GraphProto, grid: Grid, image_shape: tuple[int, int, int]) -> None:
    """Make the graph of an interval network that of the deployed classifier: put phi in front of its one input."""
    (interval,) = graph.input
    batch = interval.type.tensor_type.shape.dim[0]
    size = batch.dim_value if batch.HasField("dim_value") else (batch.dim_param or "batch")
    image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [size, *image_shape])
    graph.value_info.append(interval)
    put_in_front(graph, phi_graph(grid), image)


def to_length(table: Float32[np.ndarray, "entries"], length: int) -> Float32[np.ndarray, "length"]:
    """Return a table whose last entry is there again, as often as it takes to be of a length."""
    return np.pad(table, (0, length - len(table)), mode="edge")


def _node(operator: str, inputs: list[str], output: str, axis: int | None = None) -> onnx.NodeProto:
    name = _PREFIX + output
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return helper.make_node(operator, [_PREFIX + source for source in inputs], [name], name, **attributes)


def _constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values, _PREFIX + name)
