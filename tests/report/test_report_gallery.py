"""Pictures on the page: they decode, show the right image beside its cells, and are left out where they are not its."""

import base64
import io
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from html_page import Element, parse_page
from PIL import Image
from report_rows import picture_data, row, run_info

from abscert_plugin.data import DataSet
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.errors import DataError
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.report.gallery import MAX_BORDERED_SIDE, draw, take_images, to_bytes
from abscert_plugin.report.page import PageContent, render_page

SHAPES = [(1, 5, 7), (3, 6, 4)]


def failing_rows(data: DataSet) -> list[Record]:
    facts = zip(data.index.tolist(), data.labels.tolist(), strict=True)
    return [row(index, "falsified", label=label, margin=float(-index)) for index, label in facts]


def page_of(data: DataSet, rows: list[Record], grid: Grid | None = None, sha256: str | None = None) -> Element:
    run = run_info(data={"name": data.name, "sha256": sha256})
    return parse_page(render_page(PageContent(run, rows, grid, data)))


def decoded(uri: str) -> np.ndarray:
    """Return a PNG of a data URI as [channels, height, width]."""
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert image.format == "PNG"
    image.load()
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def cells_by_definition(image: np.ndarray, cells: int) -> np.ndarray:
    """Cell k holds the values from k / cells up to, but not including, (k + 1) / cells; the last holds 1 too."""
    exact = [min(cells - 1, int(Fraction(int(value), 255) * cells)) for value in image.ravel()]
    return np.array(exact).reshape(image.shape)


def borders_by_definition(cells: np.ndarray) -> set[tuple[int, int, int, int]]:
    """Return the sides, each one pixel long, between neighbours that differ in a channel's cell: x, y, dx, dy."""
    _, height, width = cells.shape
    across = {
        (x, y, 1, 0) for y in range(1, height) for x in range(width) if (cells[:, y, x] != cells[:, y - 1, x]).any()
    }
    down = {
        (x, y, 0, 1) for y in range(height) for x in range(1, width) if (cells[:, y, x] != cells[:, y, x - 1]).any()
    }
    return across | down


def drawn_borders(path: str) -> list[tuple[int, int, int, int]]:
    """Return the sides, each one pixel long, that an SVG path of horizontal and vertical strokes draws."""
    strokes = re.findall(r"M(\d+) (\d+)([hv])(\d+)", path)
    assert "".join(f"M{x} {y}{kind}{length}" for x, y, kind, length in strokes) == path
    return [
        (int(x) + n, int(y), 1, 0) if kind == "h" else (int(x), int(y) + n, 0, 1)
        for x, y, kind, length in strokes
        for n in range(int(length))
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cells", [1, 2, 5, 255])
def test_each_item_shows_its_own_image_and_its_cells(shape: tuple[int, int, int], cells: int) -> None:
    data = picture_data(shape, 9)
    rows = failing_rows(data)[::2]
    shown = page_of(data, rows, Grid(cells)).by_id("gallery").all("li")
    assert [int(item.attributes["data-index"]) for item in shown] == [one.index for one in reversed(rows)]
    for item in shown:
        index = int(item.attributes["data-index"])
        (stored,) = data.source.read(np.array([index]))
        image, middles = item.all("img")
        assert (image.attributes["width"], image.attributes["height"]) == (str(shape[2]), str(shape[1]))
        assert np.array_equal(decoded(image.attributes["src"]), stored)
        cell = cells_by_definition(stored, cells)
        expected = 255 * (2 * cell + 1) / (2 * cells)  # mid-points of the ideal cells
        assert np.abs(decoded(middles.attributes["src"]) - expected).max() <= 0.5 + 1e-4  # 8 bits, and edges of 2^-24
        sides = [side for path in item.all("path") for side in drawn_borders(path.attributes["d"])]
        assert set(sides) == borders_by_definition(cell)
        assert len(sides) == len(set(sides))
        assert f"Index {index}, class {data.classes[data.labels[index - 5]]}" in image.attributes["alt"]


def test_images_of_few_levels_are_drawn_at_full_range() -> None:
    data = replace(picture_data((1, 4, 4), 6), levels=16)
    images = cast(ArraySource, data.source).images
    images[:] %= 17
    (picture,) = draw(take_images(data, [7])[7], None)
    assert np.array_equal(decoded(picture.uri), to_bytes(images[7] / np.float32(16)))
    assert decoded(picture.uri).max() > 200


def test_without_a_grid_the_image_stands_alone() -> None:
    data = picture_data((1, 4, 4), 6)
    root = page_of(data, failing_rows(data))
    assert len(root.by_id("gallery").all("img")) == 6
    assert not root.by_id("gallery").all("svg")
    assert "Beside each image" not in root.text


def test_borders_are_left_out_where_pixels_are_too_small_to_carry_them() -> None:
    random = np.random.default_rng(0)
    for side, has_borders in ((MAX_BORDERED_SIDE, True), (MAX_BORDERED_SIDE + 1, False)):
        _, cells = draw(random.random((1, 2, side), dtype=np.float32), Grid(4))
        assert bool(cells.borders) == has_borders


def test_an_index_that_the_data_lack_has_no_picture_and_says_so() -> None:
    data = picture_data((1, 4, 4), 6)
    rows = [*failing_rows(data), row(999, "unknown")]
    assert set(take_images(data, [5, 999])) == {5}
    assert take_images(data, [999]) == {}
    shown = page_of(data, rows).by_id("gallery").all("li")
    bare = [item for item in shown if not item.all("img")]
    assert [item.attributes["data-index"] for item in bare] == ["999"]
    assert "The data set at hand lacks this image." in bare[0].text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sha256": "1" * 64}, "not the one of this run"),
        ({"labels": np.array([1, 1, 1, 1, 1, 1])}, "not the one of this run"),
        ({"index": np.arange(500, 506)}, "none of this run's images"),
    ],
)
def test_other_data_than_the_run_gives_no_pictures_but_a_reason(change: dict[str, Any], reason: str) -> None:
    data = picture_data((1, 4, 4), 6)
    root = page_of(replace(data, **change), failing_rows(data), Grid(3), data.sha256)
    assert reason in root.by_id("no-pictures").text
    assert not root.by_id("gallery").all("img")
    assert len(root.by_id("gallery").all("li")) == 6


def test_images_of_two_channels_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="1 or 3 channels to draw, got 2"):
        draw(np.zeros((2, 4, 4), dtype=np.float32), None)
