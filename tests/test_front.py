"""The cells that a ball reaches, against exact rational arithmetic."""

from fractions import Fraction
from itertools import product
from typing import cast

import numpy as np
import pytest
from ball_oracle import (
    LEVELS,
    ball_ends,
    exact,
    exact_cell,
    float32_above,
    float32_below,
    in_ball,
    level_cells,
    outer_cells,
    true_cells,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import edge_pixels, grids, pixel_images, pixels, radii, uneven_grids

from abscert_plugin.ball import Ball
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.errors import GridError
from abscert_plugin.front import Cells, Pixels, Reach
from abscert_plugin.grid import Grid, float32_within

small_grids = grids(12) | uneven_grids() | st.sampled_from([Grid(2), Grid(255)])
PAPER_RADII = ["0", "1/255", "2/255", "8/255", "0.05", "0.1", "1/3", "0.3", "0.5", "1", "1/510", "3/510"]


def float_balls(grid: Grid, pixel: np.float32) -> st.SearchStrategy[Ball]:
    """Return balls that end on an edge, next to one, or anywhere."""
    near = radii(grid, pixel).filter(lambda radius: radius <= 1).map(Fraction)
    written = st.sampled_from(PAPER_RADII).map(Fraction)
    return (near | written | st.fractions(0, 1, max_denominator=1000)).map(lambda radius: Ball(Radius(radius)))


def level_balls(grid: Grid, pixel: np.float32) -> st.SearchStrategy[Ball]:
    """Return balls of 8-bit images, whose radius is a number of levels, half a level off, or anything."""
    halves = st.integers(0, 510).map(lambda count: Fraction(count, 510))
    return (halves | st.fractions(0, 1, max_denominator=1000)).map(lambda radius: Ball(Radius(radius), Inputs.UINT8))


def near_images(grid: Grid, pixel: np.float32, ball: Ball) -> list[np.float32]:
    """Return float32 values of the ball: its ends, the edges, their neighbours, and some between."""
    low, high = ball_ends(pixel, ball.radius.pixel)
    first, last = float32_above(low), float32_below(high)
    ends = np.array([first, last, pixel], dtype=np.float32)
    values = [*ends, *np.nextafter(ends, np.float32(2)), *np.nextafter(ends, np.float32(-1)), *edge_pixels(grid)]
    values += [np.float32(value) for value in np.linspace(float(first), float(last), 9)]
    return [value for value in values if low <= exact(value) <= high]


def check_reach(reach: Reach, pixel: np.float32) -> None:
    """Assert that a pixel's reach holds the cells of all images of the ball, and those that rounding adds at most."""
    grid = cast(Cells, reach.front).grid
    lowest, highest = int(reach.lowest.item()), int(reach.highest.item())
    true, outer = (choose(grid, pixel, reach.ball) for choose in (true_cells, outer_cells))
    assert lowest <= true[0]
    assert true[-1] <= highest
    assert outer[0] <= lowest
    assert highest <= outer[-1]
    assert reach.own.item() in true
    if reach.ball.inputs is Inputs.FLOAT:
        for value in near_images(grid, pixel, reach.ball):
            assert lowest <= exact_cell(grid, exact(value)) <= highest


def reach_of(grid: Grid, pixel: np.float32, ball: Ball) -> Reach:
    return Cells(grid).reach(ball, np.full((1, 1, 1, 1), pixel, dtype=np.float32))


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), small_grids)
def test_every_float32_image_of_the_ball_lies_in_a_reached_cell(data: st.DataObject, grid: Grid) -> None:
    pixel = data.draw(pixels(grid))
    check_reach(reach_of(grid, pixel, data.draw(float_balls(grid, pixel))), pixel)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.data(), small_grids, st.sampled_from(LEVELS))
def test_8_bit_images_reach_exactly_the_cells_of_their_values(
    data: st.DataObject, grid: Grid, pixel: np.float32
) -> None:
    ball = data.draw(level_balls(grid, pixel))
    reach = reach_of(grid, pixel, ball)
    check_reach(reach, pixel)
    true = true_cells(grid, pixel, ball)
    if true == outer_cells(grid, pixel, ball):
        assert (reach.lowest.item(), reach.highest.item()) == (true[0], true[-1])


@pytest.mark.parametrize("steps", [0, 1, 2, 8, 16, 77, 128, 255])
@pytest.mark.parametrize("cells", [2, 10, 17])
def test_8_bit_balls_of_whole_levels_are_exact_for_every_value(cells: int, steps: int) -> None:
    grid, ball = Grid(cells), Ball(Radius.parse(f"{steps}/255"), Inputs.UINT8)
    images = np.array(LEVELS).reshape(-1, 1, 1, 1)
    reach = Cells(grid).reach(ball, images)
    table = level_cells(grid)
    assert reach.lowest.ravel().tolist() == [table[max(0, level - steps)] for level in range(256)]
    assert reach.highest.ravel().tolist() == [table[min(255, level + steps)] for level in range(256)]


def check_images(reach: Reach) -> None:
    """Assert, for every combination of reached cells, that an image of the ball comes back just where one exists."""
    grid = cast(Cells, reach.front).grid
    true = [true_cells(grid, value, reach.ball) for value in reach.images.ravel()]
    ends = zip(reach.lowest.ravel().tolist(), reach.highest.ravel().tolist(), strict=True)
    for choice in product(*(range(low, high + 1) for low, high in ends)):
        cells = np.array(choice, dtype=np.uint8).reshape(reach.own.shape[1:])
        image = reach.image_in(0, cells)
        exists = all(cell in reached for cell, reached in zip(choice, true, strict=True))
        assert (image is not None) == exists
        if image is not None:
            assert image.dtype == np.float32
            assert in_ball(image, reach.images[0], reach.ball)
            assert [exact_cell(grid, exact(value)) for value in image.ravel()] == list(choice)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), grids(6))
def test_an_image_is_found_in_just_the_cells_that_hold_one(data: st.DataObject, grid: Grid) -> None:
    images = data.draw(pixel_images(grid, (1, 1, 1, 2)))
    check_images(Cells(grid).reach(data.draw(float_balls(grid, images.flat[0])), images))


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), grids(6), st.lists(st.sampled_from(LEVELS), min_size=2, max_size=2))
def test_an_8_bit_image_is_found_in_just_the_cells_that_hold_one(
    data: st.DataObject, grid: Grid, values: list[np.float32]
) -> None:
    ball = data.draw(level_balls(grid, values[0]))
    check_images(Cells(grid).reach(ball, np.array(values, dtype=np.float32).reshape(1, 1, 1, 2)))


@pytest.mark.parametrize(
    ("radius", "levels"), [("0.0196078", 4), ("0.01960785", 5), ("5/255", 5), ("4999999/255000000", 4)]
)
def test_a_radius_just_below_some_levels_does_not_hold_them(radius: str, levels: int) -> None:
    """0.0196078 is less than 5/255 by 4e-8: images that are 5 levels away lie outside, at every step."""
    ball = Ball(Radius.parse(radius), Inputs.UINT8)
    center = np.full((1, 1, 1, 1), LEVELS[100], dtype=np.float32)
    for front in (Cells(Grid(255)), Pixels()):
        reach = front.reach(ball, center)
        least, most = (LEVELS[100 + sign * levels] for sign in (-1, 1))
        ends = [cast(np.ndarray, reach.image_in(0, end[0])) for end in (reach.lowest, reach.highest)]
        assert [end.item() for end in ends] == [least, most]
    for steps in range(8):
        image = np.full((1, 1, 1, 1), LEVELS[100 + steps], dtype=np.float32)
        assert ball.contains(center, image) == (steps <= levels)
        assert ball.into(center, image).item() == LEVELS[100 + min(steps, levels)]


def test_8_bit_images_jump_over_a_cell_between_two_levels() -> None:
    grid = Grid.from_inner_edges([100.25 / 255, 100.75 / 255])
    reach = reach_of(grid, LEVELS[100], Ball(Radius.parse("1/255"), Inputs.UINT8))
    assert (reach.lowest.item(), reach.highest.item()) == (0, 2)
    found = [reach.image_in(0, np.full((1, 1, 1), cell, dtype=np.uint8)) for cell in range(3)]
    assert [image if image is None else image.item() for image in found] == [LEVELS[100], None, LEVELS[101]]


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data(), grids(6))
def test_contains_agrees_with_exact_arithmetic(data: st.DataObject, grid: Grid) -> None:
    center = data.draw(pixel_images(grid, (1, 1, 1)))
    ball = data.draw(float_balls(grid, center.item() * np.float32(1)))
    near = np.array(near_images(grid, center.flat[0], ball), dtype=np.float32)
    outside = np.nextafter(np.array([near.min(), near.max()]), np.array([-2, 3], dtype=np.float32))
    for value in [*near, *outside]:
        image = np.full((1, 1, 1), value, dtype=np.float32)
        assert ball.contains(center, image) == in_ball(image, center, ball)


@given(st.sampled_from(LEVELS), st.integers(0, 255), st.integers(0, 20))
def test_contains_of_8_bit_images_counts_levels(center: np.float32, level: int, steps: int) -> None:
    ball = Ball(Radius(Fraction(steps, 255)), Inputs.UINT8)
    middle, image = (np.full((1, 1, 1), value, dtype=np.float32) for value in (center, LEVELS[level]))
    assert ball.contains(middle, image) == in_ball(image, middle, ball)
    between = np.nextafter(image, np.float32(0.5))
    assert not ball.contains(middle, between)


def test_the_nearest_8_bit_value_of_a_pixel_between_two_is_not_in_a_smaller_ball() -> None:
    center, image = (np.full((1, 1, 1), value, dtype=np.float32) for value in (0.5, LEVELS[128]))
    assert not Ball(Radius.parse("1/1000"), Inputs.UINT8).contains(center, image)
    assert Ball(Radius.parse("1/500"), Inputs.UINT8).contains(center, image)  # half a level: 1/510


@pytest.mark.slow
@settings(max_examples=50)
@given(st.data(), grids(12))
def test_boxes_counts_and_rows_are_those_of_the_cells(data: st.DataObject, grid: Grid) -> None:
    images = data.draw(pixel_images(grid, (3, 2, 2, 2)))
    reach = Cells(grid).reach(data.draw(float_balls(grid, images.flat[0])), images)
    counts = [
        np.prod([int(high) - int(low) + 1 for low, high in zip(lows.flat, highs.flat, strict=True)], dtype=float)
        for lows, highs in zip(reach.lowest, reach.highest, strict=True)
    ]
    found = cast(np.ndarray, reach.log2_counts)
    np.testing.assert_allclose(found, np.log2(counts), rtol=0, atol=1e-9)  # a sum of eight logarithms
    lower, upper = reach.box()
    edges = grid.training_edges
    assert np.array_equal(lower, np.concatenate([edges[reach.lowest], edges[reach.lowest.astype(int) + 1]], axis=1))
    assert np.array_equal(upper, np.concatenate([edges[reach.highest], edges[reach.highest.astype(int) + 1]], axis=1))
    rows = np.array([2, 0])
    taken = reach.take(rows)
    assert len(taken) == 2
    assert np.array_equal(taken.own, reach.own[rows])
    assert np.array_equal(taken.box()[1], upper[rows])


@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("pixel", [np.nan, -0.1, 1.1])
def test_a_pixel_outside_the_range_is_refused(inputs: Inputs, pixel: float) -> None:
    with pytest.raises(GridError, match="pixels in"):
        reach_of(Grid(3), np.float32(pixel), Ball(Radius.parse("0.1"), inputs))


# --- planted bugs -------------------------------------------------------------------------------------------------

ON_EDGE = Ball(Radius.parse("1/4"))  # from 0.25 to the edge at 0.5, and from 0.75 to just above the other cell


@pytest.mark.parametrize("ball", [ON_EDGE, Ball(Radius.parse("0.3")), Ball(Radius.parse("0.3"), Inputs.UINT8)])
def test_a_reachable_cell_that_is_dropped_is_seen(ball: Ball) -> None:
    pixel = LEVELS[64] if ball.inputs is Inputs.UINT8 else np.float32(0.25)
    reach = reach_of(Grid(2), pixel, ball)
    check_reach(reach, pixel)
    dropped = Reach(reach.front, ball, reach.images, reach.own, reach.lowest, reach.own)
    with pytest.raises(AssertionError):
        check_reach(dropped, pixel)
    if ball.inputs is Inputs.FLOAT:
        check_images(reach)


def test_a_cell_too_many_is_seen() -> None:
    reach = reach_of(Grid(3), np.float32(0.25), Ball(Radius.parse("0.125")))
    check_reach(reach, np.float32(0.25))
    wider = Reach(reach.front, reach.ball, reach.images, reach.own, reach.lowest, reach.highest + np.uint8(1))
    with pytest.raises(AssertionError):
        check_reach(wider, np.float32(0.25))


def test_ends_of_the_ball_that_are_rounded_inward_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def inward(self: Grid, images: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = float32_within(images, Fraction(radius))
        return self.cell(np.nextafter(low, np.float32(1))), self.cell(np.nextafter(high, np.float32(0)))

    pixel = np.float32(0.25)
    check_reach(reach_of(Grid(2), pixel, ON_EDGE), pixel)
    monkeypatch.setattr(Grid, "reachable", inward)
    with pytest.raises(AssertionError):
        check_reach(reach_of(Grid(2), pixel, ON_EDGE), pixel)


def test_an_image_outside_the_ball_or_the_cells_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.array([0.25, 0.6], dtype=np.float32).reshape(1, 1, 1, 2)
    reach = Cells(Grid(2)).reach(Ball(Radius.parse("0.3")), images)
    check_images(reach)
    for wrong in (lambda self, row, cells: Grid(2).edges[cells], lambda self, row, cells: images[row]):
        monkeypatch.setattr(Reach, "image_in", wrong)
        with pytest.raises(AssertionError):
            check_images(reach)
