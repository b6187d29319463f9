"""The cells that a ball reaches, against exact rational arithmetic."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import edge_pixels, grids, pixel_images, pixels, radii

from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import GridError
from abscert_plugin.grid import Grid, log2_count

Reach = Callable[[Grid, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
Interval = tuple[Fraction, Fraction]


def exact(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(value)) for value in values.ravel()]


def one_cell(grid: Grid, pixel: np.float32) -> int:
    return int(grid.cell(np.array([pixel], dtype=np.float32))[0])


def float32_below(value: Fraction) -> np.float32:
    """Return the greatest float32 that is not above a fraction of [0, 1]."""
    rounded = np.float32(float(value))
    while Fraction(float(rounded)) > value:
        rounded = np.nextafter(rounded, np.float32(-1))
    while Fraction(float(np.nextafter(rounded, np.float32(2)))) <= value:
        rounded = np.nextafter(rounded, np.float32(2))
    return rounded


def exact_cell(grid: Grid, value: Fraction) -> int:
    return min(bisect_right(exact(grid.edges), value), grid.cells) - 1


def float32_above(value: Fraction) -> np.float32:
    """Return the least float32 that is not below a fraction of [0, 1]."""
    below = float32_below(value)
    return below if Fraction(float(below)) == value else np.nextafter(below, np.float32(2))


def ball(pixel: np.float32, radius: float) -> Interval:
    center = Fraction(float(pixel))
    return max(center - Fraction(radius), Fraction(0)), min(center + Fraction(radius), Fraction(1))


def check_reachable(reach: Reach, grid: Grid, pixel: np.float32, radius: float, shares: Sequence[Fraction]) -> None:
    """Assert that no point of the ball is missed, and that nothing beyond the ball's rounded ends is counted.

    Args:
        shares: places between the ball's ends, 0 to 1, whose cells must be among the reachable ones; the ends are too.
    """
    lowest, highest = (int(cell[0]) for cell in reach(grid, np.array([pixel], dtype=np.float32), radius))
    low, high = ball(pixel, radius)
    for share in (Fraction(0), Fraction(1), *shares):
        assert lowest <= exact_cell(grid, low + share * (high - low)) <= highest
    assert lowest <= one_cell(grid, pixel) <= highest
    assert lowest >= one_cell(grid, float32_below(low))
    assert highest <= one_cell(grid, float32_above(high))


@pytest.mark.slow
@given(st.data(), grids(), st.lists(st.fractions(0, 1), max_size=5))
def test_reachable_cells_are_those_of_the_ball(data: st.DataObject, grid: Grid, shares: list[Fraction]) -> None:
    pixel = data.draw(pixels(grid))
    check_reachable(Grid.reachable, grid, pixel, data.draw(radii(grid, pixel)), shares)


@pytest.mark.slow
@given(st.data(), grids(16))
def test_reachable_cells_hold_every_float_next_to_an_edge_in_the_ball(data: st.DataObject, grid: Grid) -> None:
    pixel = data.draw(pixels(grid))
    radius = data.draw(radii(grid, pixel))
    (lowest,), (highest,) = grid.reachable(np.array([pixel]), radius)
    near = edge_pixels(grid)
    inside = near[[abs(value - Fraction(float(pixel))) <= Fraction(radius) for value in exact(near)]]
    assert ((lowest <= grid.cell(inside)) & (grid.cell(inside) <= highest)).all()


CORNERS = [
    (Grid(2), np.float32(1), 0.5),  # the lower end is a float32, and an edge
    (Grid(2), np.float32(0), 0.5),
    (Grid(2), np.float32(0), float(np.nextafter(0.5, 0))),
    (Grid(4), np.float32(0.5), float(np.nextafter(0.25, 1))),  # the lower end is below an edge by less than a float32
    (Grid(4), np.float32(0.5), 0.25),
    (Grid(10), np.float32(1), 0.1),
    (Grid(10), np.float32(0.3), 0.1),
    (Grid(255), np.float32(128) / np.float32(255), 1 / 255),
    (Grid(3), np.nextafter(np.float32(0), np.float32(1)), 5e-324),
]


@pytest.mark.parametrize(("grid", "pixel", "radius"), CORNERS)
def test_reachable_cells_at_corners(grid: Grid, pixel: np.float32, radius: float) -> None:
    check_reachable(Grid.reachable, grid, pixel, radius, [])


def rounded_inward(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = ball(image[0], radius)
    ends = np.array([float32_above(low), float32_below(high)], dtype=np.float32)
    return grid.cell(ends[:1]), grid.cell(ends[1:])


def in_float32(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    ends = image - np.float32(radius), image + np.float32(radius)
    low, high = (end.clip(0, 1) for end in ends)
    return grid.cell(low), grid.cell(high)


def moved_ends(grid: Grid, image: np.ndarray, radius: float, low_to: float, high_to: float) -> tuple[Any, Any]:
    ends = np.array(ball(image[0], radius), dtype=np.float32)
    moved = np.nextafter(ends, np.array([low_to, high_to], dtype=np.float32)).clip(0, 1)
    return grid.cell(moved[:1]), grid.cell(moved[1:])


def one_float_inward(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    return moved_ends(grid, image, radius, 2, -1)


def one_float_outward(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    return moved_ends(grid, image, radius, -1, 2)


def without_the_highest(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    lowest, highest = grid.reachable(image, radius)
    return lowest, np.maximum(highest, 1) - np.uint8(1)


def without_the_lowest(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    lowest, highest = grid.reachable(image, radius)
    return lowest + np.uint8(1), highest


def with_one_more(grid: Grid, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    lowest, highest = grid.reachable(image, radius)
    return np.maximum(lowest, 1) - np.uint8(1), highest


@pytest.mark.parametrize(
    "mutant",
    [
        rounded_inward,
        in_float32,
        one_float_inward,
        one_float_outward,
        without_the_highest,
        without_the_lowest,
        with_one_more,
    ],
)
def test_the_check_of_reachable_cells_sees_a_planted_bug(mutant: Reach) -> None:
    with pytest.raises(AssertionError):  # noqa: PT012 - it must be seen at one corner, whichever
        for corner in CORNERS:
            check_reachable(mutant, *corner, [])


@given(st.data(), grids())
def test_radius_zero_reaches_the_pixels_own_cell(data: st.DataObject, grid: Grid) -> None:
    image = data.draw(pixel_images(grid))
    lowest, highest = grid.reachable(image, 0.0)
    assert np.array_equal(lowest, grid.cell(image))
    assert np.array_equal(highest, lowest)


@pytest.mark.slow
@given(st.data(), st.floats(1, 1.7976931348623157e308) | st.just(1.0))
def test_a_radius_of_one_or_more_reaches_every_cell(data: st.DataObject, radius: float) -> None:
    grid = data.draw(grids())
    lowest, highest = grid.reachable(data.draw(pixel_images(grid)), radius)
    assert not lowest.any()
    assert (highest == grid.cells - 1).all()


@given(pixel_images(Grid(1)), st.floats(0, 2))
def test_one_cell_is_all_that_one_cell_reaches(image: np.ndarray, radius: float) -> None:
    lowest, highest = Grid(1).reachable(image, radius)
    assert not lowest.any()
    assert not highest.any()


@pytest.mark.slow
@given(st.data(), grids(), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_ball_reaches_no_fewer_cells(data: st.DataObject, grid: Grid, first: float, second: float) -> None:
    image = data.draw(pixel_images(grid))
    small_low, small_high = grid.reachable(image, min(first, second))
    great_low, great_high = grid.reachable(image, max(first, second))
    assert (great_low <= small_low).all()
    assert (small_high <= great_high).all()


@pytest.mark.parametrize("radius", [-1e-9, -1.0, math.nan, math.inf])
def test_a_radius_that_is_no_size_is_refused(radius: float) -> None:
    with pytest.raises(GridError, match="radius"):
        Grid(2).reachable(np.zeros((1, 1, 1), dtype=np.float32), radius)


@pytest.mark.slow
@given(st.data())
def test_log2_count_equals_counting(data: st.DataObject) -> None:
    grid = data.draw(grids(9))
    image = data.draw(pixel_images(grid, (2, 1, 2, 2)))
    lowest, highest = grid.reachable(image, data.draw(st.sampled_from([0.0, 0.05, 0.1, 0.3])))
    for low, high, counted in zip(lowest, highest, log2_count(lowest, highest), strict=True):
        choices = [range(a, b + 1) for a, b in zip(low.ravel().tolist(), high.ravel().tolist(), strict=True)]
        total = sum(1 for _ in itertools.product(*choices))
        assert counted == pytest.approx(math.log2(total), rel=1e-12, abs=1e-12)  # a sum of four rounded logarithms


@pytest.mark.parametrize(("cells", "radius", "straddling"), [(10, 0.05, 81), (2, 0.3, 47)])
def test_mnist_pixels_straddle_as_often_as_was_counted(
    mnist_dir: Any, cells: int, radius: float, straddling: int
) -> None:
    """The counts were measured over the whole test set with other code."""
    data = load_data("mnist", Split.TEST, mnist_dir)
    (batch,) = data.first(1000).batches(1000)
    lowest, highest = Grid(cells).reachable(data.pixels(batch.images), radius)
    mean = float((lowest != highest).sum(axis=(1, 2, 3)).mean())
    assert mean == pytest.approx(straddling, rel=0.1)  # the first thousand against all ten thousand
