"""The grid of cells that a pixel's range is cut into, and the abstraction phi on numpy arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt

from abscert_plugin.errors import GridError

MAX_CELLS: Final = 65_535
ONE_CELL: Final = "note: with one cell every image is the same to the network, so it decides nothing"
_BYTE: Final = 256  # cells that a byte tells apart
# Edges are multiples of 2^-24 on the pixel scale. Each is then a float32, and so is 2 * edge - 1: a pixel lies
# between the ends of its cell exactly, on both scales, with no rounding anywhere.
_EDGE_UNITS: Final = 2**24


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """A partition of the training domain [-1, 1] into `cells` intervals.

    They have one width (the paper's d = 2 / cells) unless `inner` says where the edges lie.
    An edge belongs to the upper cell; the top of the domain belongs to the last cell. Edge k of a uniform grid is the
    largest multiple of 2^-24 that is not above k / cells (pixel scale), hence at most 6e-8 below the ideal edge, and
    an 8-bit pixel that falls on an ideal edge belongs to the upper cell, as in exact arithmetic.

    Args:
        cells: number of intervals, 1 to 65,535. One cell is legal and decides nothing: every image is the same.
        inner: the cells - 1 edges between 0 and 1, in units of 2^-24 on the pixel scale; None for a uniform grid.

    Raises:
        GridError: if `cells` is not a whole number from 1 to 65,535, or the inner edges do not rise between 0 and 1.

    Source: AbsCert paper, section 3.2.1; inner edges are an extension of ours.

    >>> Grid(2).training_edges.tolist()
    [-1.0, 0.0, 1.0]
    """

    cells: int
    inner: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.cells, int) and 1 <= self.cells <= MAX_CELLS):
            raise GridError(f"expected a whole number of cells from 1 to {MAX_CELLS:,}, got {self.cells}")
        if self.inner is None:
            return
        whole = (0, *self.inner, _EDGE_UNITS)
        if len(self.inner) != self.cells - 1 or any(low >= high for low, high in pairwise(whole)):
            raise GridError(
                f"expected {self.cells - 1} edges that rise between 0 and 1 (pixel scale), got {self.inner}"
            )

    @classmethod
    def from_inner_edges(cls, edges: Sequence[float]) -> "Grid":
        """Return the grid with these edges between 0 and 1 (pixel scale), each rounded down to a multiple of 2^-24.

        Raises:
            GridError: if an edge is not a number, or they do not rise between 0 and 1.

        >>> Grid.from_inner_edges([0.25, 0.75]).edges.tolist()
        [0.0, 0.25, 0.75, 1.0]
        """
        if not all(map(math.isfinite, edges)):
            raise GridError(f"expected edges that rise between 0 and 1 (pixel scale), got {list(edges)}")
        return cls(len(edges) + 1, tuple(math.floor(Fraction(edge) * _EDGE_UNITS) for edge in edges))

    @classmethod
    def from_granularity(cls, granularity: float) -> "Grid":
        """Return the grid whose cells have the width `granularity` (the paper's d, on the training scale).

        Raises:
            GridError: if 2 / granularity is not a whole number to 1e-9; the message names the two nearest
                granularities that are.
        """
        if not (math.isfinite(granularity) and 0 < granularity <= 2):
            raise GridError(f"expected a granularity d with 0 < d <= 2, got {granularity}")
        quotient = 2 / granularity  # infinite for the least floats
        if math.isfinite(quotient) and abs(quotient - round(quotient)) <= 1e-9:
            return cls(round(quotient))
        coarse = math.floor(min(quotient, MAX_CELLS - 1))
        raise GridError(
            f"expected a granularity d that divides 2, got {granularity} (2 / d = {quotient:.9g}); the nearest are "
            f"{2 / coarse!r} (--cells {coarse}) and {2 / (coarse + 1)!r} (--cells {coarse + 1})"
        )

    @property
    def granularity(self) -> float:
        """Width of a cell on the training scale (the paper's d); the mean width where the grid is not uniform."""
        return 2 / self.cells

    @property
    def index_type(self) -> type[np.uint8] | type[np.uint16]:
        """The type of the numbers of cells, of one byte where that suffices."""
        return np.uint8 if self.cells <= _BYTE else np.uint16

    @classmethod
    def of_levels(cls, levels: int) -> "Grid":
        """Return the grid that has a cell for each stored value 0, ..., levels: edges lie half way between two.

        >>> Grid.of_levels(2).edges.tolist()
        [0.0, 0.25, 0.75, 1.0]
        """
        return cls.from_inner_edges([(level - 0.5) / levels for level in range(1, levels + 1)])

    @property
    def is_uniform(self) -> bool:
        """Whether all cells have one width."""
        return self.inner is None

    @property
    def inner_edges(self) -> tuple[float, ...]:
        """The edges between 0 and 1, exactly; `from_inner_edges` gives back an equal partition."""
        return tuple(float(edge) for edge in self.edges[1:-1])

    @property
    def edges(self) -> Float32[np.ndarray, "edges"]:
        """All cells + 1 edges on the pixel scale, from 0 to 1."""
        if self.inner is not None:
            units = [0, *self.inner, _EDGE_UNITS]
        else:
            units = [k * _EDGE_UNITS // self.cells for k in range(self.cells + 1)]
        return (np.array(units, dtype=np.float64) / _EDGE_UNITS).astype(np.float32)

    @property
    def training_edges(self) -> Float32[np.ndarray, "edges"]:
        """All cells + 1 edges on the training scale, from -1 to 1: exactly 2 * edges - 1."""
        return 2 * self.edges - 1

    def cell(self, images: Float32[np.ndarray, "*shape"]) -> UInt[np.ndarray, "*shape"]:
        """Return the cell of every pixel.

        Args:
            images: pixels on the pixel scale [0, 1].

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1]; nothing is clamped silently.
        """
        check_pixels(images)
        return np.searchsorted(self.edges[1:-1], images, side="right").astype(self.index_type)

    def interval_image(
        self, images: Float32[np.ndarray, "*batch channels height width"]
    ) -> Float32[np.ndarray, "*batch channels2 height width"]:
        """Return phi(images): the C lower ends, then the C upper ends, of every pixel's cell, on the training scale.

        Soundness: lower <= 2 * image - 1 <= upper holds exactly. Pixels of one cell get bit-identical ends.

        Args:
            images: pixels on the pixel scale [0, 1].

        Raises:
            GridError: as `cell`.
        """
        return self.ends(self.cell(images))

    def ends(
        self, cell: UInt[np.ndarray, "*batch channels height width"]
    ) -> Float32[np.ndarray, "*batch channels2 height width"]:
        """Return the interval image of given cells: C lower ends, then C upper ends, on the training scale."""
        edges = self.training_edges
        return np.concatenate([edges[:-1][cell], edges[1:][cell]], axis=-3)

    def reachable(
        self, images: Float32[np.ndarray, "*shape"], radius: float
    ) -> tuple[UInt[np.ndarray, "*shape"], UInt[np.ndarray, "*shape"]]:
        """Return the lowest and the highest cell that each pixel reaches within the ball; all between are reachable.

        Soundness: the ball's ends are rounded outward to float32 before they are looked up, so no cell that a
        float32 image of the ball falls into is missed.

        Args:
            images: pixels on the pixel scale [0, 1].
            radius: the ball's radius on the pixel scale, finite and not negative.

        Raises:
            GridError: if the radius is negative or not finite, or as `cell`.
        """
        if not (math.isfinite(radius) and radius >= 0):
            raise GridError(f"expected a radius that is finite and not negative, got {radius}")
        check_pixels(images)
        if radius == 0:
            cell = self.cell(images)
            return cell, cell
        shift = min(radius, 1.0)  # no pixel is further away
        pixels = images.astype(np.float64)
        low = np.maximum(_difference_below(pixels, shift), np.float32(0))
        high = np.minimum(-_difference_below(-pixels, shift), np.float32(1))
        return self.cell(low), self.cell(high)

    def level_cells(self, levels: int) -> UInt[np.ndarray, "values"]:
        """Return the cell of each stored pixel value 0, 1, ..., levels, which stands for value / levels."""
        return self.cell(level_pixels(levels))


def level_pixels(levels: int) -> Float32[np.ndarray, "values"]:
    """Return the pixel-scale float32 of each stored value 0, 1, ..., levels (255 for 8-bit images)."""
    return np.arange(levels + 1, dtype=np.float32) / np.float32(levels)


def check_pixels(images: Float32[np.ndarray, "*shape"]) -> None:
    """Raise unless every pixel is a number in [0, 1].

    Raises:
        GridError: naming the first offending value.
    """
    inside = (images >= 0) & (images <= 1)  # false for NaN
    if not inside.all():
        worst = images[~inside].flat[0]
        raise GridError(f"expected pixels in [0, 1] (pixel scale), got {worst}; scale the images before abstraction")


def float32_within(
    images: Float32[np.ndarray, "*shape"], radius: Fraction
) -> tuple[Float32[np.ndarray, "*shape"], Float32[np.ndarray, "*shape"]]:
    """Return the least and the greatest float32 within the radius of each pixel and the pixel range, exactly.

    These are ends rounded inward: both lie in the ball, and no float32 outside them does. `Grid.reachable` rounds
    outward instead.

    Args:
        images: pixels on the pixel scale [0, 1].
        radius: the ball's radius on the pixel scale, from 0 to 1; any fraction.
    """
    pixels = images.astype(np.float64)
    low = np.maximum(-_sum_below(-pixels, radius), np.float32(0))
    high = np.minimum(_sum_below(pixels, radius), np.float32(1))
    return low, high


def log2_count(
    lowest: UInt[np.ndarray, "batch *pixels"], highest: UInt[np.ndarray, "batch *pixels"]
) -> Float64[np.ndarray, "batch"]:
    """Return log2 of the number of interval images between `lowest` and `highest`, for each image."""
    widths: Int64[np.ndarray, "batch *pixels"] = highest.astype(np.int64) - lowest.astype(np.int64) + 1
    total: Float64[np.ndarray, "batch"] = np.log2(widths.reshape(len(widths), -1)).sum(axis=1)
    return total


def _difference_below(values: Float64[np.ndarray, "*shape"], shift: float) -> Float32[np.ndarray, "*shape"]:
    """Return the largest float32 that is not above the exact difference values - shift."""
    difference = values - shift
    # What float64 rounded away, exactly (Knuth's TwoSum).
    kept = values - difference
    lost = (values - (difference + kept)) + (kept - shift)
    return _float32_below(np.where(lost < 0, np.nextafter(difference, -np.inf), difference))


def _sum_below(values: Float64[np.ndarray, "*shape"], shift: Fraction) -> Float32[np.ndarray, "*shape"]:
    """Return the largest float32 that is not above the exact sum values + shift, for any fraction."""
    nearest = float(shift)
    below = nearest if Fraction(nearest) <= shift else math.nextafter(nearest, -math.inf)
    found = _difference_below(values, -below)
    if Fraction(below) == shift:
        return found
    # a float32 between the sums with the two float64 beside the fraction is rare, and decided by itself
    larger = _difference_below(values, -math.nextafter(below, math.inf))
    for place in zip(*np.nonzero(larger > found), strict=True):
        if Fraction(float(larger[place])) <= Fraction(float(values[place])) + shift:
            found[place] = larger[place]
    return found


def _float32_below(values: Float64[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return the largest float32 that is not above each value."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
