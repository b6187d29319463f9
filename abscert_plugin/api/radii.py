"""A radius as Python gives it: text, a fraction, or a float that is read as the number that was meant."""

import math
from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np

from abscert_plugin.choices import member
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import ConfigError

RadiusLike: TypeAlias = int | float | str | Fraction | Radius | np.generic
"""A radius of an l-infinity ball: 0.1, "8/255", a Fraction. Verdicts are about the exact number: of a float the nearest
fraction over at most a million, if it has this very float, so that 0.1 is a tenth and 8 / 255 is that fraction."""

_LARGEST: Final = 10**6


def need_radius(given: str | None, scale: RadiusScale) -> None:
    """Refuse a scale without a radius.

    Raises:
        ConfigError: if it is not the one that is taken where none is given.
    """
    if given is None and scale is not RadiusScale.PIXEL:
        raise ConfigError(f"expected a --radius with --radius-scale {scale}, got none")


def as_radius(given: RadiusLike, scale: str) -> Radius:
    """Return a radius.

    Args:
        given: the number; a `Radius` has a scale of its own.
        scale: `pixel` (of pixels in [0, 1]) or `training` (of [-1, 1]).

    Raises:
        ConfigError: if it is no number, negative or too large, or there is no such scale.

    >>> as_radius(8 / 255, "pixel").given, as_radius(0.1, "pixel").given
    (Fraction(8, 255), Fraction(1, 10))
    """
    if isinstance(given, Radius):
        return given
    on = member(RadiusScale, "radius-scale", scale)
    if isinstance(given, Fraction):
        return Radius(given, on)
    if isinstance(given, str | bool):
        return Radius.parse(str(given), on)
    try:
        value = float(str(given))  # a float32 of 0.1 is meant as 0.1
    except ValueError as error:
        raise ConfigError(f"expected a radius such as 0.1 or 8/255, got {given!r}") from error
    if not math.isfinite(value):
        raise ConfigError(f"expected a radius such as 0.1 or 8/255, got {given}")
    simple = Fraction(value).limit_denominator(_LARGEST)
    return Radius(simple if float(simple) == value else Fraction(repr(value)), on)
