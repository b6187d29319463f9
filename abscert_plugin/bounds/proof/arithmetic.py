"""What rounding can do: binary32 or less in the file, and binary64 in the proof itself."""

from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

UNIT: Final = 2.0**-24
"""Half the distance of 1 to the next float32: the largest relative error of a rounding (u)."""

OWN_UNIT: Final = 2.0**-53
"""The same of float64, in which the proof computes."""

TINY: Final = 2.0**-126
"""The least normal float32: what flushing a subnormal number to zero can change (t)."""

LARGEST: Final = float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True, slots=True)
class Format:
    """Numbers that a node computes in.

    One rounding to fewer bits counts as many roundings to float32. That is sound: where |d_i| <= k_i u, the product of
    all 1 + d_i, or of their reciprocals, lies within gamma(sum of k_i) of 1.

    Args:
        name: numpy's.
        roundings: as how many roundings to float32 one to this format counts.
        tiny: the least normal number.
        largest: the largest finite one.
        in_sums: as how many roundings one inside a sum of products counts: fewer where sums are held in float32.
        tiny_in_sums: the least normal number that sums are held in.
    """

    name: str
    roundings: int
    tiny: float
    largest: float
    in_sums: int
    tiny_in_sums: float

    def of_terms(self, products: int) -> int:
        """Return the roundings of a term of a sum of products and a bias, in whatever order and tree.

        In fewer bits the sum is rounded once more when it leaves wider registers, and so is what a bias is added to.
        """
        return (products + 1) * self.in_sums + 2 * self.narrowing

    @property
    def narrowing(self) -> int:
        """The roundings of a value that may be held in float32 and read in this format: none of float32 itself."""
        return self.roundings if self.roundings > 1 else 0

    def with_wide_sums(self) -> "Format":
        """Return the format where sums of products are held in float32, and only what they give is rounded to it."""
        return replace(self, in_sums=1, tiny_in_sums=TINY)


SINGLE: Final = Format("float32", 1, TINY, LARGEST, 1, TINY)
HALF: Final = Format("float16", 2**13, 2.0**-14, float(np.finfo(np.float16).max), 2**13, 2.0**-14)
BRAIN: Final = Format("bfloat16", 2**17, TINY, 2.0**127 * (2 - 2.0**-7), 2**17, TINY)  # or cut off, not rounded


def gamma(roundings: int) -> float:
    """Return the relative error that so many roundings to float32 can add up to; inf where that is no small number.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1.
    """
    return _gamma(roundings, UNIT)


def own_gamma(roundings: int) -> float:
    """Return the same for float64, in which the proof itself is computed."""
    return _gamma(roundings, OWN_UNIT)


def single_gamma(roundings: int) -> float:
    """Return the same where the proof itself is computed in float32."""
    return _gamma(roundings, UNIT)


def underflow(count: float) -> float:
    """Return what flushing, or gradual underflow, can change in so many places."""
    return count * TINY


def _gamma(roundings: int, unit: float) -> float:
    share = roundings * unit
    return share / (1 - share) * (1 + 2.0**-40) if share < 0.25 else float("inf")
