"""What is claimed of an image: the claim, the radius of its ball with its scale, the images it holds, the verdict."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.errors import ConfigError

_LONGEST: Final = 100
_HUGE_EXPONENT: Final = re.compile(r"[eE](\+?0*[1-9]\d{2}|-0*[1-9]\d{3})")


class Claim(StrEnum):
    """What is said about an image; numbers of different claims are never mixed."""

    CELL = "cell"
    BALL = "ball"


def validated(claim: str, options: Mapping[str, object]) -> str:
    """Return what a training's validation error is of.

    Args:
        claim: the method's.
        options: the method's, as its `describe` has them.

    Returns:
        The claim, or `attacked` where an attack chose the epoch: its error is below that of the claim.
    """
    return "attacked" if options.get("selection") == "attack" else claim


class Verdict(StrEnum):
    """The three answers. Whatever goes wrong (time-out, NaN, a crashed backend, a tie) is `UNKNOWN`, with a reason."""

    CERTIFIED = "certified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"


class QueryVerdict(StrEnum):
    """What a solver says of a query, in the words of the VNN-LIB 2 standard."""

    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMED_OUT = "timed-out"


class Arithmetic(StrEnum):
    """What evaluations of a file a verdict holds for. A verdict of one kind says nothing of another.

    `ANY_ORDER`: every evaluation in binary32 rounded to nearest, whatever the order of its sums (docs/METHOD.md).
    `WIDE_SUMS`: the same of a file with float16, whose sums of products are held in float32 before they are rounded.
    `THIS_RUNTIME`: the runtime, provider and machine that ran the file.
    `REAL`: exact real numbers, which no runtime computes with; what another solver says.
    `UNPROVEN`: a bound in float32 whose own rounding was guessed at, as rows written before the proofs came have it.
    """

    ANY_ORDER = "any-order"
    WIDE_SUMS = "wide-sums"
    THIS_RUNTIME = "this-runtime"
    REAL = "real"
    UNPROVEN = "unproven"

    def implies(self, other: "Arithmetic") -> bool:
        """Return whether a verdict that holds for these evaluations holds for those of another kind too."""
        return self is other or (self is Arithmetic.ANY_ORDER and other in _OF_ANY_ORDER)


PROVABLE: Final = (Arithmetic.ANY_ORDER, Arithmetic.WIDE_SUMS)
"""What a proof can show; of the others, a run of the file decides."""

_OF_ANY_ORDER: Final = (Arithmetic.WIDE_SUMS, Arithmetic.THIS_RUNTIME)  # their evaluations are some of `ANY_ORDER`


DECIDED_AT_ONCE: Final[Mapping[str, int]] = MappingProxyType({Claim.CELL: 250, Claim.BALL: 100})
"""Images that are decided together where nothing else is asked for, by claim."""
_BATCH_SECONDS: Final = 1000


def decided_at_once(claim: Claim, timeout: float) -> int:
    """Return how many images are decided together where nothing else is asked for.

    Rows are written a batch at a time: where a ball may take long, a batch is fewer images, so that a kill costs no
    hours and progress is seen.

    Args:
        claim: what is decided.
        timeout: seconds an image of the claim `ball`.
    """
    most = DECIDED_AT_ONCE[claim]
    if claim is Claim.CELL or timeout * most <= _BATCH_SECONDS:
        return most
    return max(1, int(_BATCH_SECONDS / timeout))


class Inputs(StrEnum):
    """Which images a ball holds: all of float32, or those of 8 bits alone (cameras and files give no others)."""

    FLOAT = "float"
    UINT8 = "uint8"


_CELL: Final = (
    "Claim `cell`: every image whose pixels lie in the same cells as this image gets its label. "
    "It does not cover the l-infinity ball: a pixel near an edge may cross into the next cell."
)
_BALL: Final[Mapping[Inputs, str]] = MappingProxyType(
    {
        Inputs.FLOAT: (
            "Claim `ball`: every image within the radius, in the pixel range, gets this image's label "
            "from the deployed classifier."
        ),
        Inputs.UINT8: (
            "Claim `ball` of 8-bit images: every 8-bit image within the radius gets this image's label from the "
            "deployed classifier. It does not cover images between these, whose pixels are no multiples of 1/255."
        ),
    }
)


def scope(claim: Claim, inputs: str | None = None) -> str:
    """Return what a claim says, in a sentence.

    Args:
        claim: the claim.
        inputs: which images its ball holds, as rows and run.json name them; None where they do not say, as of cells.
    """
    return _CELL if claim is Claim.CELL else _BALL[Inputs(inputs or Inputs.FLOAT)]


class RadiusScale(StrEnum):
    """The scale that a radius is given on: pixels in [0, 1], or the training domain [-1, 1] (the paper's epsilon)."""

    PIXEL = "pixel"
    TRAINING = "training"


@final
@dataclass(frozen=True, slots=True)
class Radius:
    """The radius of an l-infinity ball of images.

    Args:
        given: the number on its own scale, exactly as it was written: 8/255 is that fraction, 0.1 is a tenth.
        scale: the scale of `given`; a length on the training scale is half as long on the pixel scale.

    Raises:
        ConfigError: if it is negative, or more than 1 on the pixel scale, where every ball holds all images.
    """

    given: Fraction
    scale: RadiusScale = RadiusScale.PIXEL

    def __post_init__(self) -> None:
        if not 0 <= self.pixel <= 1:
            is_steps = self.scale is RadiusScale.PIXEL and self.given > 1 and self.given.denominator == 1
            hint = f"; steps of 8 bits are written {self.given}/255" if is_steps else ""
            raise ConfigError(f"expected a radius from 0 to 1 on the pixel scale, got {self}{hint}")

    def __str__(self) -> str:
        nearest = float(self.given)
        if self.given and not nearest:  # less than any float64
            return f"{Decimal(self.given.numerator) / self.given.denominator:.6g} ({self.scale} scale)"
        return f"{nearest:.6g} ({self.scale} scale)"

    @property
    def written(self) -> str:
        """The number on its own scale as a user writes it: in decimals where they are exact, else as a fraction.

        >>> Radius.parse("1/10").written, Radius.parse("8/255").written
        ('0.1', '8/255')
        """
        decimal = repr(float(self.given))
        return decimal if Fraction(decimal) == self.given else str(self.given)

    def as_options(self) -> dict[str, str]:
        """Return the number and its scale as text, for run.json, checkpoints and certificates."""
        return {"radius": str(self.given), "radius_scale": str(self.scale)}

    @classmethod
    def parse(cls, text: str, scale: RadiusScale = RadiusScale.PIXEL) -> "Radius":
        """Return the radius that `text` writes, such as 0.1 or 8/255.

        Raises:
            ConfigError: if it is not a number or a fraction, negative, not finite or too large.

        >>> Radius.parse("8/255").pixel
        Fraction(8, 255)
        """
        numerator, slash, denominator = text.partition("/")
        try:
            if not text.isascii() or "_" in text:
                raise ValueError("digits that the text of no other tool has")
            if "/" in denominator or len(text) > _LONGEST or _HUGE_EXPONENT.search(text):
                raise ValueError("two fraction bars, or a number whose exact value would fill the memory")
            value = Fraction(numerator.strip()) / Fraction(denominator.strip() if slash else 1)
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"expected a radius such as 0.1 or 8/255, got {text!r}") from error
        return cls(value, scale)

    @property
    def pixel(self) -> Fraction:
        """The radius on the pixel scale, exactly."""
        return self.given / 2 if self.scale is RadiusScale.TRAINING else self.given

    @property
    def outward(self) -> float:
        """The least float64 that is not below the radius on the pixel scale."""
        nearest = float(self.pixel)
        return nearest if Fraction(nearest) >= self.pixel else math.nextafter(nearest, math.inf)
