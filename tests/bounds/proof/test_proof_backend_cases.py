"""The cases by which ONNX defines its operators: what they expect lies in the enclosures of their inputs."""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_cases

from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.constants import exact
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.pooling_rules import POOLING_RULES
from abscert_plugin.bounds.proof.product_rules import PRODUCT_RULES
from abscert_plugin.bounds.proof.resizing import RESIZING_RULES
from abscert_plugin.bounds.proof.shape_rules import SHAPE_RULES
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Node, read_graph
from abscert_plugin.graph.walk import COUNTS, MOVES, PICKS, UnsupportedNodeError

CLASSES = 2
OPERATORS = {
    "AveragePool": 18,
    "BatchNormalization": 2,
    "Concat": 12,
    "Conv": 6,
    "ConvTranspose": 9,
    "CumSum": 7,
    "DepthToSpace": 2,
    "DequantizeLinear": 1,
    "Dropout": 3,
    "Expand": 1,
    "Flatten": 3,
    "Gather": 4,
    "GatherElements": 3,
    "GatherND": 3,
    "Gemm": 8,
    "GlobalAveragePool": 2,
    "GlobalMaxPool": 2,
    "Identity": 1,
    "MatMul": 5,
    "LpPool": 8,
    "MaxPool": 16,
    "Pad": 6,
    "ReduceMean": 6,
    "ReduceSum": 8,
    "Reshape": 9,
    "Resize": 14,
    "ScatterElements": 3,
    "ScatterND": 1,
    "Slice": 6,
    "SpaceToDepth": 4,
    "Split": 14,
    "Squeeze": 2,
    "Tile": 2,
    "Transpose": 2,
    "Trilu": 16,
    "Unsqueeze": 7,
}
"""How many cases at least are enclosed."""

LIFTED = {
    "Concat": "axis 0 1 2",
    "CumSum": "0 +1",
    "Expand": "0 11",
    "Gather": "axis 0",
    "GatherElements": "axis 0 1",
    "GatherND": "batch_dims 0 1",
    "Pad": "0 pads",
    "ReduceMean": "0 +1",
    "ReduceSum": "0 +1",
    "Reshape": "0 11",
    "ScatterElements": "axis 0 1 2",
    "ScatterND": "entries 0 2",
    "Slice": "0 +3",
    "Split": "axis 0",
    "Squeeze": "0 +1",
    "Tile": "0 11",
    "Trilu": "0",
    "Unsqueeze": "0 +1",
}
"""What to change where a batch is put in front: an attribute, an input, axes (+) or sizes (1) that an input holds."""


WIDE = ("bool", "float32", "float64", "int8", "int32", "int64", "uint8")
TYPES = ("float32", "float64", "int8", "int32", "int64", "uint8")
MODULES = {"BatchNormalization": "batch_normalization"}


def cases(operator: str, files: Mapping[str, str] = MODULES) -> list[Any]:
    """Return ONNX's cases of an operator alone; they are made where its module is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"{node_cases.__name__}.{files.get(operator, operator.lower())}")
    found = [case for case in node_cases._NodeTestCases if case.data_sets]
    return [case for case in found if [node.op_type for node in case.model.graph.node] == [operator]]


Arrays = dict[str, np.ndarray]


def lifted(
    node: onnx.NodeProto, given: Arrays, expected: np.ndarray
) -> tuple[onnx.NodeProto, Arrays, np.ndarray] | None:
    """Return the same case with a batch of one image in front, None where it is not told how."""
    if node.op_type not in LIFTED:
        return None
    made, arrays = onnx.NodeProto(), dict(given)
    made.CopyFrom(node)
    for name in LIFTED[node.op_type].split():
        attribute = next((one for one in made.attribute if one.name == name), None)
        if name in ("axis", "batch_dims"):
            number = attribute.i if attribute is not None else 0
            if attribute is not None:
                made.attribute.remove(attribute)
            made.attribute.append(helper.make_attribute(name, number + 1 if number >= 0 else number))
        elif name.isdigit() and int(name) < len(node.input):
            place = node.input[int(name)]
            arrays[place] = arrays[place][None]
        elif name[0] in "+1" and int(name[1]) < len(node.input):  # axes, or a size of the batch in front
            place = node.input[int(name[1])]
            numbers = arrays[place]
            arrays[place] = numbers + (numbers >= 0) if name[0] == "+" else np.concatenate([[1], numbers])
        elif name == "pads":
            place = node.input[1]
            begins, ends = np.split(arrays[place], 2)
            if len(node.input) > 3:
                arrays[node.input[3]] = arrays[node.input[3]] + (arrays[node.input[3]] >= 0)
            else:
                arrays[place] = np.array([0, *begins, 0, *ends])
        elif name == "entries":
            place = node.input[1]
            arrays[place] = np.concatenate([np.zeros_like(arrays[place][..., :1]), arrays[place]], -1)[None]
    return made, arrays, expected[None]


def classifier(node: onnx.NodeProto, opsets: Any, given: Arrays, source: str, expected: np.ndarray) -> onnx.ModelProto:
    """Return a model that reads one of the inputs and classifies what the node gives; the others are constants."""
    features = int(np.prod(expected.shape[1:]))
    tensors = {name: array for name, array in given.items() if name != source}
    tensors["rows"], tensors["weight"] = np.array([-1, features]), np.ones((features, CLASSES), np.float32)
    nodes = [
        node,
        helper.make_node("Cast", [node.output[0]], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "rows"], ["features"]),
        helper.make_node("MatMul", ["features", "weight"], ["logits"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(given[source].dtype)
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(source, kind, given[source].shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def enclosed(case: Any) -> bool:
    """Return whether a proof knows the case; what it expects has to lie in the enclosure of what it reads."""
    inputs, outputs = case.data_sets[0]
    arrays = [numpy_helper.to_array(item) if isinstance(item, TensorProto) else item for item in [*inputs, outputs[0]]]
    if not all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        return False
    arrays = [np.asarray(array) for array in arrays]
    names, (node,) = [value.name for value in case.model.graph.input], case.model.graph.node
    plain = node, dict(zip(names, arrays, strict=False)), arrays[-1]
    forms = [plain, lifted(*plain)]
    known = [_holds(case, *form) for form in forms if form is not None]
    return any(known)


def _holds(case: Any, node: onnx.NodeProto, given: Arrays, expected: np.ndarray) -> bool:
    is_known = False
    for source, array in given.items():
        if array.dtype.name not in TYPES or min(array.ndim, expected.ndim) < 2:
            continue
        if array.shape[0] != expected.shape[0] or not np.isfinite(array).all():
            continue
        graph = read_graph(classifier(node, case.model.opset_import, given, source, expected), Path("case.onnx"))
        try:
            proof = Proof(graph, source, array.shape[1:], CLASSES)
        except UnsupportedModelError:
            continue
        box = torch.from_numpy(array.astype(np.float64))
        value = proof.intervals(box, box)[node.output[0]]
        lower, upper = (end.numpy() for end in value.computed())
        assert lower.shape == expected.shape, case.name
        assert np.isfinite(lower).all(), case.name
        assert ((lower <= expected) & (expected <= upper)).all(), f"{case.name} of {source}"
        is_known = True
    return is_known


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_onnx_expects_lies_in_the_enclosures(operator: str) -> None:
    known = [case.name for case in cases(operator) if enclosed(case)]
    assert len(known) >= OPERATORS[operator], known


def test_every_operator_of_these_rules_has_cases() -> None:
    tables = (POOLING_RULES, PRODUCT_RULES, RESIZING_RULES, SHAPE_RULES)
    ruled = {operator for table in tables for operator in table}
    assert ruled - set(OPERATORS) == {
        "Einsum",
        "GlobalLpPool",
        "Upsample",
    }  # of two values, without a case, of older versions


def test_a_wrong_order_of_entries_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Move, "forward", lambda self, values: values[self.input].moved(lambda v: self.move(v).flip(1)))
    with pytest.raises(AssertionError):
        test_what_onnx_expects_lies_in_the_enclosures("DepthToSpace")


FOLDED = sorted((MOVES | PICKS | COUNTS) - {"Constant", "Dropout"})
FILES = {"And": "and_", "Or": "or_", "Not": "not_", "Range": "rangeop", "Greater": "greater", "Shape": "shape"}
FILES |= {"GreaterOrEqual": "greater_or_equal", "LessOrEqual": "less_or_equal"}


@pytest.mark.parametrize("operator", FOLDED)
def test_constants_are_folded_as_onnx_expects(operator: str) -> None:
    """The reference that folds them is held against ONNX's own cases."""
    known = 0
    for case in cases(operator, FILES):
        inputs, outputs = case.data_sets[0]
        arrays = [numpy_helper.to_array(one) if isinstance(one, TensorProto) else one for one in (*inputs, *outputs)]
        if not all(
            isinstance(array, np.ndarray | np.generic) and np.asarray(array).dtype.name in WIDE for array in arrays
        ):
            continue
        (proto,) = case.model.graph.node
        graph = case.model.graph
        given = {value.name: np.asarray(array) for value, array in zip(graph.input, arrays, strict=False)}
        opset = next(one.version for one in case.model.opset_import if not one.domain)
        attributes = {one.name: helper.get_attribute_value(one) for one in proto.attribute}
        node = Node("", operator, tuple(proto.input), tuple(proto.output), attributes, frozenset())
        try:
            found = exact(node, given, opset)
        except (UnsupportedNodeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue  # refused where a file is read
        if found is not None:
            known += 1
            for value, expected in zip(graph.output, arrays[len(inputs) :], strict=True):
                np.testing.assert_array_equal(found[value.name], expected, case.name)
    assert known or operator in ("Flatten", "Identity", "ReduceProd", "ReduceSum")
