"""From affine ONNX nodes to steps."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Affine, Join, Shift
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.constants import exactly, reciprocal, reshaped, scaled, weights
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Convolution, Matrix, Mean, Scale, Weights
from abscert_plugin.graph.walk import need


def _convolution(view: View) -> None:
    weight = view.constant(1)
    window = view.window(weight.lower.shape[2:], (1, 2, 3))
    source, begins = view.name(), window.begins
    if begins != window.ends:
        source, begins = view.move(source, _padder(begins, window.ends)), [0] * len(begins)
    options = {"stride": window.stride, "padding": begins, "dilation": window.dilation}
    options["groups"] = view.attribute("group", 1)
    bias = reshaped(view.constant(2), (1, -1, *(1 for _ in begins))) if view.has(2) else None
    need(bias is None or bias.lower.shape[1] == len(weight.lower), f"expected a bias for each of {len(weight.lower)}")
    view.affine(source, Convolution(weights(weight), options), bias)


def _padder(begins: Sequence[int], ends: Sequence[int]) -> Callable[[Tensor], Tensor]:
    pads = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    return lambda values: torch.nn.functional.pad(values, pads)


def _matrix_product(view: View) -> None:
    weight = view.constant(1)
    need(weight.lower.ndim == 2, "expected a matrix as the second factor")
    need(view.shape()[-1:] == weight.lower.shape[:1], f"expected rows of {weight.lower.shape[0]} to be multiplied")
    view.affine(view.name(), Matrix(weights(weight)))


def _gemm(view: View) -> None:
    view.require(transA=0)
    weight, by_rows = view.constant(1), view.attribute("transB", 0)
    need(len(view.shape()) == 1, f"expected features, got the shape {view.shape()}")
    matrix = Matrix(weights(weight, lambda values: values.T.contiguous() if by_rows else values))
    need(view.shape() == matrix.weights.center.shape[:1], f"expected {len(matrix.weights.center)} features")
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    bias = view.constant(2) if view.has(2) else None  # finite: runtimes may add 0 times it
    if bias is not None and not beta:
        bias = None
    elif bias is not None:
        bias = reshaped(bias, (1, *bias.lower.shape)) if bias.lower.ndim < 2 else bias
        need(bias.lower.ndim == 2 and len(bias.lower) == 1, "expected the same bias for all images")
        bias = bias if beta == 1 else scaled(bias, beta)
        need(bias.lower.shape[1] in (1, matrix.weights.center.shape[1]), "expected a bias for each output")
    if alpha == 1:
        view.affine(view.name(), matrix, bias)
    else:
        product = view.walk.append(Affine(view.part(), view.name(), matrix))
        view.affine(product, Scale(exactly(alpha)), bias)


# --- entry by entry --------------------------------------------------------------------------------------------------


def _sum(view: View, sign: int) -> None:
    if view.is_constant(1):
        source, bias = _pair(view, 0, 1)
        view.walk.append(Shift(view.output, source, 1, bias.negated() if sign < 0 else bias))
    elif view.is_constant(0):
        source, bias = _pair(view, 1, 0)
        view.walk.append(Shift(view.output, source, sign, bias))
    else:
        shape = torch.broadcast_shapes(view.shape(0), view.shape(1))
        need(len(view.shape(0)) == len(view.shape(1)), "expected two values of one rank")
        first, second = (_expanded(view, view.name(place), shape) for place in (0, 1))
        view.walk.append(Join(view.output, first, second, sign))


def _pair(view: View, place: int, constant_place: int) -> tuple[str, Enclosure]:
    """Return a value and a constant that goes with it entry by entry; the value is repeated where it has to be."""
    constant, shape = view.constant(constant_place), view.shape(place)
    given = tuple(constant.lower.shape)
    need(len(given) <= len(shape) + 1, f"expected a constant that goes with {shape}, got {given}")
    need(len(given) <= len(shape) or given[0] == 1, "expected the same constant for all images")
    full = (1,) * (len(shape) + 1 - len(given)) + given
    joint = torch.broadcast_shapes(shape, full[1:])
    return _expanded(view, view.name(place), joint), reshaped(constant, full)


def _expanded(view: View, name: str, shape: Sequence[int]) -> str:
    if tuple(view.walk.values[name].lower.shape[1:]) == tuple(shape):
        return name
    return view.move(name, lambda values: values.expand(len(values), *shape))


def _multiply(view: View) -> None:
    place = 0 if view.is_constant(1) else 1
    need(view.is_constant(1 - place), "expected a constant as one factor")
    source, factor = _pair(view, place, 1 - place)
    view.affine(source, Scale(weights(factor)))


def _divide(view: View) -> None:
    need(view.is_constant(1), "expected a constant divisor")
    source, divisor = _pair(view, 0, 1)
    view.affine(source, Scale(reciprocal(divisor)))


def _negate(view: View) -> None:
    view.walk.append(Shift(view.output, view.name(), -1, None))


def _batch_normalisation(view: View) -> None:
    """Scale and shift of each channel; the runtime may compute scale / sqrt(var + eps) first, or last."""
    view.require(training_mode=0, spatial=1)
    need(len(view.node.outputs) == 1, "expected a BatchNormalization of inference")
    need(bool(view.shape()), "expected channels")
    rank, channels = len(view.shape()) - 1, view.shape()[0]
    arrays = [torch.from_numpy(view.array(place).astype("float64")) for place in range(1, 5)]
    for place in range(1, 5):
        given = view.constant(place).lower.shape  # float32 and finite
        need(given == (channels,), f"expected a constant for each of {channels} channels, got {tuple(given)}")
    scale, shift, mean, variance = (array.reshape(1, -1, *(1 for _ in range(rank))) for array in arrays)
    variance = variance + float(view.attribute("epsilon", 1e-5))
    need(bool((variance >= 2.0**-100).all()), "expected variances well above 0")  # so a flushed one changes little
    inverse = variance.rsqrt()
    factor = scale * inverse
    offset = shift - mean * factor
    own = arithmetic.own_gamma(16)
    absolute = factor.abs() * (1 + own)
    size = (shift.abs() + mean.abs() * absolute) * (1 + own)
    gain = max(1.0, float(scale.abs().max())) * max(1.0, float(inverse.max()))
    underflow = arithmetic.underflow(8.0) * gain
    made = Weights(factor, absolute, own * absolute, 6, float(underflow), gain)
    bias = Enclosure(
        offset - own * size,
        offset + own * size,
        size,
        9,
        torch.tensor([underflow * (1 + float(mean.abs().max()))], dtype=torch.float64),
        (1 + mean.abs().max() + shift.abs().max()).reshape(1),
        gain,
    ).checked()
    need(bool(bias.magnitude.isfinite().all()), "its constants overflow")
    # differences from the mean, times one factor
    peak = gain * (1 + float(mean.abs().max())) * 2
    view.affine(view.name(), Scale(made), bias, peak=peak, underflows=8 * gain)


# --- means -----------------------------------------------------------------------------------------------------------


def _average_pool(view: View) -> None:
    window = view.pool()
    view.require(dilations=[1, 1])
    pad, count = _padder(window.begins, window.ends), prod(window.kernel)

    def summed(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(pad(values), window.kernel, window.stride, divisor_override=1)

    counts: Tensor = torch.full((1, 1, 1, 1), float(count), dtype=torch.float64)
    if not view.attribute("count_include_pad", 0):
        counts = summed(torch.ones((1, 1, *view.shape()[1:]), dtype=torch.float64))
        need(bool((counts > 0).all()), "a window holds only padding")
    _mean(view, summed, counts, count)


def _global_average_pool(view: View) -> None:
    need(len(view.shape()) >= 2, "expected images")
    _reduced(view, list(range(2, len(view.shape()) + 1)), True, True)


def _reduce(view: View, is_mean: bool) -> None:
    axes = view.integers("axes", 1)
    need(bool(axes), "expected axes")
    assert axes is not None
    rank = len(view.shape()) + 1
    places = sorted({axis % rank for axis in axes})
    need(places[0] > 0, "expected the images of a batch to stay apart")
    _reduced(view, places, bool(view.attribute("keepdims", 1)), is_mean)


def _reduced(view: View, axes: list[int], keeps: bool, is_mean: bool) -> None:
    count = prod(view.shape()[axis - 1] for axis in axes)
    divisor = torch.full((1,), float(count if is_mean else 1), dtype=torch.float64)
    _mean(view, lambda values: values.sum(axes, keepdim=keeps), divisor, count)


def _mean(view: View, summed: Callable[[Tensor], Tensor], counts: Tensor, products: int) -> None:
    factor = reciprocal(held(counts, counts, is_constant=True))
    mean = Mean(summed, factor, products)
    view.affine(view.name(), mean, peak=2.0 * products)


AFFINE_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Add": lambda view: _sum(view, 1),
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalisation,
        "Conv": _convolution,
        "Div": _divide,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "MatMul": _matrix_product,
        "Mul": _multiply,
        "Neg": _negate,
        "ReduceMean": lambda view: _reduce(view, True),
        "ReduceSum": lambda view: _reduce(view, False),
        "Sub": lambda view: _sum(view, -1),
    }
)
