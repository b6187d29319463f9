"""What a guard keeps of a value of the file: tensors of its own graph that enclose it.

Each is stored times a power of two, which is exact: a middle is then a sum, without a product by one half.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, final

import numpy as np
import torch

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.linear import Array, Linear

Move: TypeAlias = Callable[[Emitter, str], str]
"""From a tensor to the same entries in other places."""

_OUTWARD: Final = 1 + 2.0**-40
_CHAINED: Final = 256.0
_HELD: Final = 2.0**-16


@final
@dataclass(frozen=True, slots=True)
class Ends:
    """A value that a runtime holds: whatever the file computes lies between two tensors, but for 8 t by flushing.

    Args:
        lower, upper: names of the tensors; stored are their values times 2^power.
        power: the exponent.
        top: bound of the absolute value over all images, in the file's own units.
        is_positive: whether the lower one is never below 0.
        is_even: whether `top` is about as tight for each entry as its own ends are, and bounds the absolute terms of
            what it was made of, in no nodes but affine ones: of what the network is fed.
        origin: the ReLU that gives it, entry by entry in this order; None where something else does.
        size: name of a tensor, not below the absolute values nor the sum of absolute terms; None of a held value.
    """

    lower: str
    upper: str
    power: int
    top: float
    is_positive: bool = False
    is_even: bool = False
    origin: "Rectified | None" = None
    size: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Pixels:
    """What a network is fed, on whatever scale: all that is near a tensor, and between two ends that all images have.

    Arrays go with the tensor by broadcasting, [1, *] or fewer axes but one at least, in float64.

    Args:
        center: name of the tensor, made of the image as the file makes it.
        reaches: how far the real value moves in each ball; the balls' ends go one after another along the batch.
        least, most: between which the real value lies for all images.
        size: bound of the sum of absolute terms that it is made of.
        off: bound of what the file, and the guard, may compute it off by.
    """

    center: str
    reaches: tuple[Array, ...]
    least: Array
    most: Array
    size: Array
    off: Array

    @property
    def is_one_scale(self) -> bool:
        """Whether the same holds of all entries."""
        return all(array.size == 1 for array in (*self.reaches, self.least, self.most, self.size, self.off))

    def reshaped(self, center: str) -> "Pixels":
        """Return the same in another shape, where it is of one scale."""
        reaches, rest = self.reaches, (self.least, self.most, self.size, self.off)
        least, most, size, off = (array.reshape(1) for array in rest)
        return Pixels(center, tuple(reach.reshape(1) for reach in reaches), least, most, size, off)

    def scaled(self, center: str, factor: Array, offset: Array, offset_size: Array, fact: "Fact") -> "Pixels":
        """Return factor * x + offset, whose absolute terms add up to no more than |factor x| + offset_size."""
        ends = [factor * end + offset for end in (self.least, self.most)]
        size = (np.abs(factor) * self.size + offset_size) * _OUTWARD
        off = (arithmetic.gamma(fact.roundings + 2) * size + fact.underflow) * _OUTWARD
        reaches = tuple(np.abs(factor) * reach * _OUTWARD for reach in self.reaches)
        spare = size * 2.0**-40  # of float64, in which this is computed
        return Pixels(center, reaches, np.minimum(*ends) - spare, np.maximum(*ends) + spare, size, off)


@final
@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a value of the file for all images at once.

    Args:
        roundings: that a term of its chain meets at most.
        underflow: bound of what underflow adds up to.
        top: bound of its absolute value, and of what the guard keeps of it.
    """

    roundings: int
    underflow: float
    top: float

    @classmethod
    def of(cls, value: Enclosure, around: Enclosure) -> "Fact":
        """Return what is known over all images.

        Args:
            value: its enclosure.
            around: what encloses all that a guard keeps of it, as `kept` gives it.
        """
        return cls(value.roundings, float(value.underflow.max()), 4 * greatest(around) + 1)


@final
@dataclass(frozen=True, slots=True)
class Line:
    """W y + b of a held value y, not yet written: what comes next tells in which way.

    Args:
        source: y.
        shape: of y, without the batch.
        linear: W.
        bias: b; None where there is none.
        bias_size: bound of its absolute terms.
        fact: of what it gives.
        moves: of entries, behind it.
    """

    source: Ends
    shape: tuple[int, ...]
    linear: Linear
    bias: Array | None
    bias_size: Array | None
    fact: Fact
    moves: tuple[Move, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Rectified:
    """What a ReLU reads.

    Args:
        line: the linear node before it.
        before: ends of what that gives.
        shape: of it, without the batch.
    """

    line: Line
    before: Ends
    shape: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Chain:
    """A value in a chain of affine nodes: what the chain gives in real numbers lies within `radius` of `center`.

    Args:
        center, radius: names of tensors.
        size: name of a tensor, not below the sum of absolute terms; all three are stored times 2^power.
        power: the exponent.
        top: bound of the absolute values over all images, in the file's own units.
        roundings: that a term meets in the file at most.
        underflow: bound of what underflow adds up to in the file.
        near: ends of what the chain gives in real numbers, closer than by center and radius; None where none are known.
    """

    center: str
    radius: str
    size: str
    power: int
    top: float
    roundings: int
    underflow: float
    near: Ends | None = None


def greatest(value: Enclosure) -> float:
    """Return a bound of all absolute values."""
    return float(value.size().max()) if value.lower.numel() else 0.0


def kept(value: Enclosure, size: float) -> Enclosure:
    """Return an enclosure widened so that all that a guard keeps of a value lies within it.

    A guard's ends are farther apart than those of a proof, by what the guard rounds itself. Let the ends of what a node
    reads lie within the widened ones. In a chain the file's term meets n roundings, at least one for each of the p
    products of each node; the guard adds no more than 2 (p + 16) + 16 for a node, and gamma(n) + 8 u at its end: less
    than 255 gamma(n) of the absolute terms M at each node, where ends here grow by 256; and it flushes up to 32 t for
    each product and, times 4, each number that it reads. A function that is held is widened by a few ulps of what it is
    computed of, and here by 256 or so.

    Args:
        value: what a node gives of widened values.
        size: bound of the absolute terms that a held value is computed of.
    """
    error = value.error()
    if error is None:
        room = torch.full_like(value.magnitude, _HELD * size)
    else:
        flushed = arithmetic.underflow(4 * _CHAINED) * (value.roundings + 2) * (1 + value.reach.max() * value.gain)
        room = _CHAINED * error + flushed
    return replace(value, lower=value.lower - room, upper=value.upper + room, magnitude=value.magnitude + room)
