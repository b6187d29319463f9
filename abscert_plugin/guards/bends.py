"""Sums of functions of one value that rise with it, in a guard: between what they are at its two ends.

`bounds.proof.bends` tells which sums of a file these are. What is written is g(l) - r and g(u) + r for l <= x <= u,
where g is made of x once more: straight terms, and a ReLU for each bend. With M for the size of x, the sum of its
absolute terms, the room is r = a M + b: c L gamma(n) (s M + t) for each function of steepness L, of what is computed in
front of it with n roundings as s x + t; and what the guard itself rounds, gamma(k) of the sum of its own terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeAlias, final

import numpy as np
import torch

from abscert_plugin.bounds.proof import Proof, arithmetic
from abscert_plugin.bounds.proof.activations import Piecewise, Ramp
from abscert_plugin.bounds.proof.bends import BentSum, Term
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.guards import layers
from abscert_plugin.guards.emitter import LARGEST, Emitter
from abscert_plugin.guards.linear import Array
from abscert_plugin.guards.values import Chain, Ends, Fact, greatest, kept

_FEW: Final = 16  # roundings beside those of the terms: of constants, products and shifts
_FLAT: Final = 2.0**-40  # of the steepest slope: a slope that far below 0 is one of 0, but for rounding
_MOST: Final = LARGEST / 2**20
_Bend: TypeAlias = tuple[Array, Array, Array]
"""factor, rate and shift of factor * relu(rate * x + shift)."""


@final
@dataclass(frozen=True, slots=True)
class Rising:
    """slope * x + offset + sum of factor * relu(rate * x + shift), which rises with x.

    Args:
        slope, offset: of the straight part, [1, *shape] or fewer entries.
        bends: factor, rate and shift of each ReLU.
        share, rest: a and b, by which what a guard computes of it has to be widened.
        size_share, size_rest: what M and 1 are times in the size of the sum, beside its ReLUs.
        heights: |factor| of each bend that is a ReLU of the file, 0 of others, which `size_share` counts.
        source: name of x.
    """

    slope: Array
    offset: Array
    bends: tuple[_Bend, ...]
    share: Array
    rest: Array
    size_share: Array
    size_rest: Array
    heights: tuple[Array, ...]
    source: str

    def written(self, emitter: Emitter, ends: Ends, start: Chain, fact: Fact) -> Chain:
        """Write a chain that goes on from the sum.

        Args:
            emitter: takes up the nodes.
            ends: of x.
            start: x in its chain.
            fact: of the sum.
        """
        plain, unit = layers.plain(emitter, ends), 2.0**-start.power
        room = _above(emitter, start.size, self.share * unit, self.rest)
        (low, low_bends), (high, high_bends) = (self._at(emitter, point) for point in (plain.lower, plain.upper))
        lower, upper = emitter.node("Sub", [low, room]), emitter.node("Add", [high, room])
        size = emitter.node("Add", [room, _above(emitter, start.size, self.size_share * unit, self.size_rest)])
        for height, *bends in zip(self.heights, low_bends, high_bends, strict=True):
            if height.any():
                highest = emitter.node("Max", bends)
                grown = emitter.node("Mul", [highest, emitter.above(height * layers.OUTWARD**2)])
                size = emitter.node("Add", [size, grown])
        sizes = [emitter.node("Mul", [size, emitter.number(layers.OUTWARD**2)])]
        sizes += [emitter.node("Abs", [end]) for end in (lower, upper)]
        near = Ends(lower, upper, 0, fact.top, size=emitter.node("Max", sizes))
        made = layers.as_chain(emitter, near)
        return replace(made, roundings=fact.roundings, underflow=fact.underflow, near=near)

    def around(self, made: Enclosure, value: Enclosure) -> Enclosure:
        """Return an enclosure of the sum, widened by what a guard widens it by, given that of x."""
        most = value.size()
        room, size = (
            torch.from_numpy(share) * most + torch.from_numpy(rest)
            for share, rest in ((2 * self.share, 2 * self.rest), (self.size_share, self.size_rest))
        )
        lower, upper = made.lower - room, made.upper + room
        return replace(made, lower=lower, upper=upper, magnitude=made.magnitude + room + size)

    def _at(self, emitter: Emitter, point: str) -> tuple[str, list[str]]:
        """Write the sum at a tensor, and return it and its ReLUs."""
        found, written = _line(emitter, point, self.slope, self.offset), list[str]()
        for factor, rate, shift in self.bends:
            written.append(emitter.node("Relu", [_line(emitter, point, rate, shift)]))
            found = emitter.node("Add", [found, _times(emitter, written[-1], factor)])
        return found, written


@torch.no_grad()
def facts_and_sums(
    proof: Proof, lower: torch.Tensor, upper: torch.Tensor
) -> tuple[Mapping[str, Fact], Mapping[str, Rising]]:
    """Return what is known of each tensor over a box, and what a guard writes for sums that rise, by their names.

    What a guard keeps has to lie within its facts: a sum that does not rise, which a guard takes by its terms, is taken
    by its terms here as well, and the bounds of sizes are those of wider ends (`values.kept`).

    Args:
        proof: whose tensors they are.
        lower: lower ends of the box of all images, [1, *shape].
        upper: upper ends.
    """
    fed = held(lower.double(), upper.double())
    values, around = {proof.source: fed}, {proof.source: kept(fed, greatest(fed))}
    facts, sums = {proof.source: Fact.of(fed, around[proof.source])}, dict[str, Rising]()
    for step in proof.steps:
        made, wide = step.forward(values), step.forward(around)
        if isinstance(step, BentSum):
            rising = _rising(step, facts, proof.shapes[step.source])
            if rising is None:
                made, wide = values[step.total], around[step.total]
            else:
                sums[step.output], wide = rising, rising.around(wide, around[step.source])
        values[step.output], around[step.output] = made, kept(wide, _computed_of(step, around, wide))
        facts[step.output] = Fact.of(made, around[step.output])
    return facts, sums


def _computed_of(step: Step, values: Mapping[str, Enclosure], made: Enclosure) -> float:
    """Return a bound of the absolute terms that a held value is computed of."""
    size, function = greatest(made), step.function if isinstance(step, Activation) else None
    if function is None or isinstance(function, Ramp) or (isinstance(function, Piecewise) and not function.roundings):
        return size  # nothing is rounded
    read = max(greatest(values[name]) for name in step.inputs)
    if isinstance(function, Piecewise):
        return size + float(function.size(torch.tensor(read).double()).max())
    return size + 1 + read  # errors of smooth functions are of 1, or of what they read


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """A term of a sum, as slope * x + offset and a ReLU for each bend, with M for the size of x.

    Args:
        slope, offset: of the straight part.
        bends: factor, rate and shift of each ReLU.
        heights: |factor| of each bend that is a ReLU of the file, 0 of others.
        apart: a and b, of a M + b: how far what the file computes may lie from what the ideal line gives.
        size: the same of the size of the term, beside its ReLUs.
    """

    slope: Array
    offset: Array
    bends: tuple[_Bend, ...]
    heights: tuple[Array, ...]
    apart: tuple[Array, Array]
    size: tuple[Array, Array]


def _rising(step: BentSum, facts: Mapping[str, Fact], shape: Sequence[int]) -> Rising | None:
    """Return what a guard writes for a sum; None where it does not rise, or may be too large."""
    top, like = facts[step.source].top, torch.zeros((1, *shape), dtype=torch.float64)
    parts = [_part(term, facts, like) for term in step.terms]
    none, zero = np.zeros((1, *shape)), np.zeros(1)
    slope, offset = sum((part.slope for part in parts), zero), sum((part.offset for part in parts), zero)
    share, rest = (sum((part.apart[place] for part in parts), none) for place in (0, 1))
    size_share, size_rest = (sum((part.size[place] for part in parts), none) * layers.OUTWARD for place in (0, 1))
    bends = [bend for part in parts for bend in part.bends]
    steepness = sum((np.abs(factor * rate) for factor, rate, _ in bends), start=np.abs(slope) + none)
    scale = 1 + np.abs(slope) + np.abs(offset) + none
    for factor, rate, shift in bends:
        scale = scale + (1 + np.abs(factor)) * (1 + np.abs(rate) + np.abs(shift))
    own = 4 * arithmetic.gamma(_FEW + 2 * len(bends))  # 4, as the ends of x may lie a little beyond its size
    fixed = np.abs(offset) + step.size(like).numpy() * (1 + len(bends)) * _FLAT  # of float64, that made the constants
    fixed = sum((np.abs(factor * shift) for factor, _, shift in bends), start=fixed)
    rest = rest + own * fixed + 4 * _FLAT * steepness * top + arithmetic.underflow(64.0) * scale * (1 + top)
    share, rest = (share + own * steepness) * layers.OUTWARD, rest * layers.OUTWARD
    constants = (slope, offset, *(of for bend in bends for of in bend))
    moderate = (steepness * top, scale * (1 + top), share, rest, *constants)
    if not all(bool((np.abs(of) < _MOST).all()) for of in moderate):  # nor is NaN
        return None
    if not _rises(slope, bends, steepness, top):
        return None
    heights = tuple(height for part in parts for height in part.heights)
    return Rising(slope, offset, tuple(bends), share, rest, size_share, size_rest, heights, step.source)


def _part(term: Term, facts: Mapping[str, Fact], like: torch.Tensor) -> _Part:
    factor, rate, shift = (np.atleast_1d(of.numpy()) for of in (term.factor, term.line.slope, term.line.offset))
    straight, constant, bent = _pieces(term)
    bends = tuple((factor * height, rate, shift - kink) for kink, height in bent)
    apart = size = (np.zeros(1), np.zeros(1))
    if term.function is not None and term.read is not None:
        off, fixed = _apart(term, facts[term.read], like)
        apart = np.abs(factor * rate) * off, np.abs(factor) * fixed
    is_ramp = isinstance(term.function, Ramp)
    if not is_ramp:
        none, one = _sizes(term, like)
        grown = one - none
        size = np.abs(factor * rate) * grown, np.abs(factor) * (none + grown * term.line.size.numpy())
    heights = tuple(np.abs(factor) * is_ramp for _ in bent)
    return _Part(factor * straight * rate, factor * (straight * shift + constant), bends, heights, apart, size)


def _apart(term: Term, entered: Fact, like: torch.Tensor) -> tuple[Array, Array]:
    """Return how far a function, as computed, may lie from that of the ideal line of x: by |slope x|, and besides."""
    function = term.function
    assert function is not None
    roundings = function.roundings if isinstance(function, Piecewise) else 0
    own, before = arithmetic.gamma(roundings + 2), arithmetic.gamma(entered.roundings + 1)
    steepness, size = function.steepness(like).numpy(), np.atleast_1d(term.line.size.numpy())
    none, one = _sizes(term, like)
    grown = own * (one - none) + before * steepness
    flushed = arithmetic.underflow(16.0) * (1 + steepness) * (1 + entered.top)
    return grown, grown * size + own * none + steepness * 4 * entered.underflow + flushed


def _sizes(term: Term, like: torch.Tensor) -> tuple[Array, Array]:
    """Return bounds of a term's function where its input is 0, and up to 1: straight between and beyond."""
    if term.function is None:
        return np.zeros(1), np.ones(1)
    none, one = (term.function.size(like + most).numpy() for most in (0.0, 1.0))
    return none, one


def _pieces(term: Term) -> tuple[Array, Array, list[tuple[float, Array]]]:
    """Return a term's function as straight * z + constant, and what its slope grows by at each bend."""
    function = term.function
    if function is None:
        return np.ones(1), np.zeros(1), []
    if not isinstance(function, Piecewise):
        return np.zeros(1), np.zeros(1), [(0.0, np.ones(1))]
    slopes = [np.atleast_1d(np.asarray(piece, dtype=np.float64)) for piece in function.pieces]
    grown = [after - before for before, after in pairwise(slopes)]
    constant = function.start - slopes[0] * function.kinks[0]
    return slopes[0], constant, list(zip(function.kinks, grown, strict=True))


def _rises(slope: Array, bends: Sequence[_Bend], steepness: Array, top: float) -> bool:
    """Return whether a sum falls nowhere up to |x| = top, but for rounding: by its slope between bends, by entry."""
    with np.errstate(divide="ignore", invalid="ignore"):
        places = [np.clip(np.nan_to_num(-shift / rate), -top, top) for _, rate, shift in bends]
    ends = [np.full_like(steepness, -top), *(place + 0 * steepness for place in places), np.full_like(steepness, top)]
    ordered = np.sort(np.stack(ends), axis=0)
    for low, high in pairwise(ordered):
        middle, found = (low + high) / 2, slope + 0 * steepness
        for factor, rate, shift in bends:
            found = found + factor * rate * (rate * middle + shift > 0)
        if not bool((found >= -_FLAT * steepness).all()):
            return False
    return True


def _above(emitter: Emitter, size: str, share: Array, rest: Array) -> str:
    """Write share * size + rest, rounded once or twice."""
    return emitter.node("Add", [emitter.node("Mul", [size, emitter.above(share)]), emitter.above(rest)])


def _line(emitter: Emitter, point: str, slope: Array, offset: Array) -> str:
    found = _times(emitter, point, slope)
    return emitter.node("Add", [found, emitter.nearest(offset)]) if offset.any() else found


def _times(emitter: Emitter, point: str, factor: Array) -> str:
    return point if bool((factor == 1).all()) else emitter.node("Mul", [point, emitter.nearest(factor)])
