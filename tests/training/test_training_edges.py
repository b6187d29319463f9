"""Edges chosen from a histogram, against trying every placement."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abscert_plugin.claim import Radius
from abscert_plugin.data import ArraySource, DataSet, Split
from abscert_plugin.errors import ConfigError, GridError
from abscert_plugin.grid import Grid
from abscert_plugin.training.edges import EdgeChoice, choose_grid, histogram


def data_of(counts: Sequence[int]) -> DataSet:
    """Return one-pixel images with this histogram; the number of levels is that of the counts, less 1."""
    values = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    np.random.default_rng(0).shuffle(values)
    labels, index = np.zeros(len(values), dtype=np.int64), np.arange(len(values))
    source = ArraySource(values.reshape(-1, 1, 1, 1))
    return DataSet("made", Split.TRAIN, ("0", "1"), (1, 1, 1), len(counts) - 1, source, labels, index, "none")


histograms = st.lists(st.integers(0, 9), min_size=5, max_size=11).filter(lambda counts: sum(counts) > 0)


def gaps_of(grid: Grid, levels: int) -> list[int]:
    """Return, for each inner edge, the value below it; edges lie midway between two stored values."""
    places = [edge * levels - 0.5 for edge in grid.inner_edges]
    assert places == pytest.approx([round(place) for place in places], abs=1e-4)  # edges are multiples of 2^-24
    return [round(place) for place in places]


def straddling(counts: Sequence[int], below: int, radius: Fraction) -> int:
    """Return how many pixels lie within the radius of the edge above the value `below`."""
    levels = len(counts) - 1
    edge = (Fraction(below) + Fraction(1, 2)) / levels
    return sum(count for value, count in enumerate(counts) if abs(Fraction(value, levels) - edge) <= radius)


def has_room(places: Sequence[int], levels: int, radius: Fraction) -> bool:
    """Return whether each cell keeps a stored value whose ball stays in it: the first cell 0, the last one the top."""
    edges = [(Fraction(place) + Fraction(1, 2)) / levels for place in places]
    staying = {
        sum(edge < value for edge in edges)
        for value in (Fraction(number, levels) for number in range(levels + 1))
        if all(abs(value - edge) > radius for edge in edges)
    }
    return len(staying) == len(edges) + 1 and edges[0] > radius and edges[-1] < 1 - radius


@given(histograms, st.integers(2, 4), st.sampled_from(["0", "0.03", "0.07", "0.11", "0.23", "0.31", "0.5"]))
def test_no_other_placement_of_sparse_edges_with_room_has_fewer_pixels_near(
    counts: list[int], cells: int, text: str
) -> None:
    radius, levels = Radius.parse(text), len(counts) - 1
    costs = [straddling(counts, below, radius.pixel) for below in range(levels)]
    placements = [places for places in combinations(range(levels), cells - 1) if has_room(places, levels, radius.pixel)]
    if not placements:
        with pytest.raises(ConfigError, match=f"expected fewer than {cells} cells, or --edges uniform"):
            choose_grid(EdgeChoice.SPARSE, cells, radius, data_of(counts))
        return
    grid = choose_grid(EdgeChoice.SPARSE, cells, radius, data_of(counts))
    chosen = gaps_of(grid, levels)
    assert grid.cells == cells
    assert tuple(chosen) in placements
    assert sum(costs[place] for place in chosen) == min(sum(costs[place] for place in places) for places in placements)


def test_sparse_edges_do_not_lie_where_every_ball_behind_them_straddles() -> None:
    counts = [40, 9, 9, 9, 9, 9, 9, 9, 9, 1, 1]  # fewest pixels lie near an edge above the value 9
    assert gaps_of(choose_grid(EdgeChoice.SPARSE, 2, Radius.parse("0.1"), data_of(counts)), 10) == [8]


def test_sparse_edges_lie_in_the_gap() -> None:
    counts = [9, 9, 9, 0, 0, 0, 9, 9, 9]
    assert gaps_of(choose_grid(EdgeChoice.SPARSE, 2, Radius.parse("0.1"), data_of(counts)), 8) in ([3], [4])


@given(histograms, st.integers(2, 4))
def test_quantile_edges_split_the_inner_pixels_evenly(counts: list[int], cells: int) -> None:
    levels, inner = len(counts) - 1, [0, *counts[1:-1], 0]
    total = sum(inner)
    if total == 0 or max(expected_quantiles(inner, cells)) >= levels:
        with pytest.raises(ConfigError, match="too few values"):
            choose_grid(EdgeChoice.QUANTILE, cells, None, data_of(counts))
        return
    grid = choose_grid(EdgeChoice.QUANTILE, cells, None, data_of(counts))
    assert gaps_of(grid, levels) == expected_quantiles(inner, cells)


def expected_quantiles(inner: list[int], cells: int) -> list[int]:
    """Return the least values at or below which lie k / cells of the pixels, pushed apart where they meet."""
    found: list[int] = []
    for number in range(1, cells):
        # as floats, like the share of a total that they are compared with
        enough = [value for value in range(len(inner)) if sum(inner[: value + 1]) >= number / cells * sum(inner)]
        found.append(max(enough[0], found[-1] + 1) if found else enough[0])
    return found


def test_quantiles_of_equally_many_pixels_are_evenly_spread() -> None:
    grid = choose_grid(EdgeChoice.QUANTILE, 4, None, data_of([50, 2, 2, 2, 2, 2, 2, 2, 2, 70]))
    assert gaps_of(grid, 9) == [2, 4, 6]


@given(histograms)
def test_the_histogram_counts_every_pixel(counts: list[int]) -> None:
    assert histogram(data_of(counts)).tolist() == counts


@pytest.mark.parametrize("choice", list(EdgeChoice))
def test_one_cell_needs_no_edges(choice: EdgeChoice) -> None:
    assert choose_grid(choice, 1, None, data_of([1, 1, 1])) == Grid(1)


def test_uniform_edges_do_not_look_at_the_images() -> None:
    assert choose_grid(EdgeChoice.UNIFORM, 7, None, data_of([1, 0, 5])) == Grid(7)


@pytest.mark.parametrize(
    ("choice", "cells", "radius", "counts", "words"),
    [
        (EdgeChoice.SPARSE, 2, None, [1, 1, 1], "expected a --radius with --edges sparse"),
        (EdgeChoice.SPARSE, 9, "0.1", [1, 1, 1, 1], "expected fewer than 9 cells"),
        (EdgeChoice.SPARSE, 2, "0.5", [1] * 256, "expected fewer than 2 cells"),
        (EdgeChoice.QUANTILE, 5, None, [1, 1, 1, 1], "too few values for 5 cells"),
        (EdgeChoice.QUANTILE, 2, None, [5, 0, 0, 5], "too few values for 2 cells"),
        (EdgeChoice.QUANTILE, 3, None, [0, 0, 4, 0], "too few values for 3 cells"),
    ],
)
def test_too_few_values_and_a_missing_radius_are_refused(
    choice: EdgeChoice, cells: int, radius: str | None, counts: list[int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_grid(choice, cells, None if radius is None else Radius.parse(radius), data_of(counts))


@pytest.mark.parametrize("choice", list(EdgeChoice))
def test_a_number_of_cells_out_of_range_is_refused(choice: EdgeChoice) -> None:
    with pytest.raises((GridError, ConfigError), match="cells"):
        choose_grid(choice, 65_536, Radius.parse("0"), data_of([1] * 256))
