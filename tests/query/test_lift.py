"""Lifted graphs: for each entry of a batch they give what the file gives for it alone."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.lift import LIFTS, Lift, lifted
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.query.formula import compared
from abscert_plugin.query.network import open_network
from abscert_plugin.query.query import Declared, ElementType, Query, build
from abscert_plugin.query.terms import Number, Variable


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Case: TypeAlias = tuple[str, Sequence[int], Sequence[np.ndarray | None], dict[str, Any]]
"""Operator, shape of its input, its inputs (None where the network's input stands), attributes."""

X: None = None
CASES: list[Case] = [
    ("Add", [3], [X, floats(3)], {}),
    ("Add", [3], [floats(2, 3), X], {}),
    ("Add", [2, 3], [X, floats(3)], {}),
    ("Sub", [2, 1], [X, floats(1, 4)], {}),
    ("Mul", [2], [X, X], {}),
    ("Relu", [2, 2], [X], {}),
    ("LeakyRelu", [3], [X], {"alpha": 0.25}),
    ("Clip", [3], [X, np.array(-0.5, np.float32), np.array(0.5, np.float32)], {}),
    ("MatMul", [3], [X, floats(3, 2)], {}),
    ("MatMul", [2, 3], [X, floats(3, 2)], {}),
    ("MatMul", [2, 3], [X, floats(3)], {}),
    ("MatMul", [2, 3], [X, floats(1, 3, 2)], {}),
    ("MatMul", [2, 3], [X, floats(4, 3, 2)], {}),
    ("MatMul", [3], [floats(2, 3), X], {}),
    ("MatMul", [3, 2], [floats(4, 3), X], {}),
    ("MatMul", [3], [floats(3), X], {}),
    ("MatMul", [2, 3, 2], [floats(4, 3), X], {}),
    ("MatMul", [2, 3], [floats(2), X], {}),
    ("Gemm", [2, 3], [X, floats(3, 4), floats(4)], {}),
    ("Gemm", [2, 3], [X, floats(4, 3), floats(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [2, 3], [X, floats(3, 4)], {}),
    ("Transpose", [2, 3], [X], {}),
    ("Transpose", [2, 3, 4], [X], {"perm": [2, 0, 1]}),
    ("Reshape", [6], [X, integers(2, -1)], {}),
    ("Reshape", [2, 3], [X, integers(0, 3, 1)], {}),
    ("Flatten", [2, 3, 2], [X], {"axis": 0}),
    ("Flatten", [2, 3, 2], [X], {"axis": 2}),
    ("Squeeze", [1, 3, 1], [X, integers(0)], {}),
    ("Unsqueeze", [3], [X, integers(0, 2)], {}),
    ("Expand", [2, 1], [X, integers(2, 3)], {}),
    ("Expand", [3], [X, integers(2, 3)], {}),
    ("Concat", [2, 3], [X, X], {"axis": 0}),
    ("Concat", [2, 3], [X, X], {"axis": -1}),
    ("Concat", [2], [floats(3), X, floats(1), X], {"axis": 0}),
    ("Concat", [2, 1], [X, floats(2, 3)], {"axis": 1}),
    ("Gather", [4], [X, integers(3, 0)], {"axis": 0}),
    ("Gather", [2, 4], [X, integers(1)], {"axis": -1}),
    ("Slice", [5], [X, integers(1), integers(4)], {}),
    ("Slice", [3, 5], [X, integers(4), integers(-6), integers(-1), integers(-2)], {}),
    ("Slice", [3, 5], [X, integers(0, 1), integers(2, 5), integers(0, 1)], {}),
    ("Split", [4], [X, integers(4)], {"axis": 0}),
    ("ReduceSum", [2, 3], [X, integers(0)], {"keepdims": 0}),
    ("ReduceSum", [2, 3], [X], {"keepdims": 1}),
    ("ReduceSum", [2, 3], [X, integers(-1)], {}),
    ("ReduceSum", [2, 3], [X], {"noop_with_empty_axes": 1}),
    ("ReduceMean", [2, 3], [X], {"axes": [1]}),
    ("Softmax", [2, 3], [X], {"axis": 0}),
    ("Conv", [1, 2, 4, 4], [X, floats(3, 2, 3, 3), floats(3)], {"pads": [1, 1, 0, 0]}),
    ("MaxPool", [1, 2, 4, 4], [X], {"kernel_shape": [2, 2]}),
    ("Where", [2], [np.array([True, False]), X, floats(2)], {}),
]


def file_of(case: Case, path: Path) -> Path:
    operator, shape, inputs, attributes = case
    names = ["x" if array is None else f"c{place}" for place, array in enumerate(inputs)]
    tensors = [numpy_helper.from_array(array, f"c{place}") for place, array in enumerate(inputs) if array is not None]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], operator, **attributes)],
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def query_of(shape: Sequence[int], path: Path) -> Query:
    """Return a query about a box, whose output has whatever shape the file gives."""
    x = np.zeros(shape, np.float32)
    given = np.asarray(next(iter(ReferenceEvaluator(str(path)).run(None, {"x": x}))))
    source = Declared.of("X", ElementType.FLOAT32, tuple(shape))
    output = Declared.of("Y", ElementType(given.dtype.name), given.shape)
    ends = [
        compared(sign, Variable(False, place), Number(Fraction(end)), 1)
        for place in range(source.count)
        for sign, end in ((">=", -1), ("<=", 1))
    ]
    return build("2.0", "f", source, output, ends)


def run_batch(graph: Graph, batch: np.ndarray) -> np.ndarray:
    """Run a lifted graph by onnx's own reference."""
    names = {name: f"t{place}" for place, name in enumerate(dict.fromkeys(_names(graph)))}
    nodes = [
        helper.make_node(
            node.operator,
            [names.get(name, "") for name in node.inputs],
            [names.get(name, "") for name in node.outputs],
            **node.attributes,
        )
        for node in graph.nodes
    ]
    tensors = []
    for name, tensor in graph.tensors.items():
        renamed = onnx.TensorProto()
        renamed.CopyFrom(tensor)
        renamed.name = names.get(name, name)
        tensors.append(renamed)
    source = helper.make_tensor_value_info(names[graph.input], TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "lifted", [source], [onnx.ValueInfoProto(name=names[graph.output])], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)])
    return np.asarray(next(iter(ReferenceEvaluator(model).run(None, {names[graph.input]: batch}))))


def _names(graph: Graph) -> list[str]:
    return [name for node in graph.nodes for name in (*node.inputs, *node.outputs) if name] + [*graph.tensors]


def difference(case: Case, folder: Path) -> float:
    """Return how far the lifted graph is from the file, over a batch of three inputs."""
    path = file_of(case, folder / "operator.onnx")
    network = open_network(path, query_of(case[1], path))
    graph, shape = network.batched[-1]
    batch = np.random.default_rng(7).standard_normal((3, *shape)).astype(np.float32)
    found, expected = run_batch(graph, batch), np.stack([network.run(entry.reshape(-1)) for entry in batch])
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{list(case[1])}")
def test_a_lifted_operator_gives_what_the_file_gives_for_each_input(case: Case, tmp_path: Path) -> None:
    assert difference(case, tmp_path) <= 1e-5  # float32 sums of few terms of size 1, in another order


def test_an_axis_that_is_not_moved_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same: Callable[..., None] = Lift.same
    monkeypatch.setattr(Lift, "same", lambda lift, node, inputs=None, **_: same(lift, node, inputs))
    assert difference(("Softmax", [2, 3], [X], {"axis": 0}), tmp_path) > 1e-5


def test_what_cannot_be_lifted_is_named(tmp_path: Path) -> None:
    path = file_of(("CumSum", [3], [X, np.array(0, np.int64)], {}), tmp_path / "operator.onnx")
    network = open_network(path, query_of([3], path))
    with pytest.raises(UnsupportedModelError, match="no batch for CumSum"):
        _ = network.proof


@pytest.mark.parametrize(
    "operator", ["Clip", "Expand", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "ReduceSum"]
)
def test_sizes_that_depend_on_the_input_are_refused(operator: str) -> None:
    """What shape a tensor has is known of one input, and would be taken to be that of all."""
    nodes = (
        Node("", "Cast", ("x",), ("n",), {"to": TensorProto.INT64}, frozenset()),
        Node("", operator, ("x", "n"), ("y",), {}, frozenset()),
    )
    with pytest.raises(UnsupportedModelError, match="sizes or axes that depend on the input"):
        lifted(Graph(nodes, {}, "x", (1,), "y", 18), {"x": (1,), "n": (1,), "y": (1,)})


def test_an_input_without_axes_is_refused() -> None:
    node = Node("", "Relu", ("x",), ("y",), {}, frozenset())
    with pytest.raises(UnsupportedModelError, match="an input of one axis at least"):
        lifted(Graph((node,), {}, "x", (), "y", 18), {"x": (), "y": ()})


def test_a_function_of_the_files_own_is_no_shape() -> None:
    nodes = (
        Node("", "own.Shape", ("x",), ("n",), {}, frozenset()),
        Node("", "Mul", ("x", "n"), ("y",), {}, frozenset()),
    )
    with pytest.raises(UnsupportedModelError, match=r"no batch for own\.Shape"):
        lifted(Graph(nodes, {}, "x", (3,), "y", 18), {"x": (3,), "n": (1,), "y": (3,)})


def constant_file(node: onnx.NodeProto, path: Path) -> Path:
    """Write a file of an input of 3 entries and an output of 1 whole number, which a node gives."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    found = helper.make_tensor_value_info("y", TensorProto.INT64, [1])
    made = helper.make_graph([node], "constant", [given], [found])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_an_output_that_no_input_moves_is_proven(tmp_path: Path) -> None:
    path = constant_file(helper.make_node("Shape", ["x"], ["y"]), tmp_path / "shape.onnx")
    query = query_of([3], path)
    proof = open_network(path, query).proof
    for row, sign in ((1.0, 1), (-1.0, -1)):
        values = proof.intervals(-torch.ones(1, 3), torch.ones(1, 3))
        bound = float(proof.lower_bounds(values, torch.tensor([[[row]]]).double(), BoundMethod.IBP))
        assert bound <= 3 * sign <= bound + 1e-4  # roundings of a sum of three products


def test_an_output_that_float32_does_not_hold_is_not_proven(tmp_path: Path) -> None:
    whole = helper.make_node("Constant", [], ["y"], value_ints=[2**24 + 1])
    path = constant_file(whole, tmp_path / "constant.onnx")
    with pytest.raises(UnsupportedModelError, match="none of float32"):
        _ = open_network(path, query_of([3], path)).proof


def test_every_operator_of_the_table_is_one_of_onnx() -> None:
    parts = [name.rpartition(".") for name in LIFTS]
    assert {name for domain, _, name in parts if not onnx.defs.has(name, domain=domain)} <= {"Upsample"}
