"""An If that sizes decide is what its branch is; every other is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sampled_graphs import CLASSES, Net, sampled

from abscert_plugin.bounds.proof import Proof
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph

Nodes = list[onnx.NodeProto]
SQUEEZED = [helper.make_node("Squeeze", ["x", "axis"], ["s"])]
KEPT = [helper.make_node("Identity", ["x"], ["i"])]


def branch(nodes: Nodes, **more: Any) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [output], **more)


def choosing(axis: int, size: int, then: Nodes = SQUEEZED, other: Nodes = KEPT, **more: Any) -> Net:
    """Return what squeezes [batch, 1, 5] along the second axis if an axis has a size, as torch writes it."""
    net = Net(np.random.default_rng(0), (1, 5))
    net.constant(0)
    net.tensors[0].name = "zero"
    net.tensors.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    net.add("Shape", "x")
    net.add("Gather", net.last, net.whole(axis), axis=0)
    condition = net.add("Equal", net.last, net.whole(size))
    net.add("If", condition, then_branch=branch(then, **more), else_branch=branch(other))
    net.add("Mul", net.last, net.constant(0.5, np.float32))
    return net


@pytest.mark.parametrize("size", [1, 2])
def test_the_branch_that_sizes_choose_is_enclosed(size: int) -> None:
    net = choosing(1, size)
    chosen = net.last
    assert sampled(net.logits(), net.random).excess <= 0
    model = net.model(net.last)
    values = Proof(read_graph(model, Path("net.onnx")), "x", (1, 5), CLASSES)._plan.shapes
    assert values[chosen] == ((5,) if size == 1 else (1, 5))


REFUSED: dict[str, tuple[Net, str]] = {
    "the number of images": (choosing(0, 1), "batch size to be used in shapes only"),
    "a branch that computes": (
        choosing(1, 1, [helper.make_node("Relu", ["x"], ["s"])]),
        "no bounds of Relu in a branch",
    ),
    "a branch that gives a name again": (
        choosing(1, 1, [helper.make_node("Identity", ["x"], ["zero"])]),
        "gives each of its tensors once",
    ),
    "a branch with constants": (
        choosing(1, 1, initializer=[onnx.numpy_helper.from_array(np.zeros(1, np.float32), "own")]),
        "gives each of its tensors once",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_branches_are_refused(name: str) -> None:
    net, message = REFUSED[name]
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 5])],
        [helper.make_tensor_value_info(net.last, TensorProto.FLOAT, None)],
        net.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(UnsupportedModelError, match=message):
        Proof(read_graph(model, Path("net.onnx")), "x", (1, 5), CLASSES)


def test_a_condition_on_pixels_is_refused() -> None:
    net = Net(np.random.default_rng(0), (1, 5), batch=1)
    net.tensors.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    net.add("ReduceMax", "x", net.whole(1, 2))
    condition = net.add("Greater", net.last, net.constant(0.5, np.float32))
    net.add("If", condition, then_branch=branch(SQUEEZED), else_branch=branch(KEPT))
    with pytest.raises(UnsupportedModelError, match="which is not known"):
        Proof(read_graph(net.model(net.last), Path("net.onnx")), "x", (1, 5), CLASSES)


def test_a_pad_in_front_of_a_branch_is_not_missed_by_a_pool_behind_it() -> None:
    net = choosing(1, 2)
    net.nodes.pop()
    net.add("MaxPool", net.nodes[-1].output[0], kernel_shape=[2], pads=[1, 1])
    with pytest.raises(UnsupportedModelError, match="expected no If before it"):
        sampled(net.logits(), net.random)
