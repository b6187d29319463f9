"""What a guard keeps of a value of the file: tensors of its own graph that enclose it.

Each is stored times a power of two, which is exact: a middle is then a sum, without a product by one half.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.linear import Array, Linear

Move: TypeAlias = Callable[[Emitter, str], str]
"""From a tensor to the same entries in other places."""


@final
@dataclass(frozen=True, slots=True)
class Ends:
    """A value that a runtime holds: whatever the file computes lies between two tensors, but for 8 t by flushing.

    Args:
        lower, upper: names of the tensors; stored are their values times 2^power.
        power: the exponent.
        top: bound of the absolute value over all images, in the file's own units.
        is_positive: whether the lower one is never below 0.
        is_even: whether `top` is about as tight for each entry as its own ends are.
        origin: the ReLU that gives it, entry by entry in this order; None where something else does.
    """

    lower: str
    upper: str
    power: int
    top: float
    is_positive: bool = False
    is_even: bool = False
    origin: "Rectified | None" = None


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
    def of(cls, value: Enclosure) -> "Fact":
        """Return what an enclosure over all images tells."""
        size = float(value.size().max()) if value.lower.numel() else 0.0
        return cls(value.roundings, float(value.underflow.max()), 4 * size + 1)


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
    """

    center: str
    radius: str
    size: str
    power: int
    top: float
    roundings: int
    underflow: float
