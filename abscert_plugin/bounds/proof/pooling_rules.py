"""From ONNX nodes that pool, windows or everything, to steps."""

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from abscert_plugin.bounds.proof import arithmetic, functions
from abscert_plugin.bounds.proof.activations import Interval
from abscert_plugin.bounds.proof.building import SAME, View
from abscert_plugin.bounds.proof.constants import exactly, reciprocal
from abscert_plugin.bounds.proof.enclosure import held
from abscert_plugin.bounds.proof.maps import Mean
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.pairs import Ranged
from abscert_plugin.graph.operands import Window
from abscert_plugin.graph.walk import need
from abscert_plugin.reading.sliding import CONVOLUTIONS, MAX_POOLS, RANKS, Padding

_LARGEST_POWER: Final = 8

_MOVING: Final = (*SAME, "AveragePool", "MaxPool", "Reshape", "Slice", "Transpose")  # of numbers of at least 0 too
_POSITIVE: Final = ("Relu", "Sigmoid")


def _need_no_joined_pad(view: View, is_harmless: bool) -> None:
    """Raise if a Pad by zeros stands before a pool: onnxruntime 1.31 joins them, and may pad by something else.

    It does so where there are transposes between them, or about the Pad, that cancel each other.
    """
    pad = view.giver(view.node.inputs[0], (*SAME, "Transpose"))
    if pad is None or pad.operator != "Pad" or is_harmless:
        return
    before = view.giver(pad.inputs[0], _MOVING)
    is_below = before is not None and before.operator in _POSITIVE and view.node.operator == "MaxPool"
    window = view.pool(RANKS)
    given = pad.attributes["pads"] if "pads" in pad.attributes else view.walk.constant(pad.inputs[1])
    most = max(0, *np.asarray(given).reshape(-1).tolist()) + max(*window.begins, *window.ends)
    # else a window may hold nothing but what it is padded by
    is_below &= set(window.dilation) == {1} and most < min(window.kernel)
    need(is_below, "expected no Pad before it, but behind a Relu; onnxruntime joins them and pads by other numbers")


def _max_pool(view: View) -> None:
    _need_no_joined_pad(view, False)
    need(len([name for name in view.node.outputs if name]) == 1, "expected no indices")
    window = view.pool(RANKS)
    pad, run = Padding(window.begins, window.ends, -torch.inf), MAX_POOLS[len(window.kernel) - 1]

    def pool(values: Tensor) -> Tensor:
        return run(pad(values), window.kernel, window.stride, dilation=window.dilation)

    empty = pool(torch.zeros((1, *view.shape()), dtype=torch.float64))
    need(bool((empty == 0).all()), "a window holds only padding")
    view.walk.append(Largest(view.output, view.name(), pool))


def _global_max_pool(view: View) -> None:
    axes = _behind_channels(view)
    view.walk.append(Largest(view.output, view.name(), lambda values: values.amax(axes, keepdim=True)))


def _behind_channels(view: View) -> list[int]:
    need(len(view.shape()) >= 2, "expected images")
    return list(range(2, len(view.shape()) + 1))


# --- sums and means --------------------------------------------------------------------------------------------------


def _average_pool(view: View) -> None:
    window = view.pool(RANKS)
    _need_no_joined_pad(view, bool(view.attribute("count_include_pad", 0)) or not any([*window.begins, *window.ends]))
    summed, count = _window_sums(window), prod(window.kernel)
    counts: Tensor = torch.full((1, 1, *(1 for _ in window.kernel)), float(count), dtype=torch.float64)
    ones = torch.ones((1, 1, *view.shape()[1:]), dtype=torch.float64)
    inside = summed(ones)
    need(bool((inside > 0).all()), "a window holds only padding")
    if not view.attribute("count_include_pad", 0):
        counts = inside
    elif view.attribute("ceil_mode", 0):
        # what ceil_mode adds behind the padding is counted by some runtimes and not by others
        given = view.window(window.kernel, RANKS)
        need(given.ends == window.ends, "expected no window past the padding, with ceil_mode and count_include_pad")
    _mean(view, summed, counts, count)


def _window_sums(window: Window) -> Callable[[Tensor], Tensor]:
    """Return what sums the entries of each window, channel by channel."""
    pad, rank = Padding(window.begins, window.ends), len(window.kernel)
    if rank == 2 and window.dilation == [1, 1]:
        return lambda values: functional.avg_pool2d(pad(values), window.kernel, window.stride, divisor_override=1)

    def summed(values: Tensor) -> Tensor:
        padded = pad(values).flatten(0, 1).unsqueeze(1)
        kernel = torch.ones((1, 1, *window.kernel), dtype=values.dtype)
        found = CONVOLUTIONS[rank - 1](padded, kernel, stride=window.stride, dilation=window.dilation)
        return found.reshape(*values.shape[:2], *found.shape[2:])

    return summed


def _global_average_pool(view: View) -> None:
    _reduced(view, _behind_channels(view), True, True)


def _reduce(view: View, is_mean: bool) -> None:
    if view.reduces_nothing():
        view.moved(lambda values: values)
        return
    axes, keeps = view.reduced_axes()
    _reduced(view, axes, keeps, is_mean)


def _reduced(view: View, axes: list[int], keeps: bool, is_mean: bool) -> None:
    count = prod(view.shape()[axis - 1] for axis in axes)
    divisor = torch.full((1,), float(count if is_mean else 1), dtype=torch.float64)
    _mean(view, lambda values: values.sum(axes, keepdim=keeps), divisor, count)


def _mean(view: View, summed: Callable[[Tensor], Tensor], counts: Tensor, products: int) -> None:
    factor = reciprocal(held(counts, counts, is_constant=True))
    mean = Mean(summed, factor, products)
    view.affine(view.name(), mean, peak=2.0 * products)


def _running_sum(view: View) -> None:
    rank, axis = len(view.shape()) + 1, int(view.array(1).reshape(-1)[0])
    need(-rank <= axis < rank and axis % rank > 0, "expected the images of a batch to stay apart")
    place, size = axis % rank, view.shape()[axis % rank - 1]
    is_exclusive, is_reverse = bool(view.attribute("exclusive", 0)), bool(view.attribute("reverse", 0))

    def summed(values: Tensor) -> Tensor:
        turned = values.flip(place) if is_reverse else values
        sums = turned.cumsum(place)
        if is_exclusive:
            sums = torch.cat([torch.zeros_like(sums.narrow(place, 0, 1)), sums.narrow(place, 0, size - 1)], place)
        return sums.flip(place) if is_reverse else sums

    view.affine(view.name(), Mean(summed, exactly(1.0), size))


# --- roots of sums of powers -----------------------------------------------------------------------------------------


def _lp_pool(view: View) -> None:
    window = view.pool(RANKS)
    _need_no_joined_pad(view, True)  # by zeros, which add nothing
    _root_of_powers(view, _window_sums(window), prod(window.kernel))


def _global_lp_pool(view: View) -> None:
    axes = _behind_channels(view)
    count = prod(view.shape()[axis - 1] for axis in axes)
    _root_of_powers(view, lambda values: values.sum(axes, keepdim=True), count)


def _root_of_powers(view: View, summed: Callable[[Tensor], Tensor], count: int) -> None:
    """Give (sum of |x|^p)^(1 / p), which rises with each |x|."""
    power = int(view.attribute("p", 2))
    need(1 <= power <= _LARGEST_POWER, f"expected p from 1 to {_LARGEST_POWER}, got {power}")
    if power == 1:
        sizes = view.walk.append(Activation(view.part(), view.name(), functions.ABS))
        view.affine(sizes, Mean(summed, exactly(1.0), count))
        return
    # 1 / p is rounded, and is an exponent of sums from 2^-126 to 2^128
    share = functions.POWER_ERROR * 2 + arithmetic.gamma(count + 4 * power + 16 + 90 * (power > 2))
    share = share + arithmetic.own_gamma(count + 64)
    tiny = 2 * (count * arithmetic.underflow(4.0)) ** (1 / power)
    most = arithmetic.LARGEST ** (1 / power) / 4

    def ends(given: Interval) -> Interval:
        lower, upper = given
        near = torch.where(lower * upper > 0, torch.minimum(lower.abs(), upper.abs()), 0.0)
        far = torch.maximum(lower.abs(), upper.abs())
        low, high = (summed(size.pow(power)).clamp(min=0).pow(1 / power) for size in (near, far))
        low, high = (low * (1 - share) - tiny).clamp(min=0), high * (1 + share) + tiny
        return low.where(high < most, -torch.inf), high.where(high < most, torch.inf)

    view.walk.append(Ranged(view.output, (view.name(),), ends))


POOLING_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "AveragePool": _average_pool,
        "CumSum": _running_sum,
        "GlobalAveragePool": _global_average_pool,
        "GlobalLpPool": _global_lp_pool,
        "GlobalMaxPool": _global_max_pool,
        "LpPool": _lp_pool,
        "MaxPool": _max_pool,
        "ReduceMean": lambda view: _reduce(view, True),
        "ReduceSum": lambda view: _reduce(view, False),
    }
)
