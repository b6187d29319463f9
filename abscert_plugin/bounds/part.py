"""A part of a box, in which more is known of what activations read, and the lines that bound it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, final

import numpy as np
from jaxtyping import Float32, UInt8

LEVELS: Final = 255
"""A share that is kept is one of 0, 1/255, ..., 1."""


@final
class Known(NamedTuple):
    """Ends of what an activation reads, each a number of float32, or infinite.

    Args:
        low, high: the ends; the whole box may have closer ones.
        is_above: whether the cut that was made last left what is above it.
    """

    low: float
    high: float
    is_above: bool


Cuts: TypeAlias = Mapping[int, Known]
"""What is known of activations, by their place among all."""


def cut(cuts: Cuts, place: int, value: float) -> tuple[Cuts, Cuts]:
    """Return what is known in the parts in which an activation reads at most a value, and at least it."""
    low, high, _ = cuts.get(place, Known(-np.inf, np.inf, False))
    return {**cuts, place: Known(low, value, False)}, {**cuts, place: Known(value, high, True)}


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A part of a box, and the lines that bound it.

    Args:
        slopes: shares that choose lines of the activations that have a choice in the whole box, of each row, in shares
            of `LEVELS`; of a ReLU it is the slope of its lower line.
        cuts: what is known in it of what activations read.
        multipliers: one of each of these, in their order, of each row: at least 0 where it is of the end that the last
            cut made, at most 0 where it is of the other one.
    """

    slopes: UInt8[np.ndarray, "row bent"]
    cuts: Cuts = field(default_factory=dict)
    multipliers: Float32[np.ndarray, "row cut"] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @property
    def bytes(self) -> int:
        """How much keeping it takes, about; its halves share its slopes."""
        return self.line_bytes + 128 * len(self.cuts)

    @property
    def line_bytes(self) -> int:
        """How much its lines take."""
        return self.slopes.nbytes + self.multipliers.nbytes

    def with_cuts(self, cuts: Cuts) -> "Part":
        """Return a part with the same lines, of which other things are known and have no multipliers."""
        return Part(self.slopes, cuts, np.zeros((len(self.slopes), len(cuts)), dtype=np.float32))

    def halves(self, place: int, value: float) -> "tuple[Part, Part]":
        """Return the parts in which an activation reads at most a value, and at least it."""
        below, above = cut(self.cuts, place, value)
        return Part(self.slopes, below, self._for(below)), Part(self.slopes, above, self._for(above))

    def _for(self, cuts: Cuts) -> Float32[np.ndarray, "row cut"]:
        """Return multipliers after one more cut: each stays with the side that it is of."""
        made = np.zeros((len(self.slopes), len(cuts)), dtype=np.float32)
        for column, (place, known) in enumerate(self.cuts.items()):
            sign = 1 if cuts[place].is_above == known.is_above else -1
            made[:, column] = sign * self.multipliers[:, column]
        return made
