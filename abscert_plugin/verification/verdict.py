"""What a verification can say about one image, and what each claim covers."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Claim(StrEnum):
    """What is said about an image; numbers of different claims are never mixed."""

    CELL = "cell"
    BALL = "ball"


class Verdict(StrEnum):
    """The three answers. Whatever goes wrong (time-out, NaN, a crashed backend, a tie) is `UNKNOWN`, with a reason."""

    CERTIFIED = "certified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"


SCOPE: Final[Mapping[Claim, str]] = MappingProxyType(
    {
        Claim.CELL: (
            "Claim `cell`: every image whose pixels lie in the same cells as this image gets its label. "
            "It does not cover the l-infinity ball: a pixel near an edge may cross into the next cell."
        ),
        Claim.BALL: (
            "Claim `ball`: every image within the radius, in the pixel range, gets this image's label "
            "from the deployed classifier."
        ),
    }
)
