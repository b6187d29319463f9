"""What a ball of images reaches: the lowest and highest cell of every pixel, and images of the ball in given cells."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.grid import Grid, float32_within, level_pixels, log2_count

_LEVELS: Final = 255
_ROUNDING: Final = 1e-4  # of a level: what storing value / 255 as float32 can move


@final
@dataclass(frozen=True, slots=True)
class Ball:
    """The ball of the claim.

    Args:
        radius: its radius.
        inputs: which images it holds.
    """

    radius: Radius
    inputs: Inputs = Inputs.FLOAT

    def reach(self, grid: Grid, images: Float32[np.ndarray, "batch channels height width"]) -> "Reach":
        """Return the cells that the balls around some images reach.

        Soundness: every image of the ball lies in cells between `lowest` and `highest`, found with the deployed
        comparison on float32 ends that are rounded outward.

        Args:
            grid: the cells.
            images: pixels on the pixel scale [0, 1].

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
        """
        own = grid.cell(images)
        if self.inputs is Inputs.FLOAT:
            lowest, highest = grid.reachable(images, self.radius.outward)
        else:
            first, last = self._levels(images)
            cells = grid.level_cells(_LEVELS)
            lowest, highest = np.minimum(own, cells[first]), np.maximum(own, cells[last])
        return Reach(grid, self, images, own, lowest, highest)

    def contains(
        self,
        center: Float32[np.ndarray, "*shape"],
        image: Float32[np.ndarray, "*shape"],
    ) -> bool:
        """Return whether an image lies in the ball around `center` and in the pixel range, by exact arithmetic."""
        if self.inputs is Inputs.UINT8:
            levels = np.rint(image * np.float32(_LEVELS)).astype(np.int64)
            is_8_bit = (level_pixels(_LEVELS)[np.clip(levels, 0, _LEVELS)] == image).all()
            within = np.abs(levels - center.astype(np.float64) * _LEVELS) <= self.radius.outward * _LEVELS + _ROUNDING
            return bool(is_8_bit and (within | (image == center)).all())
        low, high = float32_within(center, self.radius.inward)
        return bool(((low <= image) & (image <= high)).all())

    def ends(
        self, images: Float32[np.ndarray, "*shape"]
    ) -> tuple[Float32[np.ndarray, "*shape"], Float32[np.ndarray, "*shape"]]:
        """Return the least and the greatest value of each pixel in the balls around some images.

        Soundness: every float32 image that `contains` accepts lies between them.
        """
        if self.inputs is Inputs.FLOAT:
            return float32_within(images, self.radius.outward)
        first, last = self._levels(images)
        values = level_pixels(_LEVELS)
        return np.minimum(values[first], images), np.maximum(values[last], images)

    def into(
        self, centers: Float32[np.ndarray, "*shape"], images: Float32[np.ndarray, "*shape"]
    ) -> Float32[np.ndarray, "*shape"]:
        """Return images moved into the balls: each pixel goes to the nearest value that it may have."""
        if self.inputs is Inputs.FLOAT:
            low, high = float32_within(centers, self.radius.inward)
            return np.minimum(np.maximum(images, low), high)
        first, last = self._levels(centers)
        return level_pixels(_LEVELS)[np.clip(np.rint(images * _LEVELS).astype(np.int64), first, last)]

    def _levels(
        self, images: Float32[np.ndarray, "*shape"]
    ) -> tuple[Int64[np.ndarray, "*shape"], Int64[np.ndarray, "*shape"]]:
        """Return the least and the greatest 8-bit value within the radius of each pixel, up to the rounding of float32.

        Where a pixel has none (it is no 8-bit value itself, and the radius is small), both are its nearest value.
        """
        places = images.astype(np.float64) * _LEVELS
        distance = self.radius.outward * _LEVELS + _ROUNDING
        nearest = np.rint(places)
        first = np.clip(np.minimum(np.ceil(places - distance), nearest), 0, _LEVELS)
        last = np.clip(np.maximum(np.floor(places + distance), nearest), 0, _LEVELS)
        return first.astype(np.int64), last.astype(np.int64)


@final
@dataclass(frozen=True)
class Reach:
    """The cells that a batch of balls reaches; every combination of cells between `lowest` and `highest`.

    Args:
        grid: the cells.
        ball: the ball.
        images: its centres, on the pixel scale.
        own: the cells of the centres.
        lowest, highest: the cells at the ends, per pixel.
    """

    grid: Grid
    ball: Ball
    images: Float32[np.ndarray, "batch channels height width"]
    own: UInt8[np.ndarray, "batch channels height width"]
    lowest: UInt8[np.ndarray, "batch channels height width"]
    highest: UInt8[np.ndarray, "batch channels height width"]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def log2_counts(self) -> Float64[np.ndarray, "batch"]:
        """Log2 of the number of reachable interval images of each ball."""
        return log2_count(self.lowest, self.highest)

    def take(self, rows: Int64[np.ndarray, "some"]) -> "Reach":
        """Return these rows of the batch."""
        return Reach(self.grid, self.ball, self.images[rows], self.own[rows], self.lowest[rows], self.highest[rows])

    def box(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch channels2 height width"], Float32[np.ndarray, "batch channels2 height width"]
    ]:
        """Return the ends of the box of all reachable interval images, on the training scale."""
        return self.grid.ends(self.lowest), self.grid.ends(self.highest)

    def image_in(
        self, row: int, cells: UInt8[np.ndarray, "channels height width"]
    ) -> Float32[np.ndarray, "channels height width"] | None:
        """Return an image of a row's ball that lies in these cells, or None where there is none.

        A pixel that keeps its cell keeps its value; any other takes the value of its cell that is nearest.
        None comes back where only the rounding of the ball's ends reaches a cell, or, of 8-bit images, where no 8-bit
        value of the ball lies in it.
        """
        center, own = self.images[row], self.own[row]
        if self.ball.inputs is Inputs.UINT8:
            image = self._level_image(cells, center, own)
        else:
            edges = self.grid.edges
            highest_below = np.nextafter(edges[1:], np.float32(0))
            image = np.where(cells > own, edges[:-1][cells], np.where(cells < own, highest_below[cells], center))
        in_cells = (self.grid.cell(image) == cells).all()
        return image if in_cells and self.ball.contains(center, image) else None

    def _level_image(
        self,
        cells: UInt8[np.ndarray, "channels height width"],
        center: Float32[np.ndarray, "channels height width"],
        own: UInt8[np.ndarray, "channels height width"],
    ) -> Float32[np.ndarray, "channels height width"]:
        of_levels = self.grid.level_cells(_LEVELS)
        above = np.searchsorted(of_levels, cells, side="left")  # the least value of the cell, or of a higher one
        below = np.searchsorted(of_levels, cells, side="right") - 1
        values = np.clip(np.where(cells > own, above, below), 0, _LEVELS)
        return np.where(cells == own, center, level_pixels(_LEVELS)[values])


def straddling(reach: Reach) -> Bool[np.ndarray, "batch channels height width"]:
    """Return which pixels have more than one reachable cell."""
    return reach.lowest < reach.highest
