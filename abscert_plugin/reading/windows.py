"""What torch computes for ONNX operators of windows: convolutions and pools over one axis, two or three."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.graph.operands import SAME, Window
from abscert_plugin.graph.walk import need
from abscert_plugin.reading.building import Computed, Function, View
from abscert_plugin.reading.sliding import CONVOLUTIONS, MAX_POOLS, RANKS, TRANSPOSED, Padding

_LEAST_SUM: Final = 1e-30  # of powers: at 0 the slope of a root is infinite


def _convolution(view: View) -> Computed:
    window, groups = view.window(view.array(1).shape[2:], RANKS), int(view.attribute("group", 1))
    pad, run = Padding(window.begins, window.ends), CONVOLUTIONS[len(window.kernel) - 1]

    def convolved(values: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        one = bias[0] if bias else None
        return run(pad(values), weight, one, stride=window.stride, dilation=window.dilation, groups=groups)

    return Computed((convolved,))


def _transposed_convolution(view: View) -> Computed:
    kernel, groups = view.array(1).shape[2:], int(view.attribute("group", 1))
    rank, sizes = len(kernel), view.shape()[1:]
    stride, dilation = view.steps("strides", rank), view.steps("dilations", rank)
    more = [int(size) for size in view.attribute("output_padding", [0] * rank)]
    full = [
        (size - 1) * step + (side - 1) * apart + 1 + extra
        for size, step, side, apart, extra in zip(sizes, stride, kernel, dilation, more, strict=True)
    ]
    begins, ends = _cut(view, sizes, stride, full)
    cut = Padding([-pad for pad in begins], [extra - pad for extra, pad in zip(more, ends, strict=True)])

    def convolved(values: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        run = TRANSPOSED[rank - 1]
        found = cut(run(values, weight, stride=stride, groups=groups, dilation=dilation))
        return found + bias[0].reshape(-1, *(1 for _ in kernel)) if bias else found

    return Computed((convolved,))


def _cut(view: View, sizes: Sequence[int], stride: Sequence[int], full: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return how much is cut off of a transposed convolution before and behind, along each axis."""
    rank, kind = len(sizes), view.attribute("auto_pad", b"NOTSET")
    given = view.attribute("output_shape", None)
    if given is None and kind not in SAME:
        pads = [int(pad) for pad in view.attribute("pads", [0] * 2 * rank)]
        return pads[:rank], pads[rank:]
    target = [size * step for size, step in zip(sizes, stride, strict=True)] if given is None else given
    totals = [size - int(wanted) for size, wanted in zip(full, target[-rank:], strict=True)]
    less, rest = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (rest, less) if kind != SAME[0] and given is None else (less, rest)


def _max_pool(view: View) -> Computed:
    need(len([name for name in view.node.outputs if name]) == 1, "expected no indices")
    window = view.pool(RANKS)
    pad, run = Padding(window.begins, window.ends, -torch.inf), MAX_POOLS[len(window.kernel) - 1]
    return Computed((lambda values: run(pad(values), window.kernel, window.stride, dilation=window.dilation),))


def _average_pool(view: View) -> Computed:
    window = view.pool(RANKS)
    summed, count = _window_sums(window), prod(window.kernel)
    counts = torch.full((1,), float(count))
    if not view.attribute("count_include_pad", 0):
        counts = summed(torch.ones((1, 1, *view.shape()[1:])))
    return Computed((lambda values: summed(values) / counts,))


def _lp_pool(view: View) -> Computed:
    return _root_of_powers(view, _window_sums(view.pool(RANKS)))


def _global_lp_pool(view: View) -> Computed:
    return _root_of_powers(view, lambda values: values.sum(_behind(values), keepdim=True))


def _root_of_powers(view: View, summed: Function) -> Computed:
    """Return (sum of |x|^p)^(1 / p), whose slope at 0 is taken to be finite."""
    power = int(view.attribute("p", 2))
    return Computed((lambda values: summed(values.abs().pow(power)).clamp(min=_LEAST_SUM).pow(1 / power),))


def _window_sums(window: Window) -> Function:
    """Return what sums the entries of each window, channel by channel."""
    pad, run = Padding(window.begins, window.ends), CONVOLUTIONS[len(window.kernel) - 1]
    kernel = torch.ones((1, 1, *window.kernel))

    def summed(values: Tensor) -> Tensor:
        found = run(pad(values).flatten(0, 1).unsqueeze(1), kernel, stride=window.stride, dilation=window.dilation)
        return found.reshape(*values.shape[:2], *found.shape[2:])

    return summed


WINDOWS: Final[Mapping[str, Callable[[View], Computed]]] = MappingProxyType(
    {
        "AveragePool": _average_pool,
        "Conv": _convolution,
        "ConvTranspose": _transposed_convolution,
        "GlobalAveragePool": lambda _: Computed((lambda values: values.mean(_behind(values), keepdim=True),)),
        "GlobalLpPool": _global_lp_pool,
        "GlobalMaxPool": lambda _: Computed((lambda values: values.amax(_behind(values), keepdim=True),)),
        "LpPool": _lp_pool,
        "MaxPool": _max_pool,
    }
)
"""From an operator of windows to what its output is of its input."""


def _behind(values: Tensor) -> list[int]:
    return list(range(2, values.ndim))
