"""Exact outputs against a plain evaluation in rationals, and answers of queries about real numbers that need them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from query_texts import box_texts, query_text
from small_nets import Net

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.query.exact import exact_output
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import parse
from abscert_plugin.query.solve import solve


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]))
def test_outputs_are_exact(tmp_path_factory: pytest.TempPathFactory, seed: int, rank: int) -> None:
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [2, 3, 2])
    query = parse(query_text([*box_texts(1), "(<= Y_0 0.0)"], 1))
    network = open_network(net.write(tmp_path_factory.mktemp("net") / "net.onnx", rank), query)
    point = chance.standard_normal(2).astype(np.float32)
    found = exact_output(network.graph, point.reshape(network.input_shape))
    assert found == net.exact([Fraction(float(value)) for value in point])


SHAPES: tuple[tuple[str, dict[str, Any], list[int] | None], ...] = (
    *(("Flatten", {"axis": axis}, None) for axis in (-3, -2, -1, 0, 1, 2, 3)),
    ("ReduceSum", {"keepdims": 1}, []),
    ("ReduceSum", {"keepdims": 0}, None),
    ("ReduceSum", {"keepdims": 1, "noop_with_empty_axes": 1}, []),
    ("ReduceSum", {"keepdims": 1, "noop_with_empty_axes": 1}, None),
    ("ReduceSum", {"keepdims": 1}, [-1, 0, 1]),
)


@pytest.mark.parametrize(("operator", "attributes", "axes"), SHAPES)
def test_shapes_are_those_of_onnxruntime(operator: str, attributes: dict[str, Any], axes: list[int] | None) -> None:
    """Entries of another shape come in another order behind a transposition, and get another number added."""
    tensors = [numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(1, 12), "c")]
    if axes is not None:
        tensors.append(numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"))
    nodes = [
        helper.make_node(operator, ["x", *(["axes"] if axes is not None else [])], ["a"], **attributes),
        helper.make_node("Transpose", ["a"], ["t"]),
        helper.make_node("Flatten", ["t"], ["b"], axis=0),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 4]), ("y", None))
    ]
    graph = helper.make_graph(nodes, "shapes", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    point = np.random.default_rng(0).integers(-9, 9, (1, 3, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": point})
    assert exact_output(read_graph(model, Path("shapes.onnx")), point) == [Fraction(float(v)) for v in expected.ravel()]


def test_a_limit_that_is_just_met_by_real_numbers_is_met(tmp_path: Path) -> None:
    """No enclosure shows that 3 x - 1 reaches 2 at x = 1; rationals do."""
    net = Net([(np.array([[3.0]], np.float32), np.array([-1.0], np.float32))])
    pytest.importorskip("vnnlib")
    query = parse(query_text([*box_texts(2, inputs=1), "(>= Y[0,0] 2.0)"], 2, "real", 1, 1))
    network = open_network(net.write(tmp_path / "net.onnx"), query)
    assert solve(query, network, 5.0).verdict is QueryVerdict.SAT
