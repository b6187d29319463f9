"""Nodes that read constants alone: moved exactly, or computed with the roundings of any other node."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Affine, total
from abscert_plugin.bounds.proof.affine_rules import reciprocal, reshaped
from abscert_plugin.bounds.proof.building import Build, UnsupportedStepError, need, point, weights
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Scale, Weights
from abscert_plugin.graph.nodes import Node

_SIZES: Final = frozenset({"Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"})
"""They only pick and order the sizes of a shape, so that a -1 for the batch keeps its meaning."""

MOVES: Final = _SIZES | {"Constant", "ConstantOfShape", "Expand", "Flatten", "Reshape", "Shape", "Split", "Transpose"}
"""Exact on constants of any type."""

_WHOLE: Final = frozenset({"Add", "Div", "Mul", "Neg", "Sub"})


def fold(build: Build, node: Node, opset: int) -> None:
    """Take up what a node on constants gives."""
    names = [name for name in node.inputs if name]
    if build.with_batch & set(names):
        need(node.operator in _SIZES, "expected the batch size to be used in shapes only")
    exact = all(name in build.arrays for name in names)
    is_whole = exact and all(build.arrays[name].dtype.kind in "iub" for name in names)
    if exact and (node.operator in MOVES or (is_whole and node.operator in _WHOLE)):
        found = _evaluate(node, {name: build.arrays[name] for name in names}, opset)
        build.arrays.update(found)
        if build.with_batch & set(names):
            build.with_batch |= set(found)
        return
    if node.operator in MOVES:
        build.constants.update(_moved(build, node, names, opset))
        return
    need(node.operator in _COMPUTED, "this operator on constants is not known here")
    given = [build.constants[name] if name in build.constants else point(build.arrays[name]) for name in names]
    build.constants[node.outputs[0]] = _COMPUTED[node.operator](*given).checked()


def sizes(build: Build, node: Node) -> None:
    """Take up the shape of a value that depends on the image; -1 is the batch."""
    shape = [-1, *build.values[node.inputs[0]].lower.shape[1:]]
    kept = shape[node.attributes.get("start", 0) : node.attributes.get("end")]
    build.arrays[node.outputs[0]] = np.array(kept, dtype=np.int64)
    if -1 in kept:
        build.with_batch.add(node.outputs[0])


def _evaluate(node: Node, arrays: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray]:
    """Compute a node by onnx's own reference."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in arrays.items()
    ]
    names = [name for name in node.outputs if name]
    made = helper.make_node(node.operator, node.inputs, node.outputs, **node.attributes)
    graph = helper.make_graph([made], "constants", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    results = ReferenceEvaluator(model).run(None, dict(arrays))
    return dict(zip(names, map(np.asarray, results), strict=True))


def _moved(build: Build, node: Node, names: list[str], opset: int) -> dict[str, Enclosure]:
    """Move constants that are not known exactly: each of their ends is moved."""
    need(node.operator != "Cast" or node.attributes["to"] == onnx.TensorProto.FLOAT, "expected a Cast to float32")
    data = [name for name in names if name in build.constants or build.arrays[name].dtype == np.float32]
    given = {name: build.constants[name] if name in build.constants else point(build.arrays[name]) for name in data}
    others = {name: build.arrays[name] for name in names if name not in given}
    parts = []
    for part in ("lower", "upper", "magnitude"):
        if node.operator in ("Cast", "Identity"):
            parts.append({node.outputs[0]: getattr(given[names[0]], part).numpy()})
        else:
            arrays = {name: getattr(given[name], part).numpy() if name in given else others[name] for name in names}
            parts.append(_evaluate(node, arrays, opset))
    some = list(given.values())
    lower, upper, magnitude = (
        {name: torch.from_numpy(np.array(array, dtype=np.float64)) for name, array in part.items()} for part in parts
    )
    return {
        name: Enclosure(
            lower[name],
            upper[name],
            magnitude[name],
            max(one.roundings for one in some),
            torch.stack([one.underflow for one in some]).amax(0),
            torch.stack([one.reach for one in some]).amax(0),
            max(one.gain for one in some),
        )
        for name in lower
    }


# --- what is computed ------------------------------------------------------------------------------------------------


def _product(first: Enclosure, second: Weights) -> Enclosure:
    shape = torch.broadcast_shapes(first.lower.shape, second.center.shape)
    given = reshaped(first, (1,) * (1 + len(shape) - first.lower.ndim) + tuple(first.lower.shape))
    grown = given.moved(lambda values: values.expand(1, *shape))
    found = Affine("", "c", Scale(second)).forward({"c": grown})
    return reshaped(found, shape)


def _multiply(first: Enclosure, second: Enclosure) -> Enclosure:
    return _product(first, weights(second))


def _divide(first: Enclosure, second: Enclosure) -> Enclosure:
    return _product(first, reciprocal(second))


def _subtract(first: Enclosure, second: Enclosure) -> Enclosure:
    return total(first, second.negated())


def _square_root(value: Enclosure) -> Enclosure:
    lower, upper = value.computed()
    if not bool((lower >= 2 * arithmetic.TINY).all()):
        raise UnsupportedStepError("expected roots of numbers well above 0")
    share = arithmetic.gamma(2) + arithmetic.own_gamma(8)
    return held(lower.sqrt() * (1 - share), upper.sqrt() * (1 + share), is_constant=True)


_COMPUTED: Final[Mapping[str, Callable[..., Enclosure]]] = MappingProxyType(
    {
        "Add": total,
        "Div": _divide,
        "Mul": _multiply,
        "Neg": Enclosure.negated,
        "Sqrt": _square_root,
        "Sub": _subtract,
    }
)

ON_CONSTANTS: Final = MOVES | set(_COMPUTED)
