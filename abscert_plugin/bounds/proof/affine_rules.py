"""From affine ONNX nodes to steps."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Affine, Join, Shift
from abscert_plugin.bounds.proof.building import View, need, weights, zeros_padded
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Convolution, Matrix, Mean, Scale, Weights

_RECIPROCAL: Final = 3  # roundings of a factor that may be a reciprocal and be multiplied later


def _convolution(view: View) -> None:
    weight = view.constant(1)
    rank = weight.lower.ndim - 2
    need(1 <= rank <= 3 and len(view.shape()) == rank + 1, "expected a window over 1 to 3 axes of images")
    kernel = weight.lower.shape[2:]
    stride, dilation = _steps(view, "strides", rank), _steps(view, "dilations", rank)
    begins, ends = padding(view, kernel, stride, dilation)
    source = view.value()
    if begins != ends:
        source = view.move(source, _padder(begins, ends))
        begins = [0] * rank
    options = {"stride": stride, "padding": begins, "dilation": dilation, "groups": view.attributes.get("group", 1)}
    bias = _channels(view.constant(2), rank) if view.has(2) else None
    view.build.append(Affine(view.node.outputs[0], source, Convolution(weights(weight), options), bias))


def padding(
    view: View, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the padding at the beginning and the end of each axis."""
    kind, rank = view.attributes.get("auto_pad", b"NOTSET"), len(kernel)
    pads = [int(pad) for pad in view.attributes.get("pads", [0] * 2 * rank)]
    if kind in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = view.shape()[1:]
        spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
        totals = [
            max((-(-size // step) - 1) * step + span - size, 0)
            for size, step, span in zip(sizes, stride, spans, strict=True)
        ]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = [*less, *more] if kind == b"SAME_UPPER" else [*more, *less]
    elif kind == b"VALID":
        pads = [0] * 2 * rank
    need(len(pads) == 2 * rank and min(pads) >= 0, f"expected 2 x {rank} paddings of at least 0, got {pads}")
    return pads[:rank], pads[rank:]


def _padder(begins: Sequence[int], ends: Sequence[int]) -> Callable[[Tensor], Tensor]:
    pads = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    return lambda values: zeros_padded(values, pads)


def _steps(view: View, attribute: str, rank: int) -> list[int]:
    steps = [int(step) for step in view.attributes.get(attribute, [1] * rank)]
    need(len(steps) == rank and min(steps) >= 1, f"expected {rank} {attribute} of at least 1, got {steps}")
    return steps


def _channels(constant: Enclosure, rank: int) -> Enclosure:
    """Return a constant of one number a channel so that it goes with images."""
    return reshaped(constant, (1, -1, *(1 for _ in range(rank))))


def reshaped(constant: Enclosure, shape: Sequence[int]) -> Enclosure:
    """Return a constant in another shape."""
    return constant.moved(lambda values: values.reshape(tuple(shape)))


def _matrix_product(view: View) -> None:
    weight = view.constant(1)
    need(weight.lower.ndim == 2, "expected a matrix as the second factor")
    need(view.shape()[-1:] == weight.lower.shape[:1], f"expected rows of {weight.lower.shape[0]} to be multiplied")
    view.build.append(Affine(view.node.outputs[0], view.value(), Matrix(weights(weight)), None))


def _gemm(view: View) -> None:
    view.require(transA=0)
    weight, by_rows = view.constant(1), view.attributes.get("transB", 0)
    need(len(view.shape()) == 1, f"expected features, got the shape {view.shape()}")
    matrix = Matrix(weights(weight, lambda values: values.T.contiguous() if by_rows else values))
    need(view.shape() == matrix.weights.center.shape[:1], f"expected {len(matrix.weights.center)} features")
    alpha, beta = float(view.attributes.get("alpha", 1.0)), float(view.attributes.get("beta", 1.0))
    bias = None
    if view.has(2) and beta:
        bias = view.constant(2)
        bias = reshaped(bias, (1, *bias.lower.shape)) if bias.lower.ndim < 2 else bias
        need(bias.lower.ndim == 2 and len(bias.lower) == 1, "expected the same bias for all images")
        bias = bias if beta == 1 else _scaled(bias, beta)
        need(bias.lower.shape[1] in (1, matrix.weights.center.shape[1]), "expected a bias for each output")
    output = view.node.outputs[0]
    if alpha == 1:
        view.build.append(Affine(output, view.value(), matrix, bias))
        return
    product = view.build.append(Affine(view.part(), view.value(), matrix, None))
    view.build.append(Affine(output, product, Scale(_number(alpha)), bias))


def _number(number: float) -> Weights:
    values = torch.full((1,), number, dtype=torch.float64)
    return weights(held(values, values, is_constant=True))


def _scaled(constant: Enclosure, factor: float) -> Enclosure:
    """Return a constant times an exact number."""
    return Affine("", "c", Scale(_number(factor))).forward({"c": constant})


# --- entry by entry --------------------------------------------------------------------------------------------------


def _add(view: View) -> None:
    _sum(view, 1)


def _subtract(view: View) -> None:
    _sum(view, -1)


def _sum(view: View, sign: int) -> None:
    output = view.node.outputs[0]
    if view.is_constant(1):
        source, bias = _pair(view, 0, 1)
        view.build.append(Shift(output, source, 1, bias.negated() if sign < 0 else bias))
    elif view.is_constant(0):
        source, bias = _pair(view, 1, 0)
        view.build.append(Shift(output, source, sign, bias))
    else:
        first, second = view.value(0), view.value(1)
        shape = torch.broadcast_shapes(view.shape(0), view.shape(1))
        need(len(view.shape(0)) == len(view.shape(1)), "expected two values of one rank")
        view.build.append(Join(output, _expanded(view, first, shape), _expanded(view, second, shape), sign))


def _pair(view: View, place: int, constant_place: int) -> tuple[str, Enclosure]:
    """Return a value and a constant that goes with it entry by entry; the value is repeated where it has to be."""
    constant, shape = view.constant(constant_place), view.shape(place)
    given = tuple(constant.lower.shape)
    need(len(given) <= len(shape) + 1, f"expected a constant that goes with {shape}, got {given}")
    need(len(given) <= len(shape) or given[0] == 1, "expected the same constant for all images")
    full = (1,) * (len(shape) + 1 - len(given)) + given
    joint = torch.broadcast_shapes(shape, full[1:])
    return _expanded(view, view.value(place), joint), reshaped(constant, full)


def _expanded(view: View, name: str, shape: Sequence[int]) -> str:
    if tuple(view.build.values[name].lower.shape[1:]) == tuple(shape):
        return name
    return view.move(name, lambda values: values.expand(len(values), *shape))


def _multiply(view: View) -> None:
    place = 0 if view.is_constant(1) else 1
    need(view.is_constant(1 - place), "expected a constant as one factor")
    source, factor = _pair(view, place, 1 - place)
    view.build.append(Affine(view.node.outputs[0], source, Scale(weights(factor))))


def _divide(view: View) -> None:
    need(view.is_constant(1), "expected a constant divisor")
    source, divisor = _pair(view, 0, 1)
    view.build.append(Affine(view.node.outputs[0], source, Scale(reciprocal(divisor))))


def reciprocal(divisor: Enclosure) -> Weights:
    """Return 1 / c as weights, which a runtime may compute and multiply by, or divide by c."""
    lower, upper = divisor.computed()
    least = torch.minimum(lower.abs(), upper.abs())
    need(bool(((lower * upper > 0) & (least >= 2 * arithmetic.TINY)).all()), "expected divisors well away from 0")
    ends = 1 / upper, 1 / lower
    center = ends[0] / 2 + ends[1] / 2
    absolute = (1 / least) * (1 + arithmetic.own_gamma(4))
    radius = (ends[1] - ends[0]).abs() / 2 + arithmetic.own_gamma(8) * absolute
    gain = max(1.0, float(absolute.max()))
    return Weights(center, absolute, radius, _RECIPROCAL, arithmetic.underflow(2.0), gain)


def _negate(view: View) -> None:
    view.build.append(Shift(view.node.outputs[0], view.value(), -1, None))


def _batch_normalisation(view: View) -> None:
    """Scale and shift of each channel; the runtime may compute scale / sqrt(var + eps) first, or last."""
    view.require(training_mode=0)
    need(len(view.node.outputs) == 1, "expected a BatchNormalization of inference")
    need(bool(view.shape()), "expected channels")
    rank = len(view.shape()) - 1
    arrays = [torch.from_numpy(view.array(place).astype("float64")) for place in range(1, 5)]
    for place in range(1, 5):
        view.constant(place)  # float32 and finite
    scale, shift, mean, variance = (array.reshape(1, -1, *(1 for _ in range(rank))) for array in arrays)
    variance = variance + float(view.attributes.get("epsilon", 1e-5))
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
    view.build.append(Affine(view.node.outputs[0], view.value(), Scale(made), bias, peak, 8 * gain))


# --- means -----------------------------------------------------------------------------------------------------------


def _average_pool(view: View) -> None:
    view.require(ceil_mode=0)
    kernel = [int(size) for size in view.attributes["kernel_shape"]]
    rank = len(kernel)
    need(rank == 2 and len(view.shape()) == 3, "expected a window over the 2 axes of images")
    view.require(dilations=[1] * rank)
    stride = _steps(view, "strides", rank)
    begins, ends = padding(view, kernel, stride, [1] * rank)
    pad = _padder(begins, ends)

    def summed(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(pad(values), kernel, stride, divisor_override=1)

    counts: Tensor = torch.full((1, 1, 1, 1), float(prod(kernel)), dtype=torch.float64)
    if not view.attributes.get("count_include_pad", 0):
        counts = summed(torch.ones((1, 1, *view.shape()[1:]), dtype=torch.float64))
        need(bool((counts > 0).all()), "a window holds only padding")
    _mean(view, summed, counts, prod(kernel))


def _global_average_pool(view: View) -> None:
    need(len(view.shape()) >= 2, "expected images")
    _reduced(view, list(range(2, len(view.shape()) + 1)), True, True)


def _reduce_mean(view: View) -> None:
    _reduce(view, True)


def _reduce_sum(view: View) -> None:
    _reduce(view, False)


def _reduce(view: View, is_mean: bool) -> None:
    axes = view.integers("axes", 1)
    need(bool(axes), "expected axes")
    assert axes is not None
    rank = len(view.shape()) + 1
    places = sorted({axis % rank for axis in axes})
    need(places[0] > 0, "expected the images of a batch to stay apart")
    _reduced(view, places, bool(view.attributes.get("keepdims", 1)), is_mean)


def _reduced(view: View, axes: list[int], keeps: bool, is_mean: bool) -> None:
    count = prod(view.shape()[axis - 1] for axis in axes)
    divisor = torch.full((1,), float(count if is_mean else 1), dtype=torch.float64)
    _mean(view, lambda values: values.sum(axes, keepdim=keeps), divisor, count)


def _mean(view: View, summed: Callable[[Tensor], Tensor], counts: Tensor, products: int) -> None:
    factor = reciprocal(held(counts, counts, is_constant=True))
    mean = Mean(summed, factor, products)
    view.build.append(Affine(view.node.outputs[0], view.value(), mean, None, peak=2.0 * products))


AFFINE_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Add": _add,
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalisation,
        "Conv": _convolution,
        "Div": _divide,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "MatMul": _matrix_product,
        "Mul": _multiply,
        "Neg": _negate,
        "ReduceMean": _reduce_mean,
        "ReduceSum": _reduce_sum,
        "Sub": _subtract,
    }
)
