"""Pictures of stored images and of the cells that hold their pixels, as PNG data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Int64, UInt, UInt8
from PIL import Image

from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import DataError
from abscert_plugin.grid import Grid

# Borders are drawn where a pixel is wide enough on the page to carry one.
MAX_BORDERED_SIDE: Final = 32


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a gallery item; an item has any number of them, side by side.

    Args:
        caption: what is seen, in a few words.
        alt: the same for those who do not see it.
        uri: a PNG at the image's own size, as a data URI.
        height, width: its size in pixels.
        borders: an SVG path over the picture, one unit per pixel; empty for none.
    """

    caption: str
    alt: str
    uri: str
    height: int
    width: int
    borders: str = ""


def take_images(data: DataSet, indices: Sequence[int]) -> Mapping[int, Float32[np.ndarray, "channels height width"]]:
    """Return images on the pixel scale by their index; an index that the data set lacks is left out.

    Args:
        data: where the images are.
        indices: places in the data set's own file.
    """
    places = data.places
    positions: Int64[np.ndarray, "n"] = np.array([places[i] for i in indices if i in places], dtype=np.int64)
    if len(positions) == 0:
        return {}
    batch = data.take(positions)
    return dict(zip(map(int, batch.index), data.pixels(batch.images), strict=True))


def draw(image: Float32[np.ndarray, "channels height width"], grid: Grid | None) -> tuple[Picture, ...]:
    """Return the picture of one image and, with a grid, that of its cells.

    Args:
        image: pixels on the pixel scale [0, 1].
        grid: whose cells are drawn; None draws the image alone.

    Raises:
        DataError: if the image has neither 1 nor 3 channels.
    """
    height, width = image.shape[1:]
    plain = draw_image(image, "image")
    if grid is None:
        return (plain,)
    cells = grid.cell(image)
    borders = cell_borders(cells) if max(height, width) <= MAX_BORDERED_SIDE else ""
    uri = png_uri(to_bytes(mid_points(cells, grid)))
    return plain, Picture("cells", "its cells, each at its mid-point", uri, height, width, borders)


def draw_image(image: Float32[np.ndarray, "channels height width"], name: str) -> Picture:
    """Return the picture of an image on the pixel scale.

    Raises:
        DataError: if the image has neither 1 nor 3 channels.
    """
    return Picture(name, f"the {name}", png_uri(to_bytes(image)), *image.shape[1:])


def mid_points(cells: UInt[np.ndarray, "*shape"], grid: Grid) -> Float32[np.ndarray, "*shape"]:
    """Return the middle of each pixel's cell on the pixel scale."""
    edges = grid.edges
    return ((edges[:-1] + edges[1:]) / 2)[cells]


def to_bytes(image: Float32[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Return pixels of the pixel scale [0, 1] as the nearest of 0 to 255."""
    return np.rint(image * 255).astype(np.uint8)


def png_uri(image: UInt8[np.ndarray, "channels height width"]) -> str:
    """Return an image as a PNG of its own size in a data URI.

    Raises:
        DataError: if it has neither 1 channel (grey) nor 3 (red, green, blue).
    """
    if len(image) not in (1, 3):
        raise DataError(
            f"expected images of 1 or 3 channels to draw, got {len(image)}; write the page without a data set"
        )
    layout = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(layout)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def cell_borders(cells: UInt[np.ndarray, "channels height width"]) -> str:
    """Return an SVG path along the sides where two neighbouring pixels differ in the cell of some channel."""
    across = (cells[:, 1:, :] != cells[:, :-1, :]).any(axis=0)
    down = (cells[:, :, 1:] != cells[:, :, :-1]).any(axis=0)
    rows = [f"M{start} {row}h{length}" for row, line in enumerate(across, 1) for start, length in _stretches(line)]
    columns = [
        f"M{column} {start}v{length}" for column, line in enumerate(down.T, 1) for start, length in _stretches(line)
    ]
    return "".join(rows + columns)


def _stretches(line: np.ndarray) -> list[tuple[int, int]]:
    """Return start and length of each run of true entries."""
    steps = np.flatnonzero(np.diff(line.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end - start)) for start, end in steps.reshape(-1, 2)]
