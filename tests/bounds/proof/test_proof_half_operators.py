"""Operators on float16, and casts to bfloat16, against onnxruntime; what is refused of them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.proof import Proof, formats
from abscert_plugin.bounds.proof.arithmetic import Format
from abscert_plugin.bounds.proof.s_shaped import SIGMOID_ERROR
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph

SHAPE = (2, 4, 4)
_CHANCE = np.random.default_rng(0)
_KERNEL = _CHANCE.standard_normal((2, 2, 3, 3))
_MATRIX = _CHANCE.standard_normal((4, 3))
CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "Conv": ("Conv", [_KERNEL, [0.3, -7]], {"pads": [1, 1, 1, 1]}),
    "MatMul": ("MatMul", [_MATRIX], {}),
    "Add": ("Add", [_CHANCE.standard_normal((2, 1, 4))], {}),
    "Sub": ("Sub", [[3e-6]], {}),
    "Mul": ("Mul", [[-700.0]], {}),
    "Neg": ("Neg", [], {}),
    "Relu": ("Relu", [], {}),
    "Clip": ("Clip", [-0.3, 0.7], {}),
    "Sigmoid": ("Sigmoid", [], {}),
    "Tanh": ("Tanh", [], {}),
    "MaxPool": ("MaxPool", [], {"kernel_shape": [2, 2]}),
    "AveragePool": ("AveragePool", [], {"kernel_shape": [3, 3]}),
    "GlobalAveragePool": ("GlobalAveragePool", [], {}),
    "ReduceMean": ("ReduceMean", [], {"axes": [2], "keepdims": 1}),
    "Transpose": ("Transpose", [], {"perm": [0, 3, 1, 2]}),
}


def model_of(operator: str, constants: list[Any], attributes: dict[str, Any], kind: int) -> onnx.ModelProto:
    """Return a model of an operator on numbers of a type, with casts around it and a Flatten behind."""
    names = [f"c{place}" for place in range(len(constants))]
    tensors = [
        numpy_helper.from_array(np.asarray(one, np.float16), name) for one, name in zip(constants, names, strict=True)
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], "in", to=kind),
        helper.make_node(operator, ["half", *names], ["made"], operator, **attributes),
        helper.make_node("Flatten", ["made"], ["flat"], "flatten"),
        helper.make_node("Cast", ["flat"], ["logits"], "out", to=TensorProto.FLOAT),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None]),
    ]
    graph = helper.make_graph(nodes, operator, ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def outside(model: onnx.ModelProto, scale: float = 1.0) -> int:
    """Return how many logits of onnxruntime lie outside what a proof says of boxes."""
    chance, count = np.random.default_rng(1), 0
    center = (chance.standard_normal((24, *SHAPE)) * scale).astype(np.float32)
    radius = np.float32(scale) * chance.choice([0, 1e-4, 0.1], (24, 1, 1, 1)).astype(np.float32)
    lower, upper = center - radius, center + radius
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (first,) = session.run(None, {"x": lower})
    proof = Proof(read_graph(model, Path("m.onnx")), "x", SHAPE, first.shape[1], wide_sums=True)
    low, high = (
        end.numpy() for end in proof.intervals(torch.from_numpy(lower), torch.from_numpy(upper))["logits"].computed()
    )
    assert np.isfinite(low).all()
    for share in (0.0, 0.3, 1.0):
        (logits,) = session.run(None, {"x": np.clip(lower + np.float32(share) * (upper - lower), lower, upper)})
        count += int(((logits < low) | (logits > high)).sum())
    return count


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_what_onnxruntime_computes_lies_within_the_enclosure(name: str, scale: float) -> None:
    assert outside(model_of(*CASES[name], TensorProto.FLOAT16), scale) == 0


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_functions_have_their_errors_of_float16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(*CASES[name], TensorProto.FLOAT16)
    monkeypatch.setattr(formats, f"_HALF_{name.upper()}_ERROR", SIGMOID_ERROR)
    monkeypatch.setattr(Format, "narrowing", property(lambda self: 1 if self.roundings > 1 else 0))
    assert outside(model) > 0


def test_a_cast_to_bfloat16_is_rounded_once() -> None:
    model = model_of("Identity", [], {}, TensorProto.BFLOAT16)
    assert outside(model) == outside(model, 1e-30) == 0


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("Div", TensorProto.FLOAT16, "expected float32, got float16"),
        ("Softmax", TensorProto.FLOAT16, "expected float32, got float16"),
        ("Relu", TensorProto.BFLOAT16, "bfloat16"),
        ("Sigmoid", TensorProto.BFLOAT16, "bfloat16"),
    ],
)
def test_what_is_not_known_is_refused(name: str, kind: int, reason: str) -> None:
    model = model_of(name, [2.0] if name == "Div" else [], {}, kind)
    with pytest.raises(UnsupportedModelError, match=reason):
        Proof(read_graph(model, Path("m.onnx")), "x", SHAPE, 32)


def test_constants_are_not_computed_in_float16() -> None:
    model = model_of("Add", [[1.0]], {}, TensorProto.FLOAT16)
    model.graph.node[1].input[1] = "sum"
    model.graph.node.insert(0, helper.make_node("Add", ["c0", "c0"], ["sum"], "constant"))
    with pytest.raises(UnsupportedModelError, match="constants of float32"):
        Proof(read_graph(model, Path("m.onnx")), "x", SHAPE, 32)


def test_a_cast_from_float64_is_refused() -> None:
    model = model_of("Relu", [], {}, TensorProto.FLOAT16)
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["double"], "wide", to=TensorProto.DOUBLE))
    model.graph.node[1].input[0] = "double"
    with pytest.raises(UnsupportedModelError, match="expected a Cast from float32 to float16, got one from float64"):
        Proof(read_graph(model, Path("m.onnx")), "x", SHAPE, 32)
