"""Sigmoid and tanh: lines of any slope, and tangents whose place is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Function, Interval, Lines, flushed

SIGMOID_ERROR: Final = 2 * 1.77905e-07
"""Assumed largest error of a computed sigmoid: twice the largest that was seen over all float32 arguments."""

TANH_ERROR: Final = 2 * 3.25369e-07
"""The same of tanh. Both were measured by benchmarks/activation_error.py on onnxruntime 1.31.1."""

_LIBRARY: Final = 2.0**-48
"""Bound of the errors of torch's float64 sigmoid and tanh, and of what is made of them here."""

_HALVINGS: Final = 20  # that find where a tangent meets the far end; any slope is sound

Touching = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The first point of tangents below, the one of half of the way, and the last; where there are any; slope and offset of
the line elsewhere."""


@final
@dataclass(frozen=True, slots=True)
class SShaped(Function):
    """Sigmoid or tanh: shift + height * h(steepness x), h odd, convex below 0 and concave above, h = tanh.

    sigmoid(x) = 1/2 + tanh(x / 2) / 2.

    Args:
        shift: value at 0.
        height: half of the range.
        steepness: of the argument, a power of two.
        error: largest error of a computed value, an assumption.
    """

    shift: float
    height: float
    steepness: float
    error: float

    has_choice: ClassVar[bool] = True

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        least = self._odd(lower) + self.shift
        most = least if upper is lower else self._odd(upper) + self.shift
        margin = self.error + _LIBRARY
        return flushed(least - margin, most + margin)

    @override
    def apart(self, distance: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        slope, error = self.steepest
        return slope * distance + error

    @property
    @override
    def steepest(self) -> tuple[float, float]:
        return self.height * self.steepness * (1 + _LIBRARY), 2 * (self.error + _LIBRARY)

    @override
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        return lower < upper

    @override
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        return self._slope_below(lower, upper), self._slope_below(-upper, -lower)  # it is odd

    def _slope_below(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the slope of the tangent at half of the way, or of the chord."""
        _, middle, _, is_free, chord, _ = self._touching(lower, upper)
        return torch.where(is_free, self._slope(middle), chord)

    @override
    def chosen(self, lower: Tensor, upper: Tensor, share: Tensor) -> Interval:
        """Return slopes of tangents, at a share of the way from the first point that one may touch to the last.

        Half of the way is the middle between the ends, or the last point where that lies before it: a tangent there is
        near the curve at both ends, where one at the last point may be far below the lower end.
        """
        sides = self._touching(lower, upper), self._touching(-upper, -lower)
        below, above = (self._tangent(side, share)[0] for side in sides)
        return below, above

    @override
    def first_share(self, lower: Tensor, upper: Tensor) -> Tensor:
        # steps find the way up from 0 sooner than the way down from half of the way
        return torch.where((lower < 0) & (upper > 0), 0.0, 0.5).to(lower.dtype)

    @override
    def drafted(self, lower: Tensor, upper: Tensor) -> Callable[[Tensor | None], Lines]:
        lower = torch.minimum(lower, upper)
        sides = self._touching(lower, upper), self._touching(-upper, -lower)
        half = torch.full_like(lower, 0.5)

        def lines(share: Tensor | None) -> Lines:
            (below, low), (above, high) = (self._tangent(side, half if share is None else share) for side in sides)
            return below, above, self.shift + low, self.shift - high

        return lines

    def _touching(self, lower: Tensor, upper: Tensor) -> Touching:
        """Return where tangents lie below the odd part, between two ends."""
        chord = (self._odd(upper) - self._odd(lower)) / (upper - lower).clamp(min=1e-12)
        chord = torch.where(upper - lower > 1e-5, chord, self._slope((lower + upper) / 2))
        is_across = (lower < 0) & (upper > 0) & (self._slope(lower) < chord)
        last = torch.minimum(upper, torch.zeros_like(upper))
        if bool(is_across.any()):
            far, near, end = upper[is_across], lower[is_across], torch.zeros_like(upper[is_across])
            height = self._odd(far)
            for _ in range(_HALVINGS):
                middle = (near + end) / 2
                is_below = self._odd(middle) + self._slope(middle) * (far - middle) <= height
                near, end = torch.where(is_below, middle, near), torch.where(is_below, end, middle)
            last = last.masked_scatter(is_across, near)
        offset = torch.minimum(self._odd(lower) - chord * lower, self._odd(upper) - chord * upper)
        middle = torch.minimum(last, (lower + upper) / 2)
        return lower, middle, last, (upper <= 0) | is_across, chord, offset

    def _tangent(self, touching: Touching, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and offset of the tangent at a share of the way, or of the chord."""
        first, middle, last, is_free, chord, offset = touching
        point = first + (2 * share).clamp(max=1) * (middle - first) + (2 * share - 1).clamp(min=0) * (last - middle)
        height = torch.tanh(self.steepness * point)
        slope = self.height * self.steepness * (1 - height.square())
        return torch.where(is_free, slope, chord), torch.where(is_free, self.height * height - slope * point, offset)

    @override
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        most = torch.maximum(lower.abs(), upper.abs())
        margin = (
            self.error + 4 * _LIBRARY + arithmetic.own_gamma(16) * (2 + torch.maximum(below.abs(), above.abs()) * most)
        )
        # the function is odd about (0, shift): a line above it is one below it, turned around
        least = self._least_gap(lower, upper, below)
        most_gap = -self._least_gap(-upper, -lower, above)
        return least + self.shift - margin, most_gap + self.shift + margin

    def _least_gap(self, lower: Tensor, upper: Tensor, slope: Tensor) -> Tensor:
        """Return a lower bound of odd(x) - slope x between two ends.

        On the concave part it is least at an end of that part. On the convex part it lies above the tangent at any
        point p of that part, so above the lesser end of a line; with p where the slopes agree this is sharp.
        """
        start, end = lower.clamp(min=0), upper.clamp(max=0)
        concave = torch.minimum(self._odd(start) - slope * start, self._odd(upper) - slope * upper)
        point = torch.minimum(torch.maximum(self._where_slope(slope), lower), end)
        tangent, height = self._slope(point), self._odd(point)
        convex = torch.minimum(
            height + tangent * (lower - point) - slope * lower, height + tangent * (end - point) - slope * end
        )
        # margins of the tangent's own rounding grow with the distance
        convex = (
            convex
            - arithmetic.own_gamma(16) * (tangent + slope.abs()) * (end - lower).abs()
            - 4 * _LIBRARY * (1 + (end - lower).abs())
        )
        found = torch.where(upper > 0, concave, torch.inf)
        return torch.where(lower < 0, torch.minimum(found, convex), torch.where(upper > 0, found, concave))

    def _odd(self, points: Tensor) -> Tensor:
        return self.height * torch.tanh(self.steepness * points)

    def _slope(self, points: Tensor) -> Tensor:
        return self.height * self.steepness / torch.cosh((self.steepness * points).clamp(-300, 300)).square()

    def _where_slope(self, slope: Tensor) -> Tensor:
        """Return about the point below 0 that has this slope."""
        share = (slope / (self.height * self.steepness)).clamp(1e-30, 1.0)
        return -torch.acosh(share.rsqrt().clamp(min=1.0)) / self.steepness


SIGMOID: Final = SShaped(0.5, 0.5, 0.5, SIGMOID_ERROR)
TANH: Final = SShaped(0.0, 1.0, 1.0, TANH_ERROR)
