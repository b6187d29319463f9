"""What a small network gives for one input in real arithmetic: rationals, where all its operators are rational."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

import numpy as np

from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.walk import MOVES, evaluate

_MOST: Final = 20_000  # entries of constants and of values that are computed: rationals are slow
_Arrays = Mapping[str, np.ndarray]


def exact_output(graph: Graph, point: np.ndarray) -> list[Fraction] | None:
    """Return the entries of the output for an input; None where an operator is not known here, or there is too much.

    Args:
        graph: the file's graph, with all tensors.
        point: the input, in the file's shape, float32.
    """
    arrays: dict[str, np.ndarray] = {graph.input: _rational(point)}
    size = 0
    for node in graph.between(graph.input):
        for name in node.inputs:
            if name in graph.tensors and name not in arrays:
                size += int(np.prod(graph.tensors[name].dims))
                if size > _MOST:
                    return None
                arrays[name] = _taken(graph.array(name))
        try:
            given = _given(node, arrays, graph.opset)
        except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError):
            return None
        if given is None:
            return None
        size += given.size
        arrays[node.outputs[0]] = given
    found = arrays.get(graph.output)
    return None if found is None or found.dtype != object or size > _MOST else [*found.reshape(-1)]


def _taken(array: np.ndarray) -> np.ndarray:
    """Return floats as rationals, and what is whole as it is."""
    return _rational(array) if array.dtype.kind == "f" else array


def _rational(array: np.ndarray) -> np.ndarray:
    found = np.empty(array.shape, dtype=object)
    for place, value in np.ndenumerate(array):
        found[place] = Fraction(float(value))
    return found


def _given(node: Node, arrays: _Arrays, opset: int) -> np.ndarray | None:
    inputs = [arrays[name] if name else None for name in node.inputs]
    if node.captured or len(node.outputs) != 1:
        return None
    if all(array is not None and array.dtype != object for array in inputs) and node.operator in MOVES:
        read = {name: arrays[name] for name in node.inputs}
        return _taken(evaluate(node, read, opset)[node.outputs[0]])
    rule = _RULES.get(node.operator)
    if rule is None or any(array is None for array in inputs):
        return None
    found = rule(node, *inputs)
    return None if found is None else np.asarray(found, dtype=object)


def _gemm(node: Node, first: Any, second: Any, bias: Any = None) -> Any:
    attributes = node.attributes
    first = first.T if attributes.get("transA", 0) else first
    second = second.T if attributes.get("transB", 0) else second
    found = Fraction(attributes.get("alpha", 1.0)) * (first @ second)
    return found if bias is None else found + Fraction(attributes.get("beta", 1.0)) * bias


def _leaky(node: Node, values: Any) -> Any:
    alpha = Fraction(float(np.float32(node.attributes.get("alpha", 0.01))))
    return np.where(values < 0, alpha * values, values)


def _flatten(node: Node, values: Any) -> Any:
    return values.reshape(int(np.prod(values.shape[: node.attributes.get("axis", 1)])), -1)


def _reshape(node: Node, values: Any, shape: Any) -> Any:
    if 0 in shape and node.attributes.get("allowzero", 0):
        return None
    sizes = [values.shape[place] if size == 0 else int(size) for place, size in enumerate(shape)]
    return values.reshape(sizes)


def _sum(node: Node, values: Any, axes: Any = None) -> Any:
    given = node.attributes.get("axes") if axes is None else axes.tolist()
    if not given and node.attributes.get("noop_with_empty_axes", 0):
        return values
    return values.sum(axis=tuple(given) if given else None, keepdims=bool(node.attributes.get("keepdims", 1)))


_RULES: Final[Mapping[str, Callable[..., Any]]] = {
    "Add": lambda _, first, second: first + second,
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.attributes["axis"]),
    "Div": lambda _, first, second: first / second,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": lambda _, values: values,
    "LeakyRelu": _leaky,
    "MatMul": lambda _, first, second: first @ second,
    "Mul": lambda _, first, second: first * second,
    "Neg": lambda _, values: -values,
    "ReduceSum": _sum,
    "Relu": lambda _, values: np.where(values > 0, values, np.asarray(Fraction(0), dtype=object)),
    "Reshape": _reshape,
    "Sub": lambda _, first, second: first - second,
    "Transpose": lambda node, values: np.transpose(values, node.attributes.get("perm")),
}
