"""Where the edges between cells lie, chosen from the training images' histogram and the radius."""

from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from abscert_plugin.claim import Radius
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid

_BATCH: Final = 1000


class EdgeChoice(StrEnum):
    """How edges are chosen.

    `UNIFORM`: cells of one width, as the paper has them.
    `QUANTILE`: the same number of pixels in each cell, not counting pixels at the ends of the range.
    `SPARSE`: where the fewest pixels lie within the radius of an edge, so that balls reach the fewest cells.

    Each cell of `SPARSE` keeps a value whose ball stays in it.
    """

    UNIFORM = "uniform"
    QUANTILE = "quantile"
    SPARSE = "sparse"


def choose_grid(choice: EdgeChoice, cells: int, radius: Radius | None, data: DataSet) -> Grid:
    """Return a grid of so many cells for the training images.

    Args:
        choice: how the edges are chosen.
        cells: number of cells.
        radius: the ball's radius; only `SPARSE` needs it.
        data: the training split; the test split has no say.

    Raises:
        ConfigError: if a radius is needed and not given, or the images have too few values for so many cells, or
            cells have no room for balls of the radius.
        GridError: if the number of cells is out of range.
    """
    if choice is EdgeChoice.UNIFORM or cells == 1:
        return Grid(cells)
    return grid_of(choice, cells, radius, histogram(data))


def grid_of(choice: EdgeChoice, cells: int, radius: Radius | None, counts: Int64[np.ndarray, "values"]) -> Grid:
    """Return a grid of so many cells for pixels that have each stored value so often.

    Args:
        choice: how the edges are chosen.
        cells: number of cells.
        radius: the ball's radius; only `SPARSE` needs it.
        counts: as `histogram` returns it.

    Raises:
        ConfigError: as `choose_grid`.
    """
    if choice is EdgeChoice.UNIFORM or cells == 1:
        return Grid(cells)
    if choice is EdgeChoice.QUANTILE:
        return Grid.from_inner_edges(_quantiles(counts, cells).tolist())
    if radius is None:
        raise ConfigError("expected a --radius with --edges sparse: it says how near an edge a pixel may not lie")
    return Grid.from_inner_edges(_sparse(counts, cells, radius.pixel).tolist())


def histogram(data: DataSet) -> Int64[np.ndarray, "values"]:
    """Return how many pixels of the split have each stored value."""
    counts = np.zeros(data.levels + 1, dtype=np.int64)
    for batch in data.batches(_BATCH):
        counts += np.bincount(batch.images.ravel(), minlength=data.levels + 1)
    return counts


def means(grid: Grid, counts: Int64[np.ndarray, "values"]) -> tuple[float, ...]:
    """Return the mean of the pixels in each cell, on the pixel scale; the mid-point of a cell that has none.

    Args:
        grid: the cells.
        counts: how many pixels have each stored value, as `histogram` returns it.
    """
    levels, edges = len(counts) - 1, grid.edges.astype(np.float64)
    cells = grid.level_cells(levels)
    totals = np.bincount(cells, counts, grid.cells)
    sums = np.bincount(cells, counts * (np.arange(levels + 1) / levels), grid.cells)
    found = np.where(totals > 0, sums / np.maximum(totals, 1), (edges[:-1] + edges[1:]) / 2)
    return tuple(np.clip(found, edges[:-1], edges[1:]).tolist())


def _quantiles(counts: Int64[np.ndarray, "values"], cells: int) -> Float64[np.ndarray, "edges"]:
    """Return the mid-points between stored values that split the inner values evenly."""
    levels = len(counts) - 1
    inner = counts.astype(np.float64)
    inner[[0, -1]] = 0
    total = np.cumsum(inner)
    if total[-1] == 0 or cells > levels:
        raise ConfigError(f"the images have too few values for {cells} cells by quantiles; use --edges uniform")
    values = np.searchsorted(total, np.arange(1, cells) / cells * total[-1])
    for place in range(1, len(values)):  # apart, where many pixels share a value
        values[place] = max(values[place], values[place - 1] + 1)
    if values[-1] >= levels:
        raise ConfigError(f"the images have too few values for {cells} cells by quantiles; use --edges uniform")
    return (values + 0.5) / levels


def _sparse(counts: Int64[np.ndarray, "values"], cells: int, radius: Fraction) -> Float64[np.ndarray, "edges"]:
    """Return mid-points between stored values, with the fewest pixels within the radius of them in all.

    Each cell has room: it keeps a stored value whose ball stays in it, the first cell 0 and the last one 1. Else an
    edge at the end of the range would be the cheapest one, with few pixels beside it, and tell nothing: every ball
    that reaches the cell behind it reaches the cell before it too. Dynamic programming over the edges, from left to
    right.
    """
    levels = len(counts) - 1
    beside = floor(levels * radius + Fraction(1, 2))  # on either side of an edge, stored values within the radius
    gap = 2 * beside + 1
    last = levels - 1 - beside  # the highest value that the last edge may lie above; the first one's lowest: beside
    if last - beside < (cells - 2) * gap:
        raise ConfigError(
            f"expected fewer than {cells} cells, or --edges uniform: with --edges sparse each cell keeps a value whose "
            f"ball of radius {float(radius):g} (pixel) stays in it"
        )
    total = np.concatenate([[0], np.cumsum(counts)])
    places = np.arange(beside, last + 1)
    cost = (total[places + beside + 1] - total[places + 1 - beside]).astype(np.float64)
    best = cost.copy()  # least cost of k edges of which the last is here
    before: list[np.ndarray] = []
    for _ in range(cells - 2):
        least = np.minimum.accumulate(best)
        where = np.where(best == least, np.arange(len(places)), 0)
        where = np.maximum.accumulate(where)  # the place of the least value so far
        reached = np.full(len(places), np.inf)
        reached[gap:] = least[:-gap]
        before.append(np.concatenate([np.zeros(gap, dtype=np.int64), where[:-gap]]))
        best = reached + cost
    chosen = [int(np.argmin(best))]
    for step in reversed(before):
        chosen.append(int(step[chosen[-1]]))
    return (places[chosen[::-1]] + 0.5) / levels
