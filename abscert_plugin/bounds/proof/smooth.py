"""Any function of one entry that bends by a known amount: ends, and lines below and above, from values on a grid.

**Lines.** Between two neighbouring points of a grid, h apart, a function with |f''| <= B differs from the straight line
through its values there by at most B h^2 / 8, and so does f(x) - k x. What that leaves is least at one of the points.
Where B is not finite, or loose, the ends of f and of k x in between do as well. At a kink the same holds on both sides
of it, with its own value among those of the points. One such grid serves every function.

**Errors.** What is computed differs from f(x) by at most `share` |f(x)| + `by_input` |x| + `fixed`, beside underflow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Function, Interval

_LIBRARY: Final = 2.0**-48  # bound of the errors of torch's float64 functions
_CELLS: Final = 24
_LOOK: Final = 6  # cells that tell one slope from another; any slope is sound


@final
@dataclass(frozen=True, slots=True)
class Error:
    """How far a computed value may lie from the exact one, in float32, beside underflow.

    Args:
        share: in terms of the value.
        by_input: in terms of the argument.
        fixed: at any argument.
    """

    share: float = 0.0
    by_input: float = 0.0
    fixed: float = 0.0

    def at(self, value: Tensor, point: Tensor) -> Tensor:
        """Return a bound of the error where the value and the argument are no larger than these."""
        return (self.share * value.abs() + self.by_input * point.abs() + self.fixed) * (1 + 2.0**-40)


Turns = Callable[[Tensor, Tensor], Sequence[tuple[Tensor, float]]]
"""From two ends to the values that a function may turn at between them: where it does, and the value."""


def turning(value: Callable[[Tensor], Tensor], *points: float) -> Turns:
    """Return the turns of a function that is monotone but at these points."""
    heights = [float(value(torch.tensor(point, dtype=torch.float64))) for point in points]

    def turns(lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        return [((lower <= point) & (point <= upper), height) for point, height in zip(points, heights, strict=True)]

    return turns


def everywhere(lower: Tensor, upper: Tensor) -> Tensor:
    """Return that a function is known between any two ends."""
    return (lower > -torch.inf) & (upper < torch.inf)


def within(least: float, most: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what tells where two ends lie between two numbers."""
    return lambda lower, upper: (lower >= least) & (upper <= most)


@final
@dataclass(frozen=True, slots=True)
class Smooth(Function):
    """A function that is twice differentiable but at its kinks.

    Args:
        value: the exact function, in float64.
        bend: a bound of the second derivative between two ends, left and right of any kink; inf where there is none.
        error: of what is computed.
        turns: where it is not monotone.
        kinks: where its slope jumps.
        known: where, between two ends, anything is claimed.
        own: absolute error of `value` in float64, in multiples of 2^-48 (1 + |x|); the relative one is 2^-48.
    """

    value: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor, Tensor], Tensor]
    error: Error
    turns: Turns = lambda *_: ()
    kinks: tuple[float, ...] = ()
    known: Callable[[Tensor, Tensor], Tensor] = everywhere
    own: float = 1.0

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        is_known = self.known(lower, upper)
        first, last = self.value(lower), self.value(upper)
        least, most = self._ends(lower, upper, first, last)
        far = torch.maximum(lower.abs(), upper.abs())
        least = least - self._error(least, far)
        most = most + self._error(most, far)
        tiny = arithmetic.underflow(2.0)
        # a subnormal value keeps its sign, or is flushed
        least = torch.where(least >= tiny, least, torch.where(least >= 0, 0.0, least - tiny))
        most = torch.where(most <= -tiny, most, torch.where(most <= 0, 0.0, most + tiny))
        return least.where(is_known, -torch.inf), most.where(is_known, torch.inf)

    @override
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        return lower < upper

    @override
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        width = upper - lower
        chord = (self.value(upper) - self.value(lower)) / width.clamp(min=1e-300)
        middle = (lower + upper) / 2
        reach = (width / 64).clamp(min=1e-6)
        at_middle = (self.value(middle + reach) - self.value(middle - reach)) / (2 * reach)
        at_ends = [
            (self.value(end + way * reach) - self.value(end)) / (way * reach) for end, way in ((lower, 1), (upper, -1))
        ]
        chord = torch.where(width > 1e-9, chord, at_middle).nan_to_num(0.0, 0.0, 0.0)
        choices = [chord, *(slope.nan_to_num(0.0, 0.0, 0.0) for slope in (at_middle, *at_ends))]
        points = [lower + width * (place / _LOOK) for place in range(_LOOK + 1)]
        values = [self.value(point) for point in points]
        below, above = chord, chord
        best_below, best_above = torch.full_like(chord, -torch.inf), torch.full_like(chord, torch.inf)
        for slope in choices:
            gaps = torch.stack([value - slope * (point - middle) for point, value in zip(points, values, strict=True)])
            least, most = gaps.amin(0), gaps.amax(0)  # of a line, at the middle
            below = torch.where(least > best_below, slope, below)
            above = torch.where(most < best_above, slope, above)
            best_below, best_above = torch.maximum(best_below, least), torch.minimum(best_above, most)
        return below, above

    @override
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        step = (upper - lower) / _CELLS
        start, first = lower, self.value(lower)
        least = torch.full_like(below + lower, torch.inf)
        most = -least
        size = first.abs()
        for place in range(1, _CELLS + 1):
            end = upper if place == _CELLS else lower + step * place
            last = self.value(end)
            curve = self.bend(start, end) * (end - start).square() * (0.125 * (1 + 2.0**-40))
            curve = torch.where(end > start, curve, 0.0).nan_to_num(torch.inf, torch.inf)
            low, high = self._ends(start, end, first, last)
            size = torch.maximum(size, torch.maximum(low.abs(), high.abs()))
            gaps_below, gaps_above = (
                [first - slope * start, last - slope * end, *self._at_kinks(start, end, first, slope)]
                for slope in (below, above)
            )
            sides = [torch.maximum(slope * start, slope * end) for slope in (below, -above)]
            least = torch.minimum(least, torch.maximum(torch.stack(gaps_below).amin(0) - curve, low - sides[0]))
            most = torch.maximum(most, torch.minimum(torch.stack(gaps_above).amax(0) + curve, high + sides[1]))
            start, first = end, last
        far = torch.maximum(lower.abs(), upper.abs())
        steep = torch.maximum(below.abs(), above.abs())
        margin = self._error(size, far) + arithmetic.own_gamma(32) * (size + steep * far)
        margin = margin + arithmetic.underflow(2.0) * (1 + steep)  # the argument or the value may be flushed
        is_known = self.known(lower, upper)
        return (least - margin).where(is_known, -torch.inf), (most + margin).where(is_known, torch.inf)

    def _ends(self, lower: Tensor, upper: Tensor, first: Tensor, last: Tensor) -> Interval:
        """Return ends of the exact function between two points where it has these values."""
        least, most = torch.minimum(first, last), torch.maximum(first, last)
        for is_there, height in self.turns(lower, upper):
            least = torch.where(is_there, least.clamp(max=height), least)
            most = torch.where(is_there, most.clamp(min=height), most)
        return least, most

    def _at_kinks(self, lower: Tensor, upper: Tensor, like: Tensor, slope: Tensor) -> list[Tensor]:
        """Return what a line leaves at kinks, or at the lower end where there is none."""
        found = []
        for kink in self.kinks:
            point = torch.where((lower < kink) & (kink < upper), kink, lower)
            found.append(torch.where(point == lower, like, self.value(point)) - slope * point)
        return found

    def _error(self, value: Tensor, far: Tensor) -> Tensor:
        """Return how far a computed value, or our own in float64, may lie from the exact one."""
        return self.error.at(value, far) + _LIBRARY * (value.abs() + self.own * (1 + far))


@final
@dataclass(frozen=True, slots=True)
class Stepped(Function):
    """A function that may jump: ends alone are known, and lines are constant.

    Args:
        ends: from the ends of the argument to those of what may be computed.
    """

    ends: Callable[[Tensor, Tensor], Interval]

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.ends(lower, upper)

    @override
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        least, most = self.ends(lower, upper)
        return least < most

    @override
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        return torch.zeros_like(lower), torch.zeros_like(lower)

    @override
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        least, most = self.ends(lower, upper)
        low = least - torch.maximum(below * lower, below * upper)
        high = most - torch.minimum(above * lower, above * upper)
        far = torch.maximum(lower.abs(), upper.abs())
        size = least.abs() + most.abs() + torch.maximum(below.abs(), above.abs()) * far
        margin = arithmetic.own_gamma(8) * size + arithmetic.underflow(2.0)
        return low - margin, high + margin
