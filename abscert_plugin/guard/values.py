"""What a guard keeps of a value of the file: tensors of its own graph that enclose it.

Each is stored times a power of two, which is exact: a middle is then a sum, without a product by one half.
"""

from dataclasses import dataclass
from typing import final


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
    """

    lower: str
    upper: str
    power: int
    top: float
    is_positive: bool = False
    is_even: bool = False


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
