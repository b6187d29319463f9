"""From the nodes of a file to those of its guard: one function an operator."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np

from abscert_plugin.bounds.proof.activations import SIGMOID_ERROR, TANH_ERROR
from abscert_plugin.graph.operands import SHAPES, new_shape
from abscert_plugin.graph.walk import need
from abscert_plugin.guard import layers
from abscert_plugin.guard.emitter import Emitter
from abscert_plugin.guard.layers import Line
from abscert_plugin.guard.linear import Array, Linear, Pooled, Weighted
from abscert_plugin.guard.values import Chain, Ends
from abscert_plugin.guard.walk import View, moved

_TRAINED: Final = 2.0**-40  # of weights that float64 made of others
_SLOPED: Final = 2.0**-21  # of one rounding of the file and some of the guard's own

# --- affine nodes ----------------------------------------------------------------------------------------------------


def _affine(view: View, linear: Linear, bias: Array | None = None, bias_size: Array | None = None) -> None:
    """Give W x + b."""
    size = np.abs(bias) if bias is not None and bias_size is None else bias_size
    value = view.value()
    if isinstance(value, Ends):
        view.give(Line(value, linear, bias, size, view.fact))
    else:
        view.give(layers.affine_chain(view.emitter, view.chain(), linear, bias, size, view.fact))


def _convolution(view: View) -> None:
    weights, is_transposed = view.numbers(1), view.node.operator == "ConvTranspose"
    groups = int(view.attribute("group", 1))
    axes = tuple(range(1, weights.ndim))
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
        len(_shape_of(view)) + 1,
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
    rank = len(_shape_of(view)) + 1
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
    shapes = _shape_of(view, 0), _shape_of(view)
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
    full = (1, -1, *(1 for _ in _shape_of(view)[1:]))
    offset, size = shift - mean * factor, np.abs(shift) + np.abs(mean * factor)
    _scaled(view, factor.reshape(full), offset.reshape(full), size.reshape(full))


def _multiply(view: View) -> None:
    place = 0 if view.is_constant(1) else 1
    need(view.is_constant(1 - place), "expected a constant as one factor")
    _scaled(view, _fitted(view, 1 - place), place=place)


def _divide(view: View) -> None:
    need(view.is_constant(1), "expected a constant divisor")
    divisor = _fitted(view, 1)
    need(bool((np.abs(divisor) > 2.0**-100).all()), "expected divisors well away from 0")
    _scaled(view, 1 / divisor)


def _scaled(view: View, factor: Array, offset: Array | None = None, size: Array | None = None, place: int = 0) -> None:
    """Give factor * x + offset, entry by entry; after a linear node it is part of that."""
    value = view.value(place)
    if isinstance(value, Line) and not value.moves:
        linear = value.linear.scaled(factor)
        if linear is not None:
            bias, bias_size = _sum(_times(value.bias, factor), offset), _sum(_times(value.bias_size, abs(factor)), size)
            view.give(Line(value.source, linear, bias, bias_size, view.fact))
            return
    need(factor.ndim <= len(_shape_of(view)) + 1, "expected a factor that goes with the value")
    top = float(np.abs(factor).max())
    linear = Weighted("Mul", {}, factor, 1, top, None, len(_shape_of(view)) + 1, None)
    if isinstance(value, Ends):
        view.give(Line(value, linear, offset, size, view.fact))
    else:
        chain = view.chain(place)
        view.give(layers.affine_chain(view.emitter, chain, linear, offset, size, view.fact))


def _add(sign: int) -> Callable[[View], None]:
    def rule(view: View) -> None:
        if view.is_constant(1):
            _shifted(view, 0, 1, sign * _fitted(view, 1))
        elif view.is_constant(0):
            _shifted(view, 1, sign, _fitted(view, 0))
        else:
            need(_shape_of(view, 0) == _shape_of(view, 1), "expected two values of one shape")
            view.give(layers.joined(view.emitter, view.chain(0), view.chain(1), sign, view.fact))

    return rule


def _shifted(view: View, place: int, sign: int, bias: Array) -> None:
    """Give sign * x + b."""
    value = view.value(place)
    if sign == 1 and isinstance(value, Line) and not value.moves:
        sizes = _sum(value.bias_size, np.abs(bias))
        view.give(replace(value, bias=_sum(value.bias, bias), bias_size=sizes, fact=view.fact))
        return
    _scaled(view, np.array([float(sign)]), bias, np.abs(bias), place)


def _negate(view: View) -> None:
    _scaled(view, np.array([-1.0]))


def _fitted(view: View, place: int) -> Array:
    """Return a constant that goes with the value entry by entry and does not enlarge it: [1, *] or fewer axes."""
    array, shape = view.numbers(place), _shape_of(view)
    need(array.ndim <= len(shape) + 1, "expected a constant that goes with the value")
    full = array.reshape((1,) * (len(shape) + 1 - array.ndim) + array.shape)
    need(full.shape[0] == 1, "expected the same constant for all images")
    need(_shape_of(view, 1 - place) == shape, "expected a constant that does not enlarge the value")
    return full


def _sum(first: Array | None, second: Array | None) -> Array | None:
    return second if first is None else first if second is None else first + second


def _times(first: Array | None, factor: Array) -> Array | None:
    return None if first is None else first * factor


# --- what only moves entries -----------------------------------------------------------------------------------------


def _reshape(view: View) -> None:
    shape = new_shape(view)
    need(shape == _shape_of(view), "expected the images of a batch to stay apart")
    target = np.array([-1, *shape], dtype=np.int64)
    view.moved(lambda emitter, name: emitter.node("Reshape", [name, emitter.constant(target)]))


def _copied(view: View) -> None:
    """Give what the same node makes of the entries."""
    node, arrays = (
        view.node,
        [view.array(place) if view.has(place) else None for place in range(1, len(view.node.inputs))],
    )
    view.read.update(node.attributes)

    def move(emitter: Emitter, name: str) -> str:
        others = ["" if array is None else emitter.constant(array) for array in arrays]
        return emitter.copy(node.operator, node.attributes, [name, *others])

    view.moved(move)


def _same(view: View) -> None:
    view.need_inert()
    view.give(view.value())


def _transpose(view: View) -> None:
    order = list(view.order())
    view.moved(lambda emitter, name: emitter.node("Transpose", [name], perm=order))


def _pad(view: View) -> None:
    need(view.attribute("mode", b"constant") == b"constant", "expected a Pad by zeros")
    need(not view.has(2) or not view.array(2).any(), "expected a Pad by zeros")
    _copied(view)


def _split(view: View) -> None:
    axis, sizes = view.parts()
    starts = np.cumsum([0, *sizes])
    for place, output in enumerate(view.node.outputs):
        window = [np.array([number], dtype=np.int64) for number in (starts[place], starts[place + 1], axis)]

        def move(emitter: Emitter, name: str, window: list[np.ndarray] = window) -> str:
            return emitter.node("Slice", [name, *(emitter.constant(number) for number in window)])

        if output:
            view.walk.values[output] = moved(view.emitter, view.value(), move)


def _concatenate(view: View) -> None:
    axis = view.axis(0, len(_shape_of(view)) + 1)
    places = range(len(view.node.inputs))
    need(not any(map(view.is_constant, places)), "expected no constants among what is put together")
    emitter = view.emitter
    if not all(isinstance(view.value(place), Ends) for place in places):
        chains = [layers.rescaled(emitter, view.chain(place), 0) for place in places]
        parts = [
            emitter.node("Concat", [getattr(chain, part) for chain in chains], axis=axis)
            for part in ("center", "radius", "size")
        ]
        fact = view.fact
        view.give(Chain(parts[0], parts[1], parts[2], 0, fact.top, fact.roundings, fact.underflow))
        return
    ends = [layers.plain(emitter, view.ends(place)) for place in places]
    lower, upper = (
        emitter.node("Concat", [getattr(end, side) for end in ends], axis=axis) for side in ("lower", "upper")
    )
    view.give(Ends(lower, upper, 0, max(end.top for end in ends), all(end.is_positive for end in ends)))


# --- nonlinear nodes, which rise --------------------------------------------------------------------------------------


def _relu(view: View) -> None:
    value = view.ends()
    lower, upper = (view.emitter.node("Relu", [name]) for name in (value.lower, value.upper))
    view.give(Ends(lower, upper, value.power, view.fact.top, is_positive=True))


def _largest(view: View) -> None:
    value, attributes = view.ends(), view.node.attributes
    need(len([name for name in view.node.outputs if name]) == 1, "expected no indices")
    view.read.update(attributes)
    lower, upper = (view.emitter.copy(view.node.operator, attributes, [name]) for name in (value.lower, value.upper))
    view.give(Ends(lower, upper, value.power, view.fact.top, value.is_positive))


def _clip(view: View) -> None:
    value, bounds = layers.plain(view.emitter, view.ends()), []
    for place, name in ((1, "min"), (2, "max")):
        given = view.array(place).reshape(-1) if view.has(place) else view.attribute(name, None)
        bounds.append(None if given is None else np.array(np.reshape(given, -1)[0], dtype=np.float32))
    names = ["" if bound is None else view.emitter.constant(bound) for bound in bounds]
    lower, upper = (view.emitter.node("Clip", [name, *names]) for name in (value.lower, value.upper))
    is_positive = value.is_positive or (bounds[0] is not None and float(bounds[0]) >= 0)
    view.give(Ends(lower, upper, 0, view.fact.top, is_positive))


def _leaky(view: View) -> None:
    """Give LeakyRelu or PRelu; a slope of 0 to 1 rises, and the file rounds once."""
    if view.node.operator == "PRelu":
        slopes = _fitted(view, 1)
        more = [view.emitter.nearest(slopes)]
        attributes: Mapping[str, float] = {}
    else:
        alpha = float(view.attribute("alpha", 0.01))
        slopes, more, attributes = np.array(alpha), [], {"alpha": alpha}
    need(bool(((slopes >= 0) & (slopes <= 1)).all()), "expected slopes from 0 to 1")
    value, share = view.ends(), view.emitter.number(_SLOPED)
    ends = []
    for name, way in ((value.lower, "Sub"), (value.upper, "Add")):
        found = view.emitter.copy(view.node.operator, attributes, [name, *more])
        slack = view.emitter.node("Mul", [view.emitter.node("Abs", [found]), share])
        ends.append(view.emitter.node(way, [found, slack]))
    view.give(Ends(ends[0], ends[1], value.power, view.fact.top))


def _s_shaped(error: float) -> Callable[[View], None]:
    """Give sigmoid or tanh, which the file and the guard compute to within an error."""

    def rule(view: View) -> None:
        value = layers.plain(view.emitter, view.ends())
        slack = view.emitter.number(2 * error + 2.0**-22)
        ends = []
        for name, way in ((value.lower, "Sub"), (value.upper, "Add")):
            ends.append(view.emitter.node(way, [view.emitter.node(view.node.operator, [name]), slack]))
        view.give(Ends(ends[0], ends[1], 0, view.fact.top))

    return rule


def _shape_of(view: View, place: int | None = None) -> tuple[int, ...]:
    """Return the shape, without the batch, of what a node reads at a place, or gives."""
    return view.walk.shape_after(view.output) if place is None else view.shape(place)


RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Add": _add(1),
        "AveragePool": _pool,
        "BatchNormalization": _batch_normalisation,
        "Clip": _clip,
        "Concat": _concatenate,
        "Conv": _convolution,
        "ConvTranspose": _convolution,
        "DepthToSpace": _copied,
        "Div": _divide,
        "Dropout": _same,
        "Gather": _copied,
        "Gemm": _gemm,
        "GlobalAveragePool": _pool,
        "GlobalMaxPool": _largest,
        "Identity": _same,
        "LeakyRelu": _leaky,
        "MatMul": _matmul,
        "MaxPool": _largest,
        "Mul": _multiply,
        "Neg": _negate,
        "PRelu": _leaky,
        "Pad": _pad,
        "ReduceMean": _pool,
        "ReduceSum": _pool,
        "Relu": _relu,
        "Sigmoid": _s_shaped(SIGMOID_ERROR),
        "Slice": _copied,
        "SpaceToDepth": _copied,
        "Split": _split,
        "Sub": _add(-1),
        "Tanh": _s_shaped(TANH_ERROR),
        "Transpose": _transpose,
        **dict.fromkeys(SHAPES, _reshape),
    }
)
