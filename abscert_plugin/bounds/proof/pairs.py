"""Nodes that read two values, neither of them a constant."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Interval, flushed
from abscert_plugin.bounds.proof.descent import Descent, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, clipped, held, largest
from abscert_plugin.bounds.proof.maps import pulled_back

_EXTRA: Final = 4  # roundings of factors that a runtime takes into a product, such as 1 / sqrt(d) of attention


@final
@dataclass(frozen=True, slots=True)
class Product(Step):
    """A bilinear function of two computed values: of each pair of entries, or of rows and columns (MatMul).

    A new chain begins: its ideal value is the exact product of what was computed. A runtime may leave single factors of
    the values out, such as 1 / sqrt(d) of attention, and multiply the product by them (onnxruntime's FusedMatMul): so
    overflow and underflow are those of values from which any factors of their chains are left out. With centers c and
    radii r of the factors, x y = c_x y + c_y x - c_x c_y + (x - c_x)(y - c_y), whose last term is within r_x r_y: one
    line, with an offset to each side.

    Args:
        output: name of what it gives.
        first, second: names of what it reads; the same one is multiplied with itself.
        multiply: the function; entries of the second may be fewer where they go with the first by broadcasting.
        products: most products in a sum.
        ends: the ends of the product from those of the factors, where they are better known.
        limit: a bound of the absolute ideal value that is known otherwise.
        spread: of the square of a difference from a mean: what is subtracted from what, and the entries of the mean. A
            runtime may compute the mean of squares and the square of the mean instead, which round as these do.
    """

    is_curved: ClassVar[bool] = True
    ends_chains: ClassVar[bool] = True
    output: str
    first: str
    second: str
    multiply: Callable[[Tensor, Tensor], Tensor]
    products: int
    ends: Callable[[Interval, Interval], Interval] | None = None
    limit: Callable[[Mapping[str, Enclosure]], Tensor] | None = None
    spread: tuple[str, str, int] | None = None

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.first, self.second, *(self.spread[:2] if self.spread else ()))

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        first, second = values[self.first].computed(), values[self.second].computed()
        own = arithmetic.own_gamma(self.products + 16)
        sizes = [_size(ends) for ends in (first, second)]
        magnitude, roundings = self.multiply(*sizes) * (1 + own), self.products + 1 + _EXTRA
        if self.spread is not None:
            parts = [_size(values[name].computed()) for name in self.spread[:2]]
            magnitude = torch.maximum(magnitude, (parts[0] + parts[1]).square() * (1 + own))
            roundings += 2 * self.spread[2] + 8
        if self.ends is None:
            (x, dx), (y, dy) = _balls(first), _balls(second)
            center = self.multiply(x, y)
            radius = self.multiply(x.abs(), dy) + self.multiply(dx, y.abs() + dy)
            lower, upper = center - radius, center + radius
        else:
            lower, upper = self.ends(first, second)
        size = self.multiply(*sizes)
        lower, upper = clipped(lower - own * size, upper + own * size, size * (1 + own))
        if self.limit is not None:
            most = self.limit(values)
            lower, upper = torch.maximum(lower, -most), torch.minimum(upper, most)
        # a factor of either may be multiplied behind the sum instead
        gain = values[self.first].gain * values[self.second].gain
        one, other = (
            torch.maximum(largest(size), value.reach * value.gain)
            for size, value in ((sizes[0], values[self.first]), (sizes[1], values[self.second]))
        )
        reach = torch.maximum(self.products * one * other, largest(magnitude)).clamp(min=1.0)
        places = (8.0 * (self.products + 1) + self.products * (one + other) + 8 * reach) * gain
        return Enclosure(lower, upper, magnitude, roundings, arithmetic.underflow(1.0) * places, reach, gain).checked()

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        names = (self.first, self.second)
        # a draft's rows are float32, and matrices of two types are not multiplied
        balls = (_balls(descent.values[name].computed()) for name in names)
        (x, dx), (y, dy) = ((center.to(rows.dtype), radius.to(rows.dtype)) for center, radius in balls)
        own = 1 + arithmetic.own_gamma(self.products + 16)
        magnitude = descent.values[self.output].magnitude
        for _ in range(4):  # terms that are added up, each no larger than the magnitude
            descent.account(rows, magnitude)
        # (x - c)^2 is not below 0
        descent.lose(rows.clamp(max=0) if self.ends is squares else rows, self.multiply(dx, dy) * own)
        descent.add(-descent.dot(rows, self.multiply(x, y)))
        many, flat = rows.shape[1], rows.flatten(0, 1)
        shapes = [tuple(value.shape[1:]) for value in (x, y)]
        by_second, by_first = (value.repeat_interleave(many, 0) for value in (y, x))
        to_first = pulled_back(lambda values: self.multiply(values, by_second), flat, shapes[0])
        to_second = pulled_back(lambda values: self.multiply(by_first, values), flat, shapes[1])
        for name, sent, shape in zip(names, (to_first, to_second), shapes, strict=True):
            descent.read(name, sent.reshape(*rows.shape[:2], *shape))


def _size(ends: Interval) -> Tensor:
    return torch.maximum(ends[0].abs(), ends[1].abs())


def _balls(ends: Interval) -> Interval:
    """Return centers and radii that reach both ends."""
    lower, upper = ends
    center = lower / 2 + upper / 2
    own = 1 + arithmetic.own_gamma(4)
    return center, torch.maximum(upper - center, center - lower) * own


def corners(first: Interval, second: Interval) -> Interval:
    """Return the ends of products of pairs of entries."""
    found = [one * other for one in first for other in second]
    low, high = found[0], found[0]
    for value in found[1:]:
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    return low, high


def squares(first: Interval, _: Interval) -> Interval:
    """Return the ends of squares."""
    lower, upper = first
    near = torch.where(lower * upper > 0, torch.minimum(lower.abs(), upper.abs()), 0.0)
    return near.square(), torch.maximum(lower.abs(), upper.abs()).square()


@final
@dataclass(frozen=True, slots=True)
class Choice(Step):
    """The larger of two values, entry by entry, or the smaller: one of them is picked.

    Args:
        output: name of what it gives.
        first, second: names of what it reads, of one shape.
        sign: 1 for the larger, -1 for the smaller.
    """

    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    first: str
    second: str
    sign: int

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.first, self.second)

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        first, second = (values[name].computed() for name in self.inputs)
        pick = torch.maximum if self.sign > 0 else torch.minimum
        lower, upper = (pick(*pair) for pair in zip(first, second, strict=True))
        is_known = (values[self.first].magnitude < torch.inf) & (values[self.second].magnitude < torch.inf)
        lower, upper = flushed(lower, upper)
        return held(lower.where(is_known, -torch.inf), upper.where(is_known, torch.inf))

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        """max(a, b) = a + relu(b - a): at least the one that is larger in the middle, at most a chord of the relu."""
        (low, high), (other_low, other_high) = (descent.values[name].computed() for name in self.inputs)
        if self.sign < 0:  # min(a, b) = -max(-a, -b)
            low, high, other_low, other_high = -high, -low, -other_high, -other_low
        rows = rows * self.sign
        least, most = other_low - high, other_high - low  # of b - a
        is_open = (least < 0) & (most > 0)
        share = torch.where(is_open, most / (most - least).clamp(min=1e-300), (least >= 0).to(least.dtype))
        is_second = (least + most > 0).to(least.dtype)
        height = torch.where(is_open, -share * least, 0.0)
        size = low.abs() + high.abs() + other_low.abs() + other_high.abs()
        slack = arithmetic.own_gamma(16) * size + arithmetic.underflow(4.0)
        is_positive = rows > 0
        weight = torch.where(is_positive, is_second.unsqueeze(1), share.unsqueeze(1))
        descent.account(rows, size)
        descent.add(descent.dot(rows.clamp(max=0), height))
        descent.lose(rows, slack)
        descent.read(self.first, self.sign * rows * (1 - weight))
        descent.read(self.second, self.sign * rows * weight)


@final
@dataclass(frozen=True, slots=True)
class Selection(Step):
    """One of two values, entry by entry, as a third one says: the first where that is not 0.

    Args:
        output: name of what it gives.
        condition, first, second: names of what it reads, of one shape.
    """

    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    condition: str
    first: str
    second: str

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.condition, self.first, self.second)

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        is_first, is_second = self._decided(values)
        (low, high), (other_low, other_high) = (values[name].computed() for name in self.inputs[1:])
        lower = torch.where(is_first, low, torch.where(is_second, other_low, torch.minimum(low, other_low)))
        upper = torch.where(is_first, high, torch.where(is_second, other_high, torch.maximum(high, other_high)))
        return held(*flushed(lower, upper))

    def _decided(self, values: Mapping[str, Enclosure]) -> tuple[Tensor, Tensor]:
        condition = values[self.condition]
        return condition.lower > 0, condition.upper <= 0

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        is_first, is_second = (mask.unsqueeze(1) for mask in self._decided(descent.values))
        descent.finish(self.output, rows.masked_fill(is_first | is_second, 0.0))
        descent.lose(rows, torch.full_like(descent.values[self.output].lower, arithmetic.underflow(2.0)))
        descent.read(self.first, rows.masked_fill(~is_first, 0.0))
        descent.read(self.second, rows.masked_fill(~is_second, 0.0))


@final
@dataclass(frozen=True, slots=True)
class Ranged(Step):
    """Any function of which only ends are known; they finish a descent.

    Args:
        output: name of what it gives.
        reads: names of what it reads.
        ends: from the ends of what was computed to those of what it may give. Where an entry of an image is unknown,
            so is all that is given for the image.
    """

    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    reads: tuple[str, ...]
    ends: Callable[..., Interval]

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return self.reads

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        given = [flushed(*values[name].computed()) for name in self.reads]
        lower, upper = flushed(*self.ends(*given))
        for low, high in given:
            is_known = ((low > -torch.inf) & (high < torch.inf)).flatten(1).all(1)
            is_known = is_known.reshape(-1, *(1 for _ in lower.shape[1:]))
            lower, upper = lower.where(is_known, -torch.inf), upper.where(is_known, torch.inf)
        return held(lower, upper)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.finish(self.output, rows)
