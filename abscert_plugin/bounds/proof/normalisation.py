"""Normalisations whose statistics are those of the input, put together from squares, means, roots and products."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, prod
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic, functions
from abscert_plugin.bounds.proof.activations import Interval
from abscert_plugin.bounds.proof.blocks import (
    difference_of,
    divided_by,
    expanded,
    fitted,
    function_of,
    mean_of,
    product_of,
    scaled_by,
    shape_of,
    shifted_by,
    square_of,
)
from abscert_plugin.bounds.proof.building import SAME, View
from abscert_plugin.bounds.proof.constants import reshaped
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.nonlinear import Hold
from abscert_plugin.bounds.proof.pairs import Product, Ranged, corners
from abscert_plugin.bounds.proof.smooth_rules import number
from abscert_plugin.graph.walk import need

_MODERATE: Final = 2.0**30


def normalised(
    view: View, source: str, axes: Sequence[int], epsilon: float, is_centred: bool = True, most: float = inf
) -> str:
    """Give (x - mean) / sqrt(variance + epsilon), the mean 0 where it is not centred; x is one tensor to the node.

    Nothing is known of it where |x| may be above `most`.
    """
    need(epsilon >= 2.0**-100, f"expected an epsilon well above 0, got {epsilon}")
    source = view.walk.append(Hold(view.part(), source, most))
    shape = shape_of(view, source)
    if is_centred:
        source = difference_of(view, source, mean_of(view, source, axes))
    variance = mean_of(view, square_of(view, source), axes)
    root = function_of(view, shifted_by(view, variance, epsilon), functions.INVERSE_ROOT)
    # a difference keeps its error in every pass; of the input itself a quick one may know the ends alone
    limit = _limit(source, variance, prod(shape[axis - 1] for axis in axes), epsilon) if is_centred else None
    product = Product(view.part(), source, expanded(view, root, shape), torch.mul, 1, corners, limit)
    return view.walk.append(product)


def _limit(source: str, variance: str, count: int, epsilon: float) -> Callable[[Mapping[str, Enclosure]], Tensor]:
    """Return what bounds |d| / sqrt(v + epsilon), where v is the mean of n squares among which d^2 is: sqrt(n), about.

    With errors e of d, and of v less than epsilon / 2: v + epsilon is at least d^2 / n + epsilon / 2 as computed, so it
    is below sqrt(n) + 2 e / sqrt(epsilon / 2), times a few roundings.
    """

    def limit(values: Mapping[str, Enclosure]) -> Tensor:
        difference, mean_square = values[source], values[variance]
        error, of_square = difference.error(), mean_square.error()
        error = torch.zeros_like(difference.lower) if error is None else error
        assert of_square is not None
        bound = (count**0.5 + 2 * error / (epsilon / 2) ** 0.5) * (1 + 64 * arithmetic.UNIT)
        return torch.where((of_square < epsilon / 2).expand_as(bound), bound, torch.inf)

    return limit


def _affine(view: View, source: str, scale: Enclosure | None, bias: Enclosure | None) -> None:
    """Give a value times a constant plus a constant, as the node's output."""
    if scale is not None:
        source = scaled_by(view, source, scale, None if bias is not None else view.output)
    if bias is not None:
        shifted_by(view, source, bias, view.output)
    if scale is None and bias is None:
        view.move(source, lambda values: values, view.output)


def _from_axis(view: View) -> list[int]:
    rank = len(view.shape()) + 1
    return list(range(view.axis(-1, rank), rank))


def _layer(view: View, is_centred: bool = True) -> None:
    need(len([name for name in view.node.outputs if name]) == 1, "expected the normalised values alone")
    view.require(stash_type=1)
    axes, rank = _from_axis(view), len(view.shape()) + 1
    is_sum = any(node.operator == "Add" for node in view.givers(view.node.inputs[0], SAME))  # of small numbers too
    is_joined = is_centred and len(axes) > 1 and rank == 3 and is_sum
    need(not is_joined, "expected the last axis alone behind an Add; onnxruntime joins them and takes that for it")
    found = normalised(view, view.name(), axes, number(view, "epsilon", 1e-5), is_centred)
    scale, bias = (fitted(view.constant(place), rank) if view.has(place) else None for place in (1, 2))
    _affine(view, found, scale, bias)


def _instance(view: View) -> None:
    shape = view.shape()
    need(len(shape) >= 2, "expected images")
    scale = view.constant(1).magnitude
    # a kernel computes x (s r) - mean (s r): with moderate numbers no product on the way over- or underflows
    is_moderate = (scale == 0) | ((scale >= 1 / _MODERATE) & (scale <= _MODERATE))
    need(bool(is_moderate.all()), "expected scales of a moderate size")
    axes, epsilon = range(2, len(shape) + 1), number(view, "epsilon", 1e-5)
    found = normalised(view, view.name(), axes, epsilon, most=_MODERATE)
    _affine(view, found, *(_by_channel(view.constant(place), shape) for place in (1, 2)))


def _by_channel(constant: Enclosure, shape: Sequence[int]) -> Enclosure:
    need(tuple(constant.lower.shape) == tuple(shape[:1]), f"expected {shape[0]} numbers, one for each channel")
    return reshaped(constant, (1, -1, *(1 for _ in shape[1:])))


def _group(view: View) -> None:
    view.require(stash_type=1)
    shape, groups = view.shape(), int(view.attribute("num_groups", 0))
    need(groups > 0 and shape[0] % groups == 0, f"expected groups of equal size, got {groups} of {shape[0]} channels")
    apart = view.move(view.name(), lambda values: values.reshape(len(values), groups, -1))
    found = normalised(view, apart, [2], number(view, "epsilon", 1e-5))
    together = view.move(found, lambda values: values.reshape(len(values), *shape))
    constants = [view.constant(place) for place in (1, 2)]
    if view.walk.graph.opset < 21:  # one number for each group then
        each = shape[0] // groups
        constants = [one.moved(lambda values: values.repeat_interleave(each)) for one in constants]
    _affine(view, together, *(_by_channel(one, shape) for one in constants))


def _mean_variance(view: View) -> None:
    """(x - mean) / (sqrt(variance) + 1e-9), of which nothing is known where the variance may be 0.

    onnxruntime's kernel adds no 1e-9.
    """
    axes = [axis % (len(view.shape()) + 1) for axis in view.attribute("axes", [0, 2, 3])]
    source, shape = view.walk.append(Hold(view.part(), view.name())), view.shape()
    difference = difference_of(view, source, mean_of(view, source, axes))
    root = function_of(view, mean_of(view, square_of(view, difference), axes), functions.SQRT)
    most = torch.full((1,) * (len(shape) + 1), 1e-9, dtype=torch.float64)
    added = held(torch.zeros_like(most), most, is_constant=True)
    inverse = function_of(view, shifted_by(view, root, added), functions.RECIPROCAL)
    product_of(view, difference, expanded(view, inverse, shape), view.output)


def _unit_length(view: View) -> None:
    order, axis = int(view.attribute("p", 2)), view.axis(-1, len(view.shape()) + 1)
    need(order in (1, 2), f"expected p = 1 or 2, got {order}")
    source = view.name()
    if order == 2:
        length = function_of(view, mean_of(view, square_of(view, source), [axis], is_sum=True), functions.SQRT)
    else:
        length = mean_of(view, function_of(view, source, functions.ABS), [axis], is_sum=True)
    inverse = function_of(view, length, functions.RECIPROCAL)
    product_of(view, source, expanded(view, inverse, view.shape()), view.output)


def _local_response(view: View) -> None:
    """X / (bias + alpha / size * the sum of squares of neighbouring channels)^beta."""
    size, beta = int(view.attribute("size", 0)), number(view, "beta", 0.75)
    alpha, bias = number(view, "alpha", 1e-4), number(view, "bias", 1.0)
    need(size > 0 and beta > 0 and len(view.shape()) >= 2, "expected size and beta above 0, and images")
    source, channels = view.name(), view.shape()[0]
    before, behind = (size - 1) // 2, size // 2

    # a kernel goes from one channel to the next: it adds the square that comes in, and takes off the one that leaves
    share = arithmetic.gamma(3 * (2 * channels + size) + 8)

    def summed(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values.flatten(2), (0, 0, before, behind))
        total = sum((padded[:, start : start + channels] for start in range(1, size)), padded[:, :channels])
        return total.reshape(values.shape)

    def ends(squares: Interval) -> Interval:
        lower, upper = (end.clamp(min=0) for end in squares)
        last = [min(channel + behind, channels - 1) for channel in range(channels)]
        room = (share + arithmetic.own_gamma(channels + size)) * upper.cumsum(1)[:, last]
        room = room + arithmetic.underflow(8.0 * channels)
        return summed(lower) - room, summed(upper) + room

    total = view.walk.append(Ranged(view.part(), (square_of(view, source),), ends))
    scaled = scaled_by(view, divided_by(view, total, size), alpha)
    factor = function_of(view, shifted_by(view, scaled, bias), functions.power(-beta))
    product_of(view, source, factor, view.output)


NORMALISATION_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "GroupNormalization": _group,
        "InstanceNormalization": _instance,
        "LRN": _local_response,
        "LayerNormalization": _layer,
        "LpNormalization": _unit_length,
        "MeanVarianceNormalization": _mean_variance,
        "RMSNormalization": lambda view: _layer(view, False),
    }
)
