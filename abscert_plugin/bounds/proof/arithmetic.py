"""What rounding can do: binary32 in the file, and binary64 in the proof itself."""

from typing import Final

import numpy as np

UNIT: Final = 2.0**-24
"""Half the distance of 1 to the next float32: the largest relative error of a rounding (u)."""

OWN_UNIT: Final = 2.0**-53
"""The same of float64, in which the proof computes."""

TINY: Final = 2.0**-126
"""The least normal float32: what flushing a subnormal number to zero can change (t)."""

LARGEST: Final = float(np.finfo(np.float32).max)


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
