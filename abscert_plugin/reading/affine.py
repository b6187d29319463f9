"""ONNX operators that are affine over channels or features: they fall together into one layer."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from abscert_plugin.reading.layers import Activation, Affine, NodeView, UnsupportedNodeError, Value


def as_affine(value: Value) -> Affine:
    """Return the value as an affine function: of itself, where it is an activation."""
    if isinstance(value, Affine):
        return value
    if len(value.shape) not in (1, 3):
        raise UnsupportedNodeError(f"expected images or features, got the shape {value.shape}")
    return Affine(value, np.eye(value.shape[0]), np.zeros(value.shape[0]))


def _per_channel(constant: np.ndarray, value: Value) -> np.ndarray:
    """Return a constant as one number for each channel or feature, in float64."""
    channels, *others = value.shape
    try:
        spread = np.broadcast_to(constant, (1, channels, *(1 for _ in others)))
    except ValueError as error:
        raise UnsupportedNodeError(
            f"expected a constant for each channel of {value.shape}, got one of shape {constant.shape}"
        ) from error
    return spread.reshape(channels).astype(np.float64)


def _split_operands(node: NodeView) -> tuple[Affine, np.ndarray, bool] | None:
    """Return (value, constant, whether the constant comes first), None where neither operand is a constant."""
    first, second = node.inputs
    if isinstance(first, np.ndarray):
        value = node.value(1)
        return as_affine(value), _per_channel(first, value), True
    if isinstance(second, np.ndarray):
        value = node.value(0)
        return as_affine(value), _per_channel(second, value), False
    return None


def _shared(node: NodeView, sign: int) -> Affine | None:
    """Return first + sign * second where both are affine functions of one activation."""
    first, second = node.value(0), node.value(1)
    if not (isinstance(first, Affine) and isinstance(second, Affine)):
        return None
    if first.source != second.source or first.shape != second.shape:
        return None
    return Affine(first.source, first.weight + sign * second.weight, first.bias + sign * second.bias)


def _add(node: NodeView) -> Affine | None:
    operands = _split_operands(node)
    if operands is None:
        return _shared(node, 1)
    value, constant, _ = operands
    return Affine(value.source, value.weight, value.bias + constant)


def _subtract(node: NodeView) -> Affine | None:
    operands = _split_operands(node)
    if operands is None:
        return _shared(node, -1)
    value, constant, constant_first = operands
    sign = -1 if constant_first else 1
    return Affine(value.source, sign * value.weight, sign * (value.bias - constant))


def _multiply(node: NodeView) -> Affine | None:
    operands = _split_operands(node)
    if operands is None:
        raise UnsupportedNodeError("expected a constant as one factor")
    value, constant, _ = operands
    return Affine(value.source, constant[:, None] * value.weight, constant * value.bias)


def _divide(node: NodeView) -> Affine | None:
    operands = _split_operands(node)
    if operands is None or operands[2]:
        raise UnsupportedNodeError("expected a constant divisor")
    value, constant, _ = operands
    return Affine(value.source, value.weight / constant[:, None], value.bias / constant)


def _matrix_product(node: NodeView) -> Affine | None:
    return _linear(node.value(), node.constant(1).T.astype(np.float64), np.zeros(1))


def _gemm(node: NodeView) -> Affine | None:
    node.require(transA=0)
    weight = node.constant(1).astype(np.float64)
    weight = (weight if node.attributes.get("transB", 0) else weight.T) * node.attributes.get("alpha", 1.0)
    constant = node.optional_constant(2)
    bias = np.zeros(1) if constant is None else constant.astype(np.float64) * node.attributes.get("beta", 1.0)
    return _linear(node.value(), weight, bias)


def _linear(value: Value, weight: np.ndarray, bias: np.ndarray) -> Affine:
    if not isinstance(value, Activation) or value.shape != weight.shape[1:]:
        raise UnsupportedNodeError(f"expected features and a matrix, got {value.shape} and {weight.shape[::-1]}")
    return Affine(value, weight, np.broadcast_to(bias, (1, len(weight))).reshape(-1))


AFFINE: Final[Mapping[str, Callable[[NodeView], Affine | None]]] = MappingProxyType(
    {"Add": _add, "Div": _divide, "Gemm": _gemm, "MatMul": _matrix_product, "Mul": _multiply, "Sub": _subtract}
)
"""From an operator to what it computes as an affine function; None where it joins two different activations."""

READS_ACTIVATIONS: Final = frozenset({"Gemm", "MatMul"})
"""Those that mix features: what they read has to be a layer's output."""


def split(node: NodeView, outputs: int) -> list[Affine]:
    """Return the parts of a Split along the channels."""
    value = as_affine(node.value())
    if node.attributes.get("axis", 0) not in (1, -len(value.shape)):
        raise UnsupportedNodeError("expected a Split along the channels")
    sizes = node.attributes.get("split") if "split" in node.attributes else node.optional_constant(1)
    if sizes is None:
        size = -(-value.shape[0] // outputs)
        sizes = np.diff(np.minimum(np.arange(outputs + 1) * size, value.shape[0]))
    if sum(sizes) != value.shape[0] or len(sizes) != outputs:
        raise UnsupportedNodeError(f"expected parts that add up to {value.shape[0]} channels, got {list(sizes)}")
    ends = np.cumsum(sizes)
    rows = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return [Affine(value.source, value.weight[part], value.bias[part]) for part in rows]
