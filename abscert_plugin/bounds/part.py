"""A part of a box, in which ReLUs have known signs, and the lines that bound it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import numpy as np
from jaxtyping import Float32, UInt8

LEVELS: Final = 255
"""A slope that is kept is one of 0, 1/255, ..., 1."""

Signs: TypeAlias = Mapping[int, bool]
"""ReLUs whose sign is known, by their place among all: True where what they read is at least 0."""


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A part of a box, and the lines that bound it.

    Args:
        slopes: lower slopes of the ReLUs that are unstable in the whole box, of each row, in shares of `LEVELS`.
        signs: the signs that are known in it.
        multipliers: of these signs, in their order, of each row.
    """

    slopes: UInt8[np.ndarray, "row bent"]
    signs: Signs = field(default_factory=dict)
    multipliers: Float32[np.ndarray, "row sign"] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @property
    def bytes(self) -> int:
        """How much keeping it takes, about; its halves share its slopes."""
        return self.slopes.nbytes + self.multipliers.nbytes + 64 * len(self.signs)

    def with_signs(self, signs: Signs) -> "Part":
        """Return a part with the same slopes, of which other signs are known and have no multipliers."""
        return Part(self.slopes, signs, np.zeros((len(self.slopes), len(signs)), dtype=np.float32))

    def halves(self, place: int) -> "tuple[Part, Part]":
        """Return the parts in which a ReLU reads at most 0, and at least 0."""
        more = np.pad(self.multipliers, ((0, 0), (0, 1)))
        return (
            Part(self.slopes, {**self.signs, place: False}, more),
            Part(self.slopes, {**self.signs, place: True}, more),
        )
