"""Affine nodes, which continue a chain: forward on enclosures, backward on rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.descent import Descent, Step, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure, clipped, largest, spread
from abscert_plugin.bounds.proof.maps import LinearMap, Scale

_FEW = 16  # roundings of our own that an affine step has beyond its sum


@final
@dataclass(frozen=True, slots=True)
class Affine(Unary):
    """W x + b, where W and b are constants.

    Args:
        output: name of what it gives.
        input: name of what it reads.
        map: W.
        bias: b, which goes with the output by broadcasting; None where there is none.
        peak: bound of sums on the way, such as that of a mean before it is divided, as a multiple of the reach.
        underflows: bound of further underflows, in multiples of the least normal float32.
        kind: what it is computed in.
        subnormal: largest sum of absolute weights of an output that are subnormal there, and may be flushed to 0.
    """

    output: str
    input: str
    map: LinearMap
    bias: Enclosure | None = None
    peak: float = 1.0
    underflows: float = 0.0
    kind: arithmetic.Format = arithmetic.SINGLE
    subnormal: float = 0.0

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        value, weights, terms = values[self.input], self.map.weights, self.map.products + 1
        own = (arithmetic.single_gamma if self.map.is_single else arithmetic.own_gamma)(terms + _FEW)
        center = self.map.apply(weights.center, value.lower / 2 + value.upper / 2)
        # one pass for the radius and the magnitude
        pair = torch.cat([(value.upper - value.lower) / 2, value.magnitude])
        radius, magnitude = self.map.apply(weights.absolute, pair).chunk(2)
        unit = self.kind.roundings
        roundings = value.roundings + weights.roundings * unit
        if self.bias is not None:
            center = center + (self.bias.lower / 2 + self.bias.upper / 2)
            radius = radius + (self.bias.upper - self.bias.lower) / 2
            magnitude = magnitude + self.bias.magnitude
            roundings = max(roundings, self.bias.roundings * unit)
        magnitude = magnitude * (1 + own)
        if self.map.is_single:
            magnitude = magnitude + spread(self._own_underflow(value), magnitude)
        slack = own * magnitude
        if self.map.is_single:
            slack = slack + 2 * spread(self._own_underflow(value), magnitude)  # of the center and of the radius
        spread_of_weights = self.spread(value)
        if spread_of_weights is not None:
            slack = slack + spread_of_weights
        radius = radius * (1 + own) + slack
        lower, upper = clipped(center - radius, center + radius, magnitude)
        is_chained = value.roundings > self.kind.narrowing
        roundings += self.kind.of_terms(self.map.products) * (2 if is_chained else 1)
        reach = torch.maximum(value.reach * max(self.map.products, 1), largest(magnitude).expand_as(value.reach))
        reach = reach.clamp(min=1.0)
        carried = (
            self._narrow_underflow(value, reach, is_chained)
            if self.kind.narrowing
            else self.underflow_after(value.underflow, reach, value.gain)
        )
        gain = value.gain * weights.gain
        made = Enclosure(lower, upper, magnitude, roundings, carried, reach, gain)
        return made.checked(max(self.peak, 1.0 if isinstance(self.map, Scale) else gain), self.kind.largest)

    def underflow_after(self, before: Tensor, reach: Tensor, gain: float = 1.0) -> Tensor:
        """Return what underflow adds up to behind the node.

        Args:
            before: what it did before.
            reach: that behind the node.
            gain: of the chain before the node, whose factors may be multiplied behind it.
        """
        relative = arithmetic.gamma(self.map.products + 1)
        row_sum, weights = self.map.row_sum, self.map.weights
        places = arithmetic.underflow(4 * (self.map.products + 1) + row_sum + self.underflows)
        fresh = places + (arithmetic.underflow(4.0) + weights.underflow) * reach
        if self.bias is not None:
            fresh = fresh + float(self.bias.underflow.max())
        return (row_sum * before + fresh * gain) * (1 + relative) * (1 + arithmetic.own_gamma(_FEW))

    def _narrow_underflow(self, value: Enclosure, reach: Tensor, is_chained: bool) -> Tensor:
        """Return the same of a node in fewer bits: weights that begin a chain are not folded, but may be flushed."""
        weights, kind = self.map.weights, self.kind
        places = kind.tiny_in_sums * (4 * (self.map.products + 1)) + kind.tiny * (self.map.row_sum + self.underflows)
        fresh = places + 6 * kind.tiny  # the sum, the bias and what it is added to, and what is read of it
        if is_chained or weights.roundings:
            of_weights = (4 * kind.tiny + weights.underflow) * reach
        else:
            of_weights = largest(value.size()) * (self.subnormal * (1 + arithmetic.own_gamma(_FEW)))
            of_weights = of_weights.nan_to_num(nan=0.0)  # of an unknown value and weights that are all normal
        if self.bias is not None:
            fresh = fresh + float(self.bias.underflow.max())
        relative = arithmetic.gamma(kind.of_terms(self.map.products))
        own = 1 + arithmetic.own_gamma(_FEW)
        return (self.map.row_sum * value.underflow + (fresh + of_weights) * value.gain) * (1 + relative) * own

    def _own_underflow(self, value: Enclosure) -> Tensor:
        """Return what underflows, image by image, where our own products are in float32 and values are cast to it."""
        products = self.map.products + 1
        return arithmetic.TINY * (8 * products * (1 + largest(value.magnitude)) + 3 * self.map.row_sum)

    def spread(self, value: Enclosure) -> Tensor | None:
        """Return how far weights that are not known exactly may move the ideal value, None where all are known."""
        radius = self.map.weights.radius
        if radius is None:
            return None
        own = 1 + arithmetic.own_gamma(self.map.products + _FEW)
        return self.map.apply(radius, value.magnitude) * own

    def _lose_in_single(self, rows: Tensor, descent: Descent) -> None:
        """Take off what products of rows in float32 lose: a share of |rows| |W| |x|, and what underflows."""
        absolute, value, readers = rows.abs(), descent.values[self.input], self.map.readers
        amount = descent.account(absolute, descent.values[self.output].magnitude)
        lost = arithmetic.TINY * readers * (4 + self.map.weights.gain + absolute.flatten(1).amax(1))
        lost = (lost * value.magnitude.flatten(1).sum(1)).unsqueeze(1) * (1 + arithmetic.own_gamma(_FEW))
        descent.add(-(arithmetic.single_gamma(readers + _FEW) * (1 + arithmetic.own_gamma(_FEW)) * amount + lost))

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        value = descent.values[self.input]
        if self.bias is not None:
            like = descent.values[self.output].lower
            center = (self.bias.lower / 2 + self.bias.upper / 2).expand_as(like)
            descent.add(descent.dot(rows, center))
            if not torch.equal(self.bias.lower, self.bias.upper):
                width = (self.bias.upper - self.bias.lower) / 2 + arithmetic.own_gamma(4) * self.bias.magnitude
                descent.lose(rows, width.expand_as(like))
        spread_of_weights = self.spread(value)
        if spread_of_weights is not None:
            descent.lose(rows, spread_of_weights)
        if self.map.is_single:
            self._lose_in_single(rows, descent)
        else:
            descent.account(rows, descent.values[self.output].magnitude)
        merged = self.map.transposed(rows.flatten(0, 1), tuple(value.lower.shape[1:]))
        descent.send(self.input, merged.reshape(*rows.shape[:2], *value.lower.shape[1:]))


@final
@dataclass(frozen=True, slots=True)
class Shift(Unary):
    """sign * x + b, entry by entry, with a constant b or none."""

    output: str
    input: str
    sign: int
    bias: Enclosure | None
    kind: arithmetic.Format = arithmetic.SINGLE

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        value = values[self.input]
        if self.sign < 0:
            value = value.negated()
        return value.narrowed(self.kind) if self.bias is None else total(value, self.bias, self.kind)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        if self.bias is not None:
            like = descent.values[self.output].lower
            descent.add(descent.dot(rows, (self.bias.lower / 2 + self.bias.upper / 2).expand_as(like)))
            width = (self.bias.upper - self.bias.lower) / 2 + arithmetic.own_gamma(4) * self.bias.magnitude
            descent.lose(rows, width.expand_as(like))
        descent.account(rows, descent.values[self.output].magnitude)
        descent.send(self.input, rows if self.sign == 1 else rows * self.sign)


@final
@dataclass(frozen=True, slots=True)
class Join(Step):
    """first + sign * second, neither of them a constant."""

    output: str
    first: str
    second: str
    sign: int
    kind: arithmetic.Format = arithmetic.SINGLE

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.first, self.second)

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        second = values[self.second]
        return total(values[self.first], second.negated() if self.sign < 0 else second, self.kind)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.account(rows, descent.values[self.output].magnitude)
        descent.send(self.first, rows)
        descent.send(self.second, rows * self.sign)


def total(first: Enclosure, second: Enclosure, kind: arithmetic.Format = arithmetic.SINGLE) -> Enclosure:
    """Return the enclosure of a sum that is computed in a format; shapes go together by broadcasting."""
    own = arithmetic.own_gamma(_FEW)
    magnitude = (first.magnitude + second.magnitude) * (1 + own)
    slack = own * magnitude
    lower, upper = clipped(first.lower + second.lower - slack, first.upper + second.upper + slack, magnitude)
    carried = first.underflow + second.underflow + 8 * kind.tiny
    roundings = kind.roundings + kind.narrowing
    reach = (first.reach + second.reach).clamp(min=1.0)
    top = magnitude.amax().reshape(1) if len(reach) == 1 else largest(magnitude)
    return Enclosure(
        lower,
        upper,
        magnitude,
        first.roundings + second.roundings + roundings,
        carried * (1 + arithmetic.gamma(2 * roundings)) * (1 + own),
        torch.maximum(reach, top),
        max(first.gain, second.gain),
    ).checked(top=kind.largest)
