"""From affine nodes of a file to those of its guard: one function an operator."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np

from abscert_plugin.graph.walk import need
from abscert_plugin.guards import layers
from abscert_plugin.guards.linear import Array, Linear, Pooled, Weighted
from abscert_plugin.guards.values import Chain, Ends, Line
from abscert_plugin.guards.walk import View

_TRAINED: Final = 2.0**-40  # of weights that float64 made of others


def _affine(
    view: View, linear: Linear, bias: Array | None = None, bias_size: Array | None = None, place: int = 0
) -> None:
    """Give W x + b of what the node reads at a place."""
    size = np.abs(bias) if bias is not None and bias_size is None else bias_size
    value = view.value(place)
    if isinstance(value, Chain) and value.near is not None:
        value = value.near
    if isinstance(value, Ends):
        view.give(Line(value, view.shape(place), linear, bias, size, view.fact))
        return
    view.give(layers.affine_chain(view.emitter, view.chain(place), linear, bias, size, view.fact))


def _convolution(view: View) -> None:
    weights, is_transposed = view.numbers(1), view.node.operator == "ConvTranspose"
    groups = int(view.attribute("group", 1))
    axes = tuple(range(1, weights.ndim))
    # onnx's own reference gives every group the bias of the first
    need(not (is_transposed and groups > 1 and view.has(2)), "expected no bias of a ConvTranspose in groups")
    if is_transposed:
        products = weights.shape[0] // groups * prod(weights.shape[2:])
        row_sum = float(np.abs(weights).max()) * products
    else:
        products, row_sum = prod(weights.shape[1:]), float(np.abs(weights).sum(axis=axes).max())
    linear = Weighted(
        view.node.operator,
        view.node.attributes,
        weights,
        products,
        row_sum,
        None if is_transposed else 0,
        len(view.shape_after) + 1,
        view.stored(1),
    )
    view.read.update(view.node.attributes)
    bias = view.numbers(2).reshape(1, -1, *(1 for _ in weights.shape[2:])) if view.has(2) else None
    _affine(view, linear, bias)


def _gemm(view: View) -> None:
    view.require(transA=0)
    need(view.is_constant(1), "expected a constant matrix as the second factor")
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    is_turned = int(view.attribute("transB", 0))
    weights = view.numbers(1) * alpha
    stored = view.stored(1) if alpha == 1.0 else None
    bias = view.numbers(2) * beta if view.has(2) else None
    if bias is not None:
        bias = bias.reshape((1,) * (2 - bias.ndim) + bias.shape)
        need(bias.shape[0] == 1, "expected the same bias for all images")
    _affine(view, _matrix("Gemm", {"transB": is_turned}, weights, bool(is_turned), 2, stored), bias)


def _matmul(view: View) -> None:
    need(not view.is_constant(0) and view.is_constant(1), "expected a constant matrix as the second factor")
    weights = view.numbers(1)
    need(weights.ndim == 2, f"expected a matrix as the second factor, got {weights.ndim} axes")
    rank = len(view.shape_after) + 1
    operator = "Gemm" if rank == 2 else "MatMul"
    _affine(view, _matrix(operator, {}, weights, False, rank, view.stored(1)))


def _matrix(
    operator: str, attributes: Mapping[str, int], weights: Array, is_turned: bool, rank: int, stored: str | None
) -> Weighted:
    outputs = 0 if is_turned else 1
    row_sum = float(np.abs(weights).sum(axis=1 - outputs).max()) * (1 + _TRAINED)
    return Weighted(operator, attributes, weights, weights.shape[1 - outputs], row_sum, outputs, rank, stored)


def _pool(view: View) -> None:
    """Give means: AveragePool, GlobalAveragePool, ReduceMean; or sums: ReduceSum."""
    shapes = view.shape(), view.shape_after
    operator, attributes = view.node.operator, view.node.attributes
    if operator.startswith("Reduce"):
        axes = view.integers("axes", 1)
        rank = len(shapes[0]) + 1
        need(bool(axes) and all(axis % rank for axis in axes or ()), "expected axes, and the images to stay apart")
    most = prod(attributes["kernel_shape"]) if operator == "AveragePool" else prod(shapes[0]) // max(1, prod(shapes[1]))
    row_sum = float(most) if operator == "ReduceSum" else 1 + 2.0**-10
    constants = tuple(view.emitter.constant(view.array(place)) for place in range(1, len(view.node.inputs)))
    view.read.update(attributes)
    _affine(view, Pooled(operator, attributes, constants, most, row_sum))


def _batch_normalisation(view: View) -> None:
    view.require(training_mode=0, spatial=1)
    scale, shift, mean, variance = (view.numbers(place) for place in range(1, 5))
    factor = scale / np.sqrt(variance + float(view.attribute("epsilon", 1e-5)))
    full = (1, -1, *(1 for _ in view.shape_after[1:]))
    offset, size = shift - mean * factor, np.abs(shift) + np.abs(mean * factor)
    _scaled(view, factor.reshape(full), offset.reshape(full), size.reshape(full))


def _multiply(view: View) -> None:
    place = 0 if view.is_constant(1) else 1
    need(view.is_constant(1 - place), "expected a constant as one factor")
    _scaled(view, fitted(view, 1 - place), place=place)


def _divide(view: View) -> None:
    need(view.is_constant(1), "expected a constant divisor")
    divisor = fitted(view, 1)
    need(bool((np.abs(divisor) > 2.0**-100).all()), "expected divisors well away from 0")
    _scaled(view, 1 / divisor)


def _scaled(view: View, factor: Array, offset: Array | None = None, size: Array | None = None, place: int = 0) -> None:
    """Give factor * x + offset, entry by entry; after a linear node it is part of that."""
    pixels = view.pixels(place)
    if pixels is not None and factor.all() and factor.ndim <= len(view.shape_after) + 1:
        nothing = np.zeros(1)
        shift, shift_size = nothing if offset is None else offset, nothing if size is None else size
        if offset is not None and size is None:
            shift_size = np.abs(offset)
        view.give(pixels.scaled(view.once_more(pixels.center, place), factor, shift, shift_size, view.fact))
        return
    value = view.value(place)
    if isinstance(value, Line) and not value.moves:
        linear = value.linear.scaled(factor)
        if linear is not None:
            bias, bias_size = _sum(_times(value.bias, factor), offset), _sum(_times(value.bias_size, abs(factor)), size)
            view.give(replace(value, linear=linear, bias=bias, bias_size=bias_size, fact=view.fact))
            return
    need(factor.ndim <= len(view.shape_after) + 1, "expected a factor that goes with the value")
    top = float(np.abs(factor).max())
    linear = Weighted("Mul", {}, factor, 1, top, None, len(view.shape_after) + 1, None)
    _affine(view, linear, offset, size, place)


def _add(sign: int) -> Callable[[View], None]:
    def rule(view: View) -> None:
        if view.is_constant(1):
            _shifted(view, 0, 1, sign * fitted(view, 1))
        elif view.is_constant(0):
            _shifted(view, 1, sign, fitted(view, 0))
        else:
            need(len(view.shape()) == len(view.shape(1)), "expected two values of one rank")
            view.give(_joined(view, sign))

    return rule


def _joined(view: View, sign: int) -> Chain:
    rising, walk = view.rising, view.walk
    if rising is not None:
        return rising.written(view.emitter, walk.ends(rising.source), walk.chain(rising.source), view.fact)
    return layers.joined(view.emitter, view.chain(0), view.chain(1), sign, view.fact)


def _shifted(view: View, place: int, sign: int, bias: Array) -> None:
    """Give sign * x + b."""
    value = view.walk.values[view.name(place)]
    if sign == 1 and isinstance(value, Line) and not value.moves:
        sizes = _sum(value.bias_size, np.abs(bias))
        view.give(replace(value, bias=_sum(value.bias, bias), bias_size=sizes, fact=view.fact))
        return
    _scaled(view, np.array([float(sign)]), bias, np.abs(bias), place)


def _negate(view: View) -> None:
    _scaled(view, np.array([-1.0]))


def fitted(view: View, place: int) -> Array:
    """Return a constant that goes with the value entry by entry and does not enlarge it: [1, *] or fewer axes."""
    array, shape = view.numbers(place), view.shape_after
    need(array.ndim <= len(shape) + 1, "expected a constant that goes with the value")
    full = array.reshape((1,) * (len(shape) + 1 - array.ndim) + array.shape)
    need(full.shape[0] == 1, "expected the same constant for all images")
    need(view.shape(1 - place) == shape, "expected a constant that does not enlarge the value")
    return full


def _sum(first: Array | None, second: Array | None) -> Array | None:
    return second if first is None else first if second is None else first + second


def _times(first: Array | None, factor: Array) -> Array | None:
    return None if first is None else first * factor


AFFINE_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Add": _add(1),
        "AveragePool": _pool,
        "BatchNormalization": _batch_normalisation,
        "Conv": _convolution,
        "ConvTranspose": _convolution,
        "Div": _divide,
        "Gemm": _gemm,
        "GlobalAveragePool": _pool,
        "MatMul": _matmul,
        "Mul": _multiply,
        "Neg": _negate,
        "ReduceMean": _pool,
        "ReduceSum": _pool,
        "Sub": _add(-1),
    }
)
