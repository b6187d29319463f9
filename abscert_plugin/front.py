"""What stands between an image and its network: cells, or the scaling of pixels; and what a ball reaches behind it.

A *point* is what the network tells images apart by: the cells of all pixels, or the pixels themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final, Protocol, TypeAlias, final, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt

from abscert_plugin.ball import LEVELS, Ball
from abscert_plugin.claim import Inputs
from abscert_plugin.grid import Grid, check_pixels, level_pixels, log2_count
from abscert_plugin.preprocessing import Preprocessing

Points: TypeAlias = UInt[np.ndarray, "batch channels height width"] | Float32[np.ndarray, "batch channels height width"]
"""Cells, or pixels on the pixel scale, of a batch of images."""
Point: TypeAlias = UInt[np.ndarray, "channels height width"] | Float32[np.ndarray, "channels height width"]
Images: TypeAlias = Float32[np.ndarray, "batch channels height width"]
_PROBES: Final = 64
_FEWEST_PROBES: Final = 8
_PROBED_PIXELS: Final = 2**20  # of large images fewer are run: 8 of 3 x 224 x 224


@runtime_checkable
class Front(Protocol):
    """What turns an image on the pixel scale into what its network takes, on the training scale.

    Both are monotone in every pixel, so the box between two points holds what lies between them.
    """

    @property
    def alone(self) -> str:
        """Why a ball that reaches one point is decided by running its image."""
        ...

    def input_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of what the network takes for an image of this shape."""
        ...

    def reach(self, ball: Ball, images: Images) -> "Reach":
        """Return what the balls around some images reach.

        Soundness: every image of a ball has a point between `lowest` and `highest`.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
        """
        ...

    def probes(self, image_shape: tuple[int, int, int]) -> Images:
        """Return images on which runs of the file are compared."""
        ...

    def everything(self, image_shape: tuple[int, int, int]) -> tuple[Points, Points]:
        """Return the points between which those of all images lie, a batch of one each."""
        ...

    def images(self, points: Points) -> Images:
        """Return an image of each point."""
        ...

    def file_input(self, images: Images) -> Float32[np.ndarray, "batch *input"]:
        """Return what the deployed file is fed for images."""
        ...

    def network_input(self, points: Points) -> Float32[np.ndarray, "batch *input"]:
        """Return what the network takes of each point, on the training scale."""
        ...

    def held_ends(
        self, lowest: Points, highest: Points
    ) -> tuple[Float32[np.ndarray, "batch *input"], Float32[np.ndarray, "batch *input"]]:
        """Return the ends of a box of the tensor that every runtime holds, for all points between two."""
        ...

    def image_in(self, ball: Ball, center: np.ndarray, own: Point, point: Point) -> np.ndarray | None:
        """Return an image of the ball at, or nearest to, a point; None where there is none."""
        ...

    def change(
        self,
        slopes: Float32[np.ndarray, "batch *input"],
        lowest: Points,
        highest: Points,
    ) -> Float32[np.ndarray, "batch channels height width"]:
        """Return how a function with these slopes at the network's input changes as each pixel goes from end to end."""
        ...

    def log2_counts(self, lowest: Points, highest: Points) -> Float64[np.ndarray, "batch"] | None:
        """Return log2 of the number of points between two; None where they are not counted."""
        ...

    def between(self, lowest: Point, highest: Point, share: Float64[np.ndarray, "batch *point"]) -> Points:
        """Return points between two: at the lowest where the share is 0, at the highest where it is 1."""
        ...


@final
@dataclass(frozen=True)
class Reach:
    """What a batch of balls reaches: of each, every point between `lowest` and `highest`.

    Args:
        front: what the points are of.
        ball: the ball.
        images: its centres, on the pixel scale.
        own: the points of the centres.
        lowest, highest: the points at the ends.
    """

    front: Front
    ball: Ball
    images: Images
    own: Points
    lowest: Points
    highest: Points

    def __len__(self) -> int:
        return len(self.images)

    @property
    def log2_counts(self) -> Float64[np.ndarray, "batch"] | None:
        """Log2 of the number of points that each ball reaches; None where they are not counted."""
        return self.front.log2_counts(self.lowest, self.highest)

    @property
    def is_point(self) -> Bool[np.ndarray, "batch"]:
        """Which balls reach one point alone."""
        is_one: Bool[np.ndarray, "batch"] = (self.lowest == self.highest).reshape(len(self), -1).all(axis=1)
        return is_one

    def take(self, rows: Int64[np.ndarray, "some"]) -> "Reach":
        """Return these rows of the batch."""
        parts = (self.images[rows], self.own[rows], self.lowest[rows], self.highest[rows])
        return Reach(self.front, self.ball, *parts)

    def box(self) -> tuple[Float32[np.ndarray, "batch *input"], Float32[np.ndarray, "batch *input"]]:
        """Return the ends of the box of all that the network may be fed, on the training scale."""
        return self.front.network_input(self.lowest), self.front.network_input(self.highest)

    def image_in(self, row: int, point: Point) -> Float32[np.ndarray, "channels height width"] | None:
        """Return an image of a row's ball at, or nearest to, a point; None where there is none."""
        return self.front.image_in(self.ball, self.images[row], self.own[row], point)


@final
@dataclass(frozen=True, slots=True)
class Cells:
    """The abstraction phi: the network sees the two ends of every pixel's cell.

    Args:
        grid: the cells.
    """

    grid: Grid

    @property
    def alone(self) -> str:
        """Why a ball that lies in one combination of cells is decided by running its image."""
        return "the ball lies in the image's own cells"

    def input_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of an interval image: twice the channels."""
        channels, height, width = image_shape
        return 2 * channels, height, width

    def reach(self, ball: Ball, images: Images) -> Reach:
        """Return the cells that the balls around some images reach.

        Soundness: cells are found with the deployed comparison, of floats on ends that are rounded outward.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
        """
        own = self.grid.cell(images)
        if ball.inputs is Inputs.FLOAT:
            lowest, highest = self.grid.reachable(images, ball.radius.outward)
        else:
            first, last = ball.level_ends(images)
            cells = self.grid.level_cells(LEVELS)
            lowest, highest = np.minimum(own, cells[first]), np.maximum(own, cells[last])
        return Reach(self, ball, images, own, lowest, highest)

    def probes(self, image_shape: tuple[int, int, int]) -> Images:
        """Return images of random cells."""
        cells = np.random.default_rng(0).integers(0, self.grid.cells, (_probes(image_shape), *image_shape))
        return self.images(cells.astype(self.grid.index_type))

    def everything(self, image_shape: tuple[int, int, int]) -> tuple[Points, Points]:
        """Return the lowest and the highest cell of every pixel."""
        shape, kind = (1, *image_shape), self.grid.index_type
        return np.zeros(shape, kind), np.full(shape, self.grid.cells - 1, kind)

    def images(self, points: Points) -> Images:
        """Return the image of the cells' lower edges, which lie in them."""
        return self.grid.edges[:-1][points]

    def file_input(self, images: Images) -> Images:
        """Return the images: the file holds phi."""
        return images

    def network_input(self, points: Points) -> Float32[np.ndarray, "batch inputs height width"]:
        """Return the interval images of cells."""
        return self.grid.ends(points)

    def held_ends(self, lowest: Points, highest: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the interval images at the ends, which every runtime holds."""
        return self.grid.ends(lowest), self.grid.ends(highest)

    def image_in(self, ball: Ball, center: np.ndarray, own: Point, point: Point) -> np.ndarray | None:
        """Return an image of the ball that lies in given cells, or None where there is none.

        A pixel that keeps its cell keeps its value; any other takes the value of its cell that is nearest.
        None comes back where only the rounding of the ball's ends reaches a cell, or, of 8-bit images, where no 8-bit
        value of the ball lies in it.
        """
        if ball.inputs is Inputs.UINT8:
            image = self._level_image(point, center, own)
        else:
            edges = self.grid.edges
            highest_below = np.nextafter(edges[1:], np.float32(0))
            image = np.where(point > own, edges[:-1][point], np.where(point < own, highest_below[point], center))
        in_cells = (self.grid.cell(image) == point).all()
        return image if in_cells and ball.contains(center, image) else None

    def _level_image(self, cells: np.ndarray, center: np.ndarray, own: np.ndarray) -> np.ndarray:
        of_levels = self.grid.level_cells(LEVELS)
        above = np.searchsorted(of_levels, cells, side="left")  # the least value of the cell, or of a higher one
        below = np.searchsorted(of_levels, cells, side="right") - 1
        values = np.clip(np.where(cells > own, above, below), 0, LEVELS)
        return np.where(cells == own, center, level_pixels(LEVELS)[values])

    def change(
        self,
        slopes: Float32[np.ndarray, "batch *input"],
        lowest: Points,
        highest: Points,
    ) -> Float32[np.ndarray, "batch channels height width"]:
        """Return the change at both ends of each pixel's cell together."""
        move = slopes * (self.network_input(highest) - self.network_input(lowest))
        channels = move.shape[1] // 2
        change: Float32[np.ndarray, "batch channels height width"] = move[:, :channels] + move[:, channels:]
        return change

    def log2_counts(self, lowest: Points, highest: Points) -> Float64[np.ndarray, "batch"]:
        """Return log2 of the number of combinations of cells."""
        return log2_count(lowest, highest)

    def between(self, lowest: Point, highest: Point, share: Float64[np.ndarray, "batch *point"]) -> Points:
        """Return combinations of cells between two."""
        cells: UInt[np.ndarray, "batch *point"] = np.rint(lowest + share * (highest - lowest)).astype(lowest.dtype)
        return cells


@final
@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels themselves, scaled for the network: by the file, to 2 x - 1, or before it is run.

    Args:
        preprocessing: what stands before a file that this project did not make; None where the file scales pixels.
    """

    preprocessing: Preprocessing | None = None

    @property
    def alone(self) -> str:
        """Why a ball of one image is decided by running it."""
        return "the ball holds the image alone"

    def input_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the image's shape, or that of the file's input."""
        return image_shape if self.preprocessing is None else self.preprocessing.input_shape

    def reach(self, ball: Ball, images: Images) -> Reach:
        """Return the least and the greatest image of each ball.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
        """
        check_pixels(images)
        return Reach(self, ball, images, images, *ball.ends(images))

    def probes(self, image_shape: tuple[int, int, int]) -> Images:
        """Return random images."""
        return np.random.default_rng(0).random((_probes(image_shape), *image_shape), dtype=np.float32)

    def everything(self, image_shape: tuple[int, int, int]) -> tuple[Points, Points]:
        """Return the images of the least and the greatest pixels."""
        shape = (1, *image_shape)
        return np.zeros(shape, np.float32), np.ones(shape, np.float32)

    def images(self, points: Points) -> Images:
        """Return the points, which are images."""
        return points

    def file_input(self, images: Images) -> Float32[np.ndarray, "batch *input"]:
        """Return the images, or what is made of them before the file is run."""
        return images if self.preprocessing is None else self.preprocessing.apply(images)

    def network_input(self, points: Points) -> Float32[np.ndarray, "batch *input"]:
        """Return 2 x - 1 as the file computes it, or what is fed to the file; both are monotone in every pixel."""
        return 2 * points - 1 if self.preprocessing is None else self.preprocessing.apply(points)

    def held_ends(self, lowest: Points, highest: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the images themselves, since a runtime may fold their scaling, or ends of what is fed to the file."""
        return (lowest, highest) if self.preprocessing is None else self.preprocessing.ends(lowest, highest)

    def image_in(self, ball: Ball, center: np.ndarray, own: Point, point: Point) -> np.ndarray | None:
        """Return the image of the ball that is nearest to one."""
        del own
        image = ball.into(center, point)
        return image if ball.contains(center, image) else None

    def change(
        self,
        slopes: Float32[np.ndarray, "batch *input"],
        lowest: Points,
        highest: Points,
    ) -> Float32[np.ndarray, "batch channels height width"]:
        """Return slope times width."""
        by_pixel = 2 * slopes if self.preprocessing is None else self.preprocessing.pulled_back(slopes)
        change: Float32[np.ndarray, "batch channels height width"] = by_pixel * (highest - lowest)
        return change

    def log2_counts(self, lowest: Points, highest: Points) -> None:
        """Return None: float images are not counted."""
        del lowest, highest

    def between(self, lowest: Point, highest: Point, share: Float64[np.ndarray, "batch *point"]) -> Points:
        """Return images between two."""
        images = (lowest + share * (highest.astype(np.float64) - lowest)).astype(np.float32)
        return np.clip(images, lowest, highest)


def _probes(image_shape: tuple[int, int, int]) -> int:
    return min(_PROBES, max(_FEWEST_PROBES, _PROBED_PIXELS // prod(image_shape)))


def combinations(
    lowest: UInt[np.ndarray, "channels height width"],
    highest: UInt[np.ndarray, "channels height width"],
    size: int,
) -> Iterator[UInt[np.ndarray, "batch channels height width"]]:
    """Yield every combination of cells between two ends once, at most `size` at a time."""
    free = np.flatnonzero(lowest < highest)
    low, high = lowest.ravel(), highest.ravel()
    choices = [int(high[pixel]) - int(low[pixel]) + 1 for pixel in free]
    count = prod(choices)
    for start in range(0, count, size):
        number = np.arange(start, min(start + size, count), dtype=np.int64)
        cells = np.repeat(low[None], len(number), axis=0)
        for pixel, choice in zip(free, choices, strict=True):
            cells[:, pixel] += (number % choice).astype(cells.dtype)
            number = number // choice
        yield cells.reshape(-1, *lowest.shape)
