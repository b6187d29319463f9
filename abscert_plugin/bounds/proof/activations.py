"""Nonlinear functions of one entry: where their computed values lie, and lines below and above them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.enclosure import spread

_LOWER_LINE: Final = 0.1  # how much the lower line of a ReLU counts beside the upper one in choosing a cut

Interval = tuple[Tensor, Tensor]

Lines = tuple[Tensor, Tensor, Tensor, Tensor]
"""Slopes of lines below and above a function, and their offsets."""


class Function(ABC):
    """A function of one entry."""

    @abstractmethod
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        """Return ends of what may be computed where the input lies between two ends."""

    def apart(self, distance: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Return how far two values may be apart that are computed from inputs between two ends, so far apart.

        By default as far as any two values between the ends.
        """
        least, most = self.interval(lower, upper)
        return (most - least) * (1 + arithmetic.own_gamma(2)) + torch.zeros_like(distance)

    @property
    def steepest(self) -> tuple[float, float] | None:
        """Its largest slope, and by how much two computed values may differ on top of it; None where not known."""
        return None

    @abstractmethod
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where it is no straight line between two ends, so that closer ends would help."""

    @abstractmethod
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        """Return slopes for a line below and one above that leave little room; any slopes are sound."""

    @abstractmethod
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        """Return offsets with which lines of these slopes lie below and above what may be computed.

        Soundness: offset + slope x, as real numbers, for every x between the ends; the arithmetic is float64, and its
        errors are taken off.
        """

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return `slopes`, and `offsets` that go with them."""
        slopes = self.slopes(lower, upper)
        return *slopes, *self.offsets(lower, upper, *slopes)

    has_choice: ClassVar[bool] = False
    """Whether `chosen` and `drafted` give other lines to other shares."""

    def chosen(self, lower: Tensor, upper: Tensor, share: Tensor) -> Interval:
        """Return slopes that shares from 0 to 1 stand for; as `slopes` where nothing is to be chosen."""
        del share
        return self.slopes(lower, upper)

    def first_share(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the shares that stand for about the lines of `slopes`."""
        del upper
        return torch.zeros_like(lower)

    kink: ClassVar[float | None] = None
    """Where its slope changes, if anywhere: a cut there leaves straight lines; others are cut anywhere, and again."""

    def gaps(self, lower: Tensor, upper: Tensor) -> Interval:
        """Return about how far lines lie below and above, which says where a cut may help, and proves nothing."""
        below, above, low, high = self.drafted(lower, upper)(None)
        points = torch.stack([lower, (lower + upper) / 2, upper])
        values = self.interval(points, points)[0]
        return (values - below * points - low).mean(0), (above * points + high - values).mean(0)

    def drafted(self, lower: Tensor, upper: Tensor) -> Callable[[Tensor | None], Lines]:
        """Return what gives the lines of shares between two ends, differentiable, with nothing taken off for errors.

        None stands for those of `slopes`.
        """
        lines = self.lines(lower, upper)
        return lambda _: lines


def flushed(lower: Tensor, upper: Tensor, tiny: float = arithmetic.TINY) -> Interval:
    """Return ends that hold 0 as well where they hold subnormal numbers, which may be flushed to it.

    Args:
        lower: lower ends.
        upper: upper ends.
        tiny: the least normal number.
    """
    return (
        torch.where((lower > 0) & (lower < tiny), 0.0, lower),
        torch.where((upper < 0) & (upper > -tiny), 0.0, upper),
    )


@final
@dataclass(frozen=True, slots=True)
class Piecewise(Function):
    """A function of straight pieces that is steady: Relu, LeakyRelu, PRelu, Clip.

    Left of `kinks[0]` its slope is `pieces[0]`, and so on; at the first kink its value is `start`.

    Args:
        kinks: where the slope changes, ascending.
        pieces: slopes, one more than kinks; a tensor goes with the input by broadcasting.
        start: value at the first kink.
        roundings: with which a value is computed; 0 where it is picked, not computed.
    """

    kinks: tuple[float, ...]
    pieces: tuple[Tensor | float, ...]
    start: float = 0.0
    roundings: int = 0

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        ends = [self.value(lower), self.value(upper), *self._at_kinks(lower, upper)]
        error = self._error(lower, upper)
        least, most = _least(ends), _most(ends)
        return flushed(least if error is None else least - error, most if error is None else most + error)

    @override
    def apart(self, distance: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        error = self._error(lower, upper)
        found = self.steepness(distance) * distance * (1 + arithmetic.own_gamma(8))
        return found if error is None else found + 2 * error

    @override
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        inside = [(lower < kink) & (kink < upper) for kink in self.kinks]
        return torch.stack(inside).any(0)

    @override
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        width = (upper - lower).clamp(min=1e-300)
        chord = (self.value(upper) - self.value(lower)) / width
        left, right = self._slope_at(lower), self._slope_at(upper)
        chord = torch.where(upper > lower, chord, right)
        # the piece that holds more of the interval, measured from the middle
        steep = self._slope_at((lower + upper) / 2)
        is_convex, is_concave = left <= right, left >= right
        below = torch.where(is_convex, torch.where(is_concave, chord, steep), chord)
        above = torch.where(is_concave, torch.where(is_convex, chord, steep), chord)
        return below, above

    @override
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        gaps_below = [self.value(end) - below * end for end in (lower, upper)]
        gaps_above = [self.value(end) - above * end for end in (lower, upper)]
        for kink, value in zip(self.kinks, self._kink_values(), strict=True):
            inside = (lower < kink) & (kink < upper)
            gaps_below.append(torch.where(inside, value - below * kink, torch.inf))
            gaps_above.append(torch.where(inside, value - above * kink, -torch.inf))
        most = torch.maximum(lower.abs(), upper.abs())
        margin = arithmetic.own_gamma(16) * (self.size(most) + torch.maximum(below.abs(), above.abs()) * most)
        margin = margin + arithmetic.underflow(2.0)  # a subnormal value may be flushed
        error = self._error(lower, upper)
        if error is not None:
            margin = margin + error
        return _least(gaps_below) - margin, _most(gaps_above) + margin

    def _error(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return how far a computed value, or our own float64 one, may lie from the exact one; None where both are."""
        if not self.roundings and self.kinks == (0.0,):
            return None
        most = torch.maximum(lower.abs(), upper.abs())
        error = arithmetic.own_gamma(16) * self.size(most)
        if not self.roundings:
            return error
        steepness = self.steepness(most)
        # a flushed slope moves the value by as much as the input is large
        return (
            error
            + arithmetic.gamma(self.roundings) * steepness * most
            + arithmetic.underflow(4.0) * (1 + steepness + most)
        )

    def size(self, most: Tensor) -> Tensor:
        """Return a bound of the absolute terms that make a value, of an input up to `most`."""
        steepness = self.steepness(most)
        return abs(self.start) + (max(map(abs, self.kinks)) * 2 + most) * (steepness + 1)

    def steepness(self, like: Tensor) -> Tensor:
        """Return its largest absolute slope, in a shape that goes with the input."""
        return _most([torch.as_tensor(piece, dtype=like.dtype).abs() for piece in self.pieces])

    def value(self, points: Tensor) -> Tensor:
        """Return its exact values, about."""
        first = self.kinks[0]
        found = self.start + self.pieces[0] * (points - first).clamp(max=0)
        ends = [*self.kinks[1:], torch.inf]
        for place, (kink, end) in enumerate(zip(self.kinks, ends, strict=True), 1):
            found = found + self.pieces[place] * (points.clamp(max=end) - kink).clamp(min=0)
        return found

    def _kink_values(self) -> list[Tensor | float]:
        values: list[Tensor | float] = [self.start]
        for place in range(1, len(self.kinks)):
            values.append(values[-1] + self.pieces[place] * (self.kinks[place] - self.kinks[place - 1]))
        return values

    def _at_kinks(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [
            torch.where((lower < kink) & (kink < upper), value, self.value(upper))
            for kink, value in zip(self.kinks, self._kink_values(), strict=True)
        ]

    def _slope_at(self, points: Tensor) -> Tensor:
        found = torch.zeros_like(points) + self.pieces[0]
        for kink, piece in zip(self.kinks, self.pieces[1:], strict=True):
            found = torch.where(points > kink, torch.zeros_like(points) + piece, found)
        return found


@final
@dataclass(frozen=True, slots=True)
class Ramp(Function):
    """max(x, 0), in few operations: `Piecewise` of the slopes 0 and 1 is the same."""

    has_choice: ClassVar[bool] = True
    kink: ClassVar[float | None] = 0.0
    kinks: ClassVar[tuple[float, ...]] = (0.0,)

    def value(self, points: Tensor) -> Tensor:
        """Return its exact values."""
        return points.clamp(min=0)

    def size(self, most: Tensor) -> Tensor:
        """Return a bound of its values, for inputs up to `most`."""
        return most

    def steepness(self, like: Tensor) -> Tensor:
        """Return its largest slope."""
        return torch.ones_like(like)

    @override
    def gaps(self, lower: Tensor, upper: Tensor) -> Interval:
        """Return about those at 0; the lower line, which is the function on one side, counts little."""
        is_bent, least = self.is_bent(lower, upper), torch.minimum(-lower, upper)
        above = -lower * upper / (upper - lower).clamp(min=1e-12)
        return torch.where(is_bent, _LOWER_LINE * least, 0.0), torch.where(is_bent, above, 0.0)

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return flushed(lower.clamp(min=0), upper.clamp(min=0))

    @override
    def apart(self, distance: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return distance

    @override
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower < 0) & (upper > 0)

    @override
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        """Return the slope of the side that holds more of the interval, and of the chord."""
        most = upper.clamp(min=0)
        return (upper > -lower).to(lower.dtype), most / (most - lower.clamp(max=0)).clamp(min=1e-300)

    @override
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        low, high, size = lower.clamp(min=0), upper.clamp(min=0), torch.maximum(-lower, upper)
        gaps = [torch.minimum(low - below * lower, high - below * upper), low - above * lower, high - above * upper]
        # between the ends, the gap of a line through 0 is least at the bend
        least = torch.where(self.is_bent(lower, upper), gaps[0].clamp(max=0), gaps[0])
        steepest = torch.maximum(below.abs(), above.abs())
        margin = arithmetic.own_gamma(16) * (2 + steepest) * size + arithmetic.underflow(2.0)
        return least - margin, torch.maximum(gaps[1], gaps[2]) + margin

    @override
    def chosen(self, lower: Tensor, upper: Tensor, share: Tensor) -> Interval:
        """Return the share itself as the slope below, and the slope of the chord."""
        below, above = self.slopes(lower, upper)
        return torch.where(self.is_bent(lower, upper), share, below), above

    @override
    def first_share(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (upper > -lower).to(lower.dtype)

    @override
    def drafted(self, lower: Tensor, upper: Tensor) -> Callable[[Tensor | None], Lines]:
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        above = high / (high - low).clamp(min=1e-30)
        is_bent, none, offset = self.is_bent(lower, upper), torch.zeros_like(lower[:1]), -above * low

        def lines(share: Tensor | None) -> Lines:
            given = (above > 0.5).to(above.dtype) if share is None else share
            return torch.where(is_bent, given, above), above, none, offset

        return lines

    @override
    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return lines through 0, below, and through (lower, 0) where it is negative; the margin covers the rest."""
        below, above = self.slopes(lower, upper)
        size = torch.maximum(-lower, upper).flatten(1).amax(1)  # for each image: margins are far below any error
        margin = spread(3 * arithmetic.own_gamma(16) * size + arithmetic.underflow(2.0), lower)
        return below, above, (-margin).expand_as(lower), margin - above * lower.clamp(max=0)


def _least(values: list[Tensor]) -> Tensor:
    found = values[0]
    for value in values[1:]:
        found = torch.minimum(found, value)
    return found


def _most(values: list[Tensor]) -> Tensor:
    found = values[0]
    for value in values[1:]:
        found = torch.maximum(found, value)
    return found


RELU: Final = Ramp()
