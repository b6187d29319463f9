"""Combinations of cells, and halves of them, against the product of every pixel's cells."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.front import combinations
from abscert_plugin.verification.cell_cut import halved

Cells = set[tuple[int, ...]]


def between(lowest: np.ndarray, highest: np.ndarray) -> Cells:
    """Return all combinations of cells, pixel by pixel, by their definition."""
    ranges = (range(low, high + 1) for low, high in zip(lowest.ravel().tolist(), highest.ravel().tolist(), strict=True))
    return set(product(*ranges))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw the ends of what a ball reaches: up to 7 cells a pixel."""
    shape = (1, draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    count = int(np.prod(shape))
    lowest = draw(st.lists(st.integers(0, 250), min_size=count, max_size=count))
    more = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 6]), min_size=count, max_size=count))
    low = np.array(lowest, dtype=np.uint16).reshape(shape)
    return low, (low + np.array(more, dtype=np.uint16).reshape(shape)).astype(np.uint16)


@settings(max_examples=200)
@given(ends=boxes(), size=st.integers(1, 70))
def test_every_combination_comes_once(ends: tuple[np.ndarray, np.ndarray], size: int) -> None:
    batches = list(combinations(*ends, size))
    assert all(0 < len(batch) <= size for batch in batches)
    rows = [tuple(row.ravel().tolist()) for batch in batches for row in batch]
    assert len(rows) == len(set(rows))
    assert set(rows) == between(*ends)


@settings(max_examples=200)
@given(ends=boxes(), data=st.data())
def test_halves_hold_every_combination_once(ends: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    free = np.flatnonzero(ends[0] < ends[1])
    if not len(free):
        return
    first, second = halved(*ends, int(data.draw(st.sampled_from(free.tolist()))))
    one, other = between(*first), between(*second)
    assert one
    assert other
    assert not one & other
    assert one | other == between(*ends)


@pytest.mark.parametrize("size", [1, 3, 4, 1000])
def test_large_numbers_of_combinations_are_counted_to_the_end(size: int) -> None:
    lowest = np.zeros((1, 3, 3), dtype=np.uint16)
    highest = np.full((1, 3, 3), 2, dtype=np.uint16)
    highest[0, 0, 0] = 0
    assert sum(len(batch) for batch in combinations(lowest, highest, size)) == 3**8
