"""Advice on cells: figures by hand, pairs that nothing can tell apart by brute force, and what is known of MNIST."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from command_line import abscert, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import abscert_plugin
from abscert_plugin.claim import Radius
from abscert_plugin.data import ArraySource, DataSet, Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.training.advise import CLEAR, AdviceRow, advise
from abscert_plugin.training.edges import EdgeChoice


def data_of(images: list[list[int]], labels: list[int], levels: int) -> DataSet:
    """Return images of one row of pixels."""
    values = np.array(images, dtype=np.uint8)[:, None, None, :]
    shape = (1, 1, values.shape[3])
    index = np.arange(len(values))
    classes = tuple(map(str, range(max(labels) + 1)))
    source = ArraySource(values)
    return DataSet("made", Split.TRAIN, classes, shape, levels, source, np.array(labels), index, "none")


def uniform(rows: tuple[AdviceRow, ...], cells: int) -> AdviceRow:
    (row,) = (row for row in rows if row.cells == cells and row.edges is EdgeChoice.UNIFORM)
    return row


def test_figures_by_hand() -> None:
    # ten levels, radius 0.1: on two cells the edge is 0.5, and balls of the values 4, 5 and 6 come to it or beyond;
    # that of 4 does, since it holds 0.5 itself, and that of 6 ends there, in the upper cell
    found = advise(data_of([[0, 4], [5, 10], [10, 10], [0, 0]], [0, 1, 1, 0], 10), Radius.parse("0.1"), most_cells=2)
    one, two = uniform(found.rows, 1), uniform(found.rows, 2)
    assert (one.straddling, one.log2_mean, one.most, one.shared, one.least_error) == (0, 0, 1, 1, 0.5)
    assert (two.straddling, two.log2_mean, two.log2_median, two.most) == (2 / 8, 0.5, 0.5, 2)
    assert two.has_room
    # half of the pixels lie in either cell: one bit is known of the six whose ball stays, and one open of the others
    assert (two.bits, two.open_bits, two.clarity) == (6 / 8, 2 / 8, 3)
    assert (one.bits, one.clarity) == (0, 0)
    # of plain images: six pixels of eight whose ball holds three pixels, two whose ball holds two
    assert found.plain_bits == pytest.approx((6 * math.log2(8 / 3) + 2 * 2) / 8)
    assert two.bits > found.plain_bits / 3
    assert "plain images" not in found.reason
    # [0, 4] is (low, either) and [5, 10] is (either, high): both may be (low, high); no other pair of classes shares
    assert (two.shared, two.least_error) == (2 / 4, 1 / 4)
    assert found.advised is not None
    assert found.advised.cells == 2


def test_a_radius_of_half_the_range_leaves_no_room() -> None:
    found = advise(data_of([[0, 255], [255, 0]], [0, 1], 255), Radius.parse("0.5"), most_cells=4)
    assert found.advised is None
    assert "verify a smaller radius" in found.reason


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), min_size=2, max_size=2), min_size=3, max_size=6), st.integers(2, 4))
def test_pairs_are_those_that_brute_force_finds(images: list[list[int]], cells: int) -> None:
    labels = [place % 2 for place in range(len(images))]
    radius = Radius.parse("1/7")
    found = advise(data_of(images, labels, 8), radius, most_cells=cells, neighbours=len(images))
    grid = Grid(cells)
    fine = np.linspace(0, 1, 20_001, dtype=np.float32)  # stands for every image of a ball: edges are hit or passed

    def reached(value: int) -> set[int]:
        near = fine[np.abs(fine.astype(np.float64) - value / 8) < 1 / 7]
        return set(grid.cell(near).tolist())

    sets = [[set(product(*map(reached, image)))] for image in images]
    pixels = [value for image in images for value in image]
    in_cell = grid.level_cells(8).tolist()
    sure = [np.mean([in_cell[other] in reached(value) for other in pixels]) for value in pixels]
    count = len(images)
    pairs = [
        (one, other)
        for one in range(count)
        for other in range(one)
        if labels[one] != labels[other] and sets[one][0] & sets[other][0]
    ]
    row = uniform(found.rows, cells)
    assert row.bits == pytest.approx(-np.log2(sure).mean())
    assert row.open_bits == pytest.approx(np.mean([np.log2(len(reached(value))) for value in pixels]))
    assert row.shared == len({place for pair in pairs for place in pair}) / count
    best = most_disjoint(pairs) / count
    assert row.least_error <= best <= 2 * row.least_error  # what is taken greedily is at least half of the most


def most_disjoint(pairs: list[tuple[int, int]]) -> int:
    """Return the largest number of pairs without an image in common, trying all."""
    if not pairs:
        return 0
    (one, other), *rest = pairs
    without = [pair for pair in rest if not {one, other} & {*pair}]
    return max(most_disjoint(rest), 1 + most_disjoint(without))


@pytest.mark.parametrize(("radius", "cells"), [("0.1", 4), ("0.3", 2)])
def test_mnist_is_advised_what_trials_found(mnist_dir: Path, radius: str, cells: int) -> None:
    data = load_data("mnist", Split.TRAIN, mnist_dir).first(1000)
    found = advise(data, Radius.parse(radius), most_cells=8, compared=100)
    assert found.advised is not None
    assert found.advised.cells == cells
    assert uniform(found.rows, cells).has_room
    assert uniform(found.rows, cells).most == 2  # at most two combinations a pixel


def test_cells_that_keep_little_of_an_image_are_advised_with_a_warning() -> None:
    even = [[*range(0, 256, 5)] for _ in range(20)]
    found = advise(data_of(even, [0, 1] * 10, 255), Radius.parse("8/255"), most_cells=2)
    assert found.advised is not None
    assert found.advised.bits < found.plain_bits / 3
    assert f"of the {found.plain_bits:.1f} bits that are sure of a pixel of plain images" in found.reason


def test_edges_that_tell_nothing_are_not_advised() -> None:
    # most pixels are 0, and the others lie all over the range but for its upper end, where few straddle an edge
    images = [[0, 0, 0, 0, value, value + 1, value + 2, 9] for value in range(0, 200, 5)]
    found = advise(data_of(images, [0, 1] * 20, 255), Radius.parse("2/255"), most_cells=3)
    assert found.advised is not None
    sparse, even = (
        next(row for row in found.rows if row.cells == 3 and row.edges is how)
        for how in (EdgeChoice.SPARSE, EdgeChoice.UNIFORM)
    )
    assert sparse.log2_mean < even.log2_mean
    assert sparse.bits < even.bits
    assert found.advised.edges is not EdgeChoice.SPARSE


def test_the_command_writes_table_chart_and_json(tmp_path: Path) -> None:
    told = abscert("advise", "--data", "digits", "--radius", 0.1, "--limit", 100, "--out", tmp_path, "--json").json
    clear = [row["bits"] for row in told["rows"] if row["has_room"] and row["bits"] >= CLEAR * row["open_bits"]]
    assert told["advised"]["bits"] == max(clear) > 0
    assert (tmp_path / "advice.svg").read_text().startswith("<svg")
    shown = abscert("advise", "--data", "digits", "--radius", 0.1, "--limit", 100).out
    assert "advice: " in shown
    assert "quantile" in shown  # whole, at the width of 80
    assert "at least 1 image" in refused("advise", "--data", "digits", "--radius", 0.1, "--compared", 0)


def test_the_front_door_advises_on_names_and_arrays() -> None:
    images = load_data("digits", Split.TRAIN, None).first(200)
    expected = advise(images, Radius.parse("0.1"), 4)
    by_name = abscert_plugin.advise("digits", 0.1, limit=200, most_cells=4)
    stored = images.take(np.arange(200))
    by_arrays = abscert_plugin.advise((images.pixels(stored.images), stored.labels), 0.1, most_cells=4)
    assert by_name == expected
    assert by_arrays.rows == expected.rows
    with pytest.raises(ConfigError, match="radius"):
        abscert_plugin.advise("digits", -0.1)
