"""Grid and phi: containment, Algorithm 1, and what is refused, against exact rational arithmetic."""

import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import SPECIAL_PIXELS, edge_pixels, grids, pixel_images, pixels, uint8_images

from abscert_plugin.abstraction import Abstraction, LevelAbstraction
from abscert_plugin.errors import GridError
from abscert_plugin.grid import MAX_CELLS, Grid, level_pixels

Interval = tuple[Fraction, Fraction]


def exact(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(value)) for value in values.ravel()]


def one_cell(grid: Grid, pixel: np.float32) -> int:
    return int(grid.cell(np.array([pixel], dtype=np.float32))[0])


# --- Algorithm 1 -----------------------------------------------------------------------------------------------------


def algorithm_1(
    low: Fraction, high: Fraction, cells: Sequence[Interval], is_upper: Callable[[Any, Any], bool] = operator.ge
) -> int:
    """Return the index of the training interval that Algorithm 1 of the paper maps the interval [low, high] to.

    Line by line. The pseudo-code does not leave its loop over j after an assignment, which cannot be meant: at the
    last j it would read I'_{j+1}, which is not there. So the first assignment returns, as the text says ("if a
    training interval contains the perturbation interval, [it] will be mapped to the training interval").
    """
    for j, (cell_low, cell_high) in enumerate(cells):  # line 4
        if low > cell_high:  # line 5
            continue  # line 6, no intersection
        if cell_low <= low and high <= cell_high:  # line 7
            return j  # line 8
        upper_overlap = high - cells[j + 1][0]  # line 10, len_r
        lower_overlap = cell_high - low  # line 11, len_l
        return j + 1 if is_upper(upper_overlap, lower_overlap) else j  # lines 12 to 15
    raise AssertionError("the interval lies outside the domain")


def training_cells(grid: Grid) -> list[Interval]:
    return list(itertools.pairwise(exact(grid.training_edges)))


def greatest_epsilon(grid: Grid) -> Fraction:
    """Return the greatest epsilon with d >= 2 epsilon for every cell; widths differ by up to 2^-23."""
    return min(high - low for low, high in training_cells(grid)) / 2


def perturbed(pixel: np.float32, epsilon: Fraction) -> Interval:
    """Return [x - epsilon, x + epsilon] on the training scale, clipped to the domain [-1, 1]."""
    center = 2 * Fraction(float(pixel)) - 1
    return max(center - epsilon, Fraction(-1)), min(center + epsilon, Fraction(1))


def check_algorithm_1(algorithm: Callable[..., int], grid: Grid, pixel: np.float32, epsilon: Fraction) -> None:
    assert algorithm(*perturbed(pixel, epsilon), training_cells(grid)) == one_cell(grid, pixel)


@st.composite
def grids_pixels_epsilons(draw: st.DrawFn) -> tuple[Grid, np.float32, Fraction]:
    grid = draw(grids())
    pixel = draw(pixels(grid))
    most = greatest_epsilon(grid)
    center = 2 * Fraction(float(pixel)) - 1
    touching = [abs(center - edge) for edge in exact(grid.training_edges) if 0 < abs(center - edge) <= most]
    shares = st.fractions(0, 1).filter(bool).map(lambda share: share * most)
    return grid, pixel, draw(st.sampled_from([most, most / 2, *touching]) | shares)


@given(grids_pixels_epsilons())
def test_algorithm_1_gives_the_cell_that_holds_the_pixel(case: tuple[Grid, np.float32, Fraction]) -> None:
    """For d >= 2 epsilon > 0 the result of Algorithm 1 is phi(x), whatever epsilon.

    Left out: epsilon = 0 with x on an inner edge, see the next test.
    """
    check_algorithm_1(algorithm_1, *case)


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 9, 10, 16])
def test_algorithm_1_gives_the_cell_that_holds_the_pixel_next_to_every_edge(cells: int) -> None:
    grid = Grid(cells)
    most = greatest_epsilon(grid)
    shares = (Fraction(1), Fraction(1, 2), Fraction(1, 10**9))
    for pixel, share in itertools.product([*edge_pixels(grid), *SPECIAL_PIXELS], shares):
        check_algorithm_1(algorithm_1, grid, pixel, share * most)


@given(st.data(), grids())
def test_algorithm_1_on_a_point_differs_on_inner_edges_only(data: st.DataObject, grid: Grid) -> None:
    """With epsilon = 0 the interval is the point x. On an inner edge line 7 finds it in the closed lower cell.

    That is the one case where the pseudo-code departs from phi, which gives an edge to the upper cell (as lines 12
    and 13 do for every epsilon > 0, however small). It has measure zero, and no perturbation is no perturbation.
    """
    pixel = data.draw(pixels(grid))
    is_inner_edge = bool(np.isin(pixel, grid.edges[1:-1]))
    found = algorithm_1(*perturbed(pixel, Fraction(0)), training_cells(grid))
    assert found == one_cell(grid, pixel) - is_inner_edge


def test_the_check_of_algorithm_1_sees_ties_that_go_down() -> None:
    grid = Grid(4)
    with pytest.raises(AssertionError):
        check_algorithm_1(functools.partial(algorithm_1, is_upper=operator.gt), grid, np.float32(0.5), Fraction(1, 8))


# --- cells and their ends --------------------------------------------------------------------------------------------


def check_containment(grid: Grid, image: np.ndarray, interval: np.ndarray) -> None:
    lower, upper = np.split(interval, 2, axis=-3)
    for low, value, high in zip(exact(lower), exact(image), exact(upper), strict=True):
        assert low <= 2 * value - 1 <= high
        assert not grid.is_uniform or high - low <= Fraction(2, grid.cells) + Fraction(1, 2**23)


@given(st.data(), grids())
def test_interval_holds_its_pixel_exactly(data: st.DataObject, grid: Grid) -> None:
    image = data.draw(pixel_images(grid))
    check_containment(grid, image, grid.interval_image(image))


@pytest.mark.parametrize("end", [0, 1])
def test_the_check_of_containment_sees_an_end_that_is_one_float_off(end: int) -> None:
    grid = Grid(10)
    edge = grid.edges[3]
    image = np.array(edge if end == 0 else np.nextafter(edge, np.float32(0))).reshape(1, 1, 1)
    interval = grid.interval_image(image)
    check_containment(grid, image, interval)
    beyond = np.float32(2 if end == 0 else -2)
    interval[end] = np.nextafter(2 * image[0] - 1, beyond)
    with pytest.raises(AssertionError):
        check_containment(grid, image, interval)


@given(st.data(), grids())
def test_pixels_share_a_cell_just_where_their_ends_are_the_same_bits(data: st.DataObject, grid: Grid) -> None:
    pair = data.draw(pixel_images(grid, (2, 1, 1, 1)))
    first, second = grid.cell(pair).ravel()
    ends = [interval.tobytes() for interval in grid.interval_image(pair)]
    assert (first == second) == (ends[0] == ends[1])


@given(st.data(), grids())
def test_a_brighter_pixel_never_has_a_lower_cell(data: st.DataObject, grid: Grid) -> None:
    image = np.sort(data.draw(pixel_images(grid, (1, 1, 6))))
    assert (np.diff(grid.cell(image).astype(int)) >= 0).all()
    assert (np.diff(grid.interval_image(image)) >= 0).all()


@given(st.data(), grids())
def test_cell_is_the_one_between_its_edges(data: st.DataObject, grid: Grid) -> None:
    image = data.draw(pixel_images(grid))
    edges = exact(grid.edges)
    for value, cell in zip(exact(image), grid.cell(image).ravel().tolist(), strict=True):
        assert edges[cell] <= value
        assert value < edges[cell + 1] or value == 1


@given(st.data(), st.integers(1, 15), st.integers(1, 17))
def test_refining_a_grid_never_widens_an_interval(data: st.DataObject, cells: int, factor: int) -> None:
    coarse, fine = Grid(cells), Grid(cells * factor)
    image = data.draw(pixel_images(fine) | pixel_images(coarse))
    coarse_low, coarse_high = np.split(coarse.interval_image(image), 2, axis=-3)
    fine_low, fine_high = np.split(fine.interval_image(image), 2, axis=-3)
    assert (coarse_low <= fine_low).all()
    assert (fine_high <= coarse_high).all()


def test_edges_cut_the_domain_into_cells_of_one_width() -> None:
    for cells in (*range(1, 258), 4096, MAX_CELLS):
        edges = exact(Grid(cells).edges)
        assert (edges[0], edges[-1], len(edges)) == (Fraction(0), Fraction(1), cells + 1)
        assert all(0 <= Fraction(k, cells) - edge < Fraction(1, 2**24) for k, edge in enumerate(edges))
        assert exact(Grid(cells).training_edges) == [2 * edge - 1 for edge in edges]


def test_numpy_and_torch_give_the_same_bits_next_to_every_edge_of_every_grid() -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 256)
    levels = level_pixels(255).reshape(1, 1, 1, 256)
    for cells in (*range(1, 258), 4096, MAX_CELLS):
        grid = Grid(cells)
        near = np.concatenate([edge_pixels(grid), SPECIAL_PIXELS]).reshape(1, 1, 1, -1)
        image = np.concatenate([levels, near], axis=-1)
        expected = grid.interval_image(image)
        assert Abstraction(grid)(torch.from_numpy(image)).numpy().tobytes() == expected.tobytes()
        looked_up = LevelAbstraction(grid, 255)(torch.from_numpy(stored)).numpy()
        assert looked_up.tobytes() == expected[..., :256].tobytes()


@given(st.data(), grids(), st.sampled_from([16, 255]))
def test_looked_up_intervals_equal_computed_ones(data: st.DataObject, grid: Grid, levels: int) -> None:
    stored = data.draw(uint8_images((2, 3, 2, 2), levels))
    image = stored / np.float32(levels)
    looked_up = LevelAbstraction(grid, levels)(torch.from_numpy(stored)).numpy()
    assert looked_up.tobytes() == grid.interval_image(image).tobytes()


@pytest.mark.parametrize("levels", [1, 16, 255])
def test_cells_of_stored_values_equal_integer_arithmetic(levels: int) -> None:
    for cells in (*range(1, 258), 4096, MAX_CELLS):
        expected = [min(value * cells // levels, cells - 1) for value in range(levels + 1)]
        assert Grid(cells).level_cells(levels).tolist() == expected


# --- what is refused -------------------------------------------------------------------------------------------------


def test_every_granularity_gives_back_its_number_of_cells() -> None:
    for cells in (*range(1, 258), 4096, MAX_CELLS):
        grid = Grid.from_granularity(2 / cells)
        assert grid == Grid(cells)
        assert grid.granularity == 2 / cells


@pytest.mark.parametrize(("granularity", "cells"), [(0.2, 10), (0.4, 5), (2.0, 1), (1.0, 2), (0.5, 4)])
def test_granularities_as_people_write_them(granularity: float, cells: int) -> None:
    assert Grid.from_granularity(granularity).cells == cells


@pytest.mark.parametrize("cells", [65_536, 100_000])
def test_a_granularity_of_more_cells_than_there_can_be_is_refused(cells: int) -> None:
    with pytest.raises(GridError, match=f"cells from 1 to 65,535, got {cells}"):
        Grid.from_granularity(2 / cells)


@given(st.floats(0, 2, exclude_min=True))
@example(0.222)
@example(0.3)
@example(5e-324)
@example(math.nextafter(2, 0))
def test_a_refused_granularity_names_two_that_work(granularity: float) -> None:
    try:
        Grid.from_granularity(granularity)
    except GridError as error:
        message = str(error)
    else:
        message = ""
    assume("nearest" in message)
    offered = re.findall(r"([0-9.e-]+) \(--cells (\d+)\)", message)
    assert len(offered) == 2
    assert [Grid.from_granularity(float(text)).cells for text, _ in offered] == [int(count) for _, count in offered]
    coarse, fine = (float(text) for text, _ in offered)
    assert coarse > fine
    assert fine < granularity < coarse or granularity < fine == 2 / MAX_CELLS


@pytest.mark.parametrize(("granularity", "cells"), [(0.222, (9, 10)), (0.3, (6, 7)), (1.9, (1, 2))])
def test_a_refused_granularity_names_its_neighbours(granularity: float, cells: tuple[int, int]) -> None:
    with pytest.raises(GridError, match=rf"--cells {cells[0]}\).*--cells {cells[1]}\)"):
        Grid.from_granularity(granularity)


@pytest.mark.parametrize("granularity", [0, -0.0, -1, math.nan, math.inf, -math.inf, 3, 2.0000001])
def test_a_granularity_outside_the_domain_is_refused(granularity: float) -> None:
    with pytest.raises(GridError, match="0 < d <= 2"):
        Grid.from_granularity(float(granularity))


@pytest.mark.parametrize("cells", [0, -1, 65_536, 10**9])
def test_a_number_of_cells_outside_its_range_is_refused(cells: int) -> None:
    with pytest.raises(GridError, match="cells"):
        Grid(cells)


def test_a_number_of_cells_that_is_not_whole_is_refused() -> None:
    """Called past the dataclass's own check of types, which the tests run with and a user does not."""
    grid = object.__new__(Grid)
    object.__setattr__(grid, "cells", 2.5)
    with pytest.raises(GridError, match=r"whole number of cells.*2\.5"):
        grid.__post_init__()


@pytest.mark.parametrize("call", [Grid.cell, Grid.interval_image, lambda grid, image: grid.reachable(image, 0.1)])
@pytest.mark.parametrize("pixel", [math.nan, math.inf, -math.inf, -0.1, 1.1, -1e-45, 1.0000001])
def test_a_pixel_outside_the_range_is_refused(call: Callable[[Grid, np.ndarray], Any], pixel: float) -> None:
    image = np.full((1, 2, 2), 0.5, dtype=np.float32)
    image[0, 1, 0] = pixel
    with pytest.raises(GridError, match=r"pixels in \[0, 1\]"):
        call(Grid(4), image)
