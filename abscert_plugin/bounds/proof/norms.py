"""Rows over their norms: ends of x / |x| from those of x, where |x| is the largest entry, a sum, or a root of squares.

An entry t of a row gives t / n(|t|, s), where s is what the others add to the norm n. It rises with t, and falls in
size as s grows, so its ends are those at two corners. Of rows that may be close to 0, or so large that squares might
overflow, nothing is claimed: runtimes give a row of zeros as it is, onnx's reference divides by 1e-30 at least.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Interval

_LEAST: Final = 1e-6  # of a norm
_MOST: Final = 1e15
_ROOM: Final = 2.0**-40
_ROOT_OF_TINY: Final = 2.0**-62  # above the root of what may underflow of a square


def _share_of_sum(power: int) -> Callable[[Interval], Interval]:
    """Return what gives the ends of rows over the sum of sizes (1), or over the root of the sum of squares (2)."""

    def share(entries: Tensor, others: Tensor) -> Tensor:
        whole = (entries.abs().pow(power) + others).pow(1 / power)
        return torch.where(entries == 0, 0.0, entries / whole)

    def ends(given: Interval) -> Interval:
        lower, upper = given
        near, far = (size.pow(power) for size in _sizes(lower, upper))
        least, most = near.sum(1, keepdim=True), far.sum(1, keepdim=True)
        others = (least - near - _ROOM * least).clamp(min=0), most - far + _ROOM * most
        low = share(lower, torch.where(lower >= 0, others[1], others[0]))
        high = share(upper, torch.where(upper >= 0, others[0], others[1]))
        return _rounded(low, high, least.pow(1 / power), most.pow(1 / power))

    return ends


def _share_of_largest(given: Interval) -> Interval:
    """Return the ends of rows over their largest entry; of numbers below 0, runtimes differ about which that is."""
    lower, upper = given
    low = lower / torch.maximum(lower, _others_largest(upper)).clamp(min=_LEAST)
    high = upper / torch.maximum(upper, _others_largest(lower)).clamp(min=_LEAST)
    least, most = lower.amax(1, keepdim=True), upper.amax(1, keepdim=True)
    least = torch.where((lower >= 0).all(1, keepdim=True), least, -torch.inf)
    return _rounded(low, high, least, most)


def _others_largest(values: Tensor) -> Tensor:
    """Return the largest of the other entries of each row, 0 where there are none."""
    if values.shape[1] == 1:
        return torch.zeros_like(values)
    two = values.topk(2, 1)
    places = torch.arange(values.shape[1]).expand_as(values)
    return torch.where(places == two.indices[:, :1], two.values[:, 1:], two.values[:, :1])


def _sizes(lower: Tensor, upper: Tensor) -> Interval:
    near = torch.where(lower * upper > 0, torch.minimum(lower.abs(), upper.abs()), 0.0)
    return near, torch.maximum(lower.abs(), upper.abs())


def _rounded(low: Tensor, high: Tensor, least: Tensor, most: Tensor) -> Interval:
    """Return ends with room for roundings and underflow, where norms lie between `least` and `most`."""
    share = arithmetic.gamma(low.shape[1] + 12) + _ROOM
    fixed = 4 * _ROOT_OF_TINY / least.clamp(min=_LEAST) + arithmetic.underflow(8.0)
    is_known = (least >= _LEAST) & (most <= _MOST)
    low, high = low - share * low.abs() - fixed, high + share * high.abs() + fixed
    return low.where(is_known, -torch.inf), high.where(is_known, torch.inf)


NORMS: Final[Mapping[bytes, Callable[[Interval], Interval]]] = MappingProxyType(
    {b"L1": _share_of_sum(1), b"L2": _share_of_sum(2), b"MAX": _share_of_largest}
)
