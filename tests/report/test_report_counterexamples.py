"""Counterexamples on the page: their pictures, what changed, and files that are not what they should be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Element, parse_page
from msgspec.structs import replace
from report_rows import picture_data, row, run_info
from test_report_gallery import decoded

from abscert_plugin.data import DataSet
from abscert_plugin.files import write_array
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.report.changes import COLOURS
from abscert_plugin.report.page import PageContent, render_page
from abscert_plugin.report.steps import decided_by

GRID = Grid(2)
NAME = "counterexamples/00000005.npy"


def ball_row(index: int = 5, **changes: object) -> Record:
    base = replace(row(index, "falsified"), claim="ball", radius=0.25, radius_scale="pixel", inputs="float")
    return replace(base, **{"counterexample": NAME, "method": "crown", **changes})


def page_of(folder: Path, record: Record, replay: Any = None) -> tuple[DataSet, Element]:
    data = picture_data((1, 4, 4), 6)
    record = replace(record, label=int(data.labels[0]))
    content = PageContent(run_info(data={"name": data.name}), [record], GRID, data, folder, replay)
    return data, parse_page(render_page(content))


def stored(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write an image of the ball in which one pixel rises to the next cell, where one can."""
    data = picture_data((1, 4, 4), 6)
    image = data.pixels(data.take(np.array([0])).images)[0]
    other = image.copy()
    other[image < 0.5] = np.minimum(image[image < 0.5] + np.float32(0.2499), np.float32(1))
    write_array(folder / NAME, other)
    return image, other


def test_the_counterexample_stands_beside_its_image(tmp_path: Path) -> None:
    image, other = stored(tmp_path)
    _, root = page_of(tmp_path, ball_row(), lambda images: [1] * len(images))
    pictures = [decoded(picture.attributes["src"]) for picture in root.by_id("gallery").all("img")]
    assert len(pictures) == 5
    assert np.array_equal(pictures[0], np.rint(image * 255).astype(np.uint8))
    assert np.array_equal(pictures[2], np.rint(other * 255).astype(np.uint8))
    rose = (GRID.cell(other) > GRID.cell(image))[0]
    assert rose.any()
    for place in zip(*np.nonzero(rose), strict=True):
        assert tuple(pictures[4][(slice(None), *place)].tolist()) == COLOURS["up"]
    text = root.by_id("gallery").text
    assert f"{int(rose.sum())} of 16 pixels changed cell: {int(rose.sum())} up, 0 down" in text
    assert "the counterexample is predicted" in text


def test_an_image_that_is_its_own_counterexample_stands_alone(tmp_path: Path) -> None:
    _, root = page_of(tmp_path, ball_row(counterexample="itself"))
    assert len(root.by_id("gallery").all("img")) == 2
    assert "its own counterexample" in root.by_id("gallery").text


@pytest.mark.parametrize("name", ["../outside.npy", "/etc/passwd", "counterexamples/none.npy", "", "a\0b", "x" * 5000])
def test_a_name_that_leads_elsewhere_is_not_read(tmp_path: Path, name: str) -> None:
    write_array(tmp_path / "outside.npy", np.zeros((1, 4, 4), dtype=np.float32))
    (tmp_path / "run").mkdir()
    _, root = page_of(tmp_path / "run", ball_row(counterexample=name))
    assert len(root.by_id("gallery").all("img")) == 2
    assert "cannot be shown" in root.by_id("gallery").text


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 4, 5), dtype=np.float32),
        np.zeros((1, 4, 4)),
        np.full((1, 4, 4), np.nan, dtype=np.float32),
        np.full((1, 4, 4), 2, dtype=np.float32),
    ],
)
def test_an_array_that_is_no_image_of_the_ball_is_not_shown(tmp_path: Path, values: np.ndarray) -> None:
    write_array(tmp_path / NAME, values)
    _, root = page_of(tmp_path, ball_row())
    assert len(root.by_id("gallery").all("img")) == 2
    assert "cannot be shown" in root.by_id("gallery").text


def test_steps_equal_counting() -> None:
    rows = [
        ball_row(0, method="ibp", verdict="certified", seconds=1.0, counterexample=None),
        ball_row(1, method="ibp", verdict="unknown", seconds=2.0, counterexample=None),
        ball_row(2, method="crown", seconds=5.0),
    ]
    first, second = decided_by(rows)
    assert (first.method, first.images, first.certified, first.falsified, first.unknown) == ("ibp", 2, 1, 0, 1)
    assert (second.method, second.images, second.falsified) == ("crown", 1, 1)
    assert first.seconds == pytest.approx(3.0)
    assert first.image_share == pytest.approx(2 / 3)
    assert second.time_share == pytest.approx(5 / 8)
