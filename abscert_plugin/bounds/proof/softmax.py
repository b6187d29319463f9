"""Softmax and its kin inside a network: ends of what they give, from the ends of all entries that share, and tangents.

The share of an entry is largest where it is at its upper end and the others are at their lower ones, so both ends are
exact for real numbers. A runtime takes off the largest entry first, as ONNX defines it, or does not where nothing
overflows: exp(x - m) is off by a share of u |x - m| through its argument and by that of exp itself.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Interval
from abscert_plugin.bounds.proof.descent import Descent, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.functions import EXP_ERROR, EXP_LIMIT, LOG_ERROR
from abscert_plugin.bounds.proof.pairs import Ranged

_FARTHEST: Final = 110.0  # beyond, exp is less than any float32
_ROOM: Final = 1 + 2.0**-40


def softmax(axes: list[int]) -> Callable[[Interval], Interval]:
    """Return what gives the ends of a softmax over axes, from those of its argument."""

    def ends(given: Interval) -> Interval:
        lower, upper = given
        low, high = _shares(lower, upper, axes)
        share = 2 * _error(lower, upper, axes) + arithmetic.gamma(4)
        tiny = arithmetic.underflow(8.0 + _count(lower, axes))
        return (low * (1 - share) - tiny).clamp(min=0), high * (1 + share) + tiny

    return ends


@final
@dataclass(frozen=True, slots=True)
class Softmax(Unary):
    """Shares of exponentials along axes.

    Along a line the second derivative of a share p is p ((d - e)^2 - v), where d is the entry's own move, and e and v
    are mean and variance of all moves, weighted by the shares. So within radii r the tangent at the center is off by at
    most p (r + largest r)^2 / 2; where that is more than the ends say, these are taken.

    Args:
        output: name of what it gives.
        input: name of what it reads.
        axes: counted with the batch.
    """

    is_curved: ClassVar[bool] = True
    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    input: str
    axes: tuple[int, ...]

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        return Ranged(self.output, (self.input,), softmax(list(self.axes))).forward(values)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        axes, found = list(self.axes), descent.values[self.output]
        lower, upper = descent.values[self.input].computed()
        center = lower / 2 + upper / 2
        radius = torch.maximum(upper - center, center - lower)
        shares = (center - center.logsumexp(axes, keepdim=True)).exp()
        off = self._off(found.upper, lower, upper, radius)
        is_line = off < (found.upper - found.lower) / 2
        descent.finish(self.output, rows.masked_fill(is_line.unsqueeze(1), 0.0))
        rows = rows.masked_fill(~is_line.unsqueeze(1), 0.0)
        most = torch.maximum(lower.abs(), upper.abs()).amax(axes, keepdim=True)
        for _ in range(2):
            descent.account(rows, shares * (2 + 2 * most))
        by_shares = rows * shares.unsqueeze(1)
        sent = by_shares - shares.unsqueeze(1) * by_shares.sum([axis + 1 for axis in axes], keepdim=True)
        descent.add(descent.dot(rows, shares) - descent.dot(sent, center))
        descent.lose(rows, off * _ROOM)
        descent.read(self.input, sent)

    def _off(self, most: Tensor, lower: Tensor, upper: Tensor, radius: Tensor) -> Tensor:
        """Return how far what is computed may lie from the tangent, where shares are at most `most`."""
        axes = list(self.axes)
        bent = most * (radius + radius.amax(axes, keepdim=True)).square() / 2
        rounded = most * (2 * _error(lower, upper, axes) + arithmetic.gamma(6))
        return bent + rounded + arithmetic.underflow(16.0 + _count(lower, axes))


def log_softmax(axes: list[int]) -> Callable[[Interval], Interval]:
    """Return what gives the ends of a logarithm of softmax, x - m - log(sum of exp(x - m))."""

    def ends(given: Interval) -> Interval:
        lower, upper = given
        best, worst = upper.amax(axes, keepdim=True), lower.amax(axes, keepdim=True)
        low = lower - torch.logaddexp(lower, _others(lower, upper, axes, most=True))
        high = upper - torch.logaddexp(upper, _others(lower, upper, axes, most=False))
        size = torch.maximum((best - lower).abs(), (upper - worst).abs()) + math.log(_count(lower, axes)) + 1
        # the log may also be taken of x itself, without the largest entry
        reach = torch.maximum(lower.abs(), upper.abs()) + torch.maximum(best.abs(), worst.abs())
        error = _error(lower, upper, axes) + 2 * LOG_ERROR * size + 6 * arithmetic.UNIT * (size + reach)
        return low - error, high + error

    return ends


def log_sum_exp(axes: list[int], keeps: bool) -> Callable[[Interval], Interval]:
    """Return what gives the ends of log(sum of exp(x)); of nothing near where exp overflows or vanishes."""

    def ends(given: Interval) -> Interval:
        lower, upper = given
        low, high = (end.logsumexp(axes, keepdim=keeps) for end in given)
        size = torch.maximum(lower.abs(), upper.abs()).amax(axes, keepdim=keeps) + 1 + math.log(_count(lower, axes))
        error = _error(lower, upper, axes)
        error = (error if keeps else error.reshape(low.shape)) + (2 * LOG_ERROR + 6 * arithmetic.UNIT) * size
        is_known = size < EXP_LIMIT - 4
        return (low - error).where(is_known, -torch.inf), (high + error).where(is_known, torch.inf)

    return ends


def _shares(lower: Tensor, upper: Tensor, axes: list[int]) -> Interval:
    return (
        torch.sigmoid(lower - _others(lower, upper, axes, most=True)) * (1 - 2.0**-40),
        torch.sigmoid(upper - _others(lower, upper, axes, most=False)) * _ROOM,
    )


def _others(lower: Tensor, upper: Tensor, axes: list[int], most: bool) -> Tensor:
    """Return a bound of log(sum of exp) of the other entries, at their upper ends or at their lower ones."""
    end = upper if most else lower
    top = end.amax(axes, keepdim=True)
    powers = (end - top).exp()
    total = powers.sum(axes, keepdim=True)
    slack = (arithmetic.own_gamma(_count(lower, axes) + 16) + 2.0**-46) * total
    others = total - powers + slack if most else (total - powers - slack).clamp(min=0)
    return top + others.log() + (2.0**-40 if most else -(2.0**-40)) * (1 + top.abs())


def _error(lower: Tensor, upper: Tensor, axes: list[int]) -> Tensor:
    """Return the share that a sum of exponentials, or one of them, may be off by."""
    apart = (upper.amax(axes, keepdim=True) - lower.amin(axes, keepdim=True)).clamp(max=_FARTHEST)
    return (EXP_ERROR + 2 * arithmetic.UNIT * (apart + 1) + arithmetic.gamma(_count(lower, axes) + 2)) * (1 + 2.0**-10)


def _count(values: Tensor, axes: list[int]) -> int:
    return math.prod(values.shape[axis] for axis in axes)
