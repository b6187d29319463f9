"""Which cells to train on, before any training: what balls of the training images do on each grid."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt, UInt8

from abscert_plugin.claim import Radius
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid, float32_within, level_pixels
from abscert_plugin.training.edges import EdgeChoice, grid_of

MOST_CELLS: Final = 16
COMPARED: Final = 10_000
NEIGHBOURS: Final = 5
CLEAR: Final = 10  # see `advise`
KEPT: Final = Fraction(1, 3)
"""Cells that keep a smaller share of what balls leave sure of plain images are advised with a warning."""
_BATCH: Final = 1000


@final
@dataclass(frozen=True, slots=True)
class AdviceRow:
    """What balls of the radius do on one grid.

    Args:
        cells: number of cells of a pixel.
        edges: how the edges were chosen.
        inner_edges: where they lie between 0 and 1, on the pixel scale.
        straddling: mean share of an image's pixels whose ball reaches more than one cell, 0 to 1.
        log2_mean, log2_median: of how many interval images the ball of an image reaches: mean and median of log2.
        most: the largest number of cells that the ball of one pixel reaches.
        bits: what a verifier can be sure of about one pixel, in the mean: -log2 of the share of all pixels that lie in
            the cells its ball reaches.
        open_bits: what is left open: log2 of how many cells its ball reaches, in the mean over pixels.
        has_room: whether each cell has a stored value whose ball stays in it, and the least and the largest value,
            0 and 1, are such values: background and ink never straddle.
        shared: share of the images compared that share an interval image, within their balls, with one of their
            nearest neighbours of other classes, 0 to 1.
        least_error: share of the images compared of which no network on these cells can certify all but so many: of
            two images of different classes that share an interval image, at most one is certified, whatever the
            network, and so many pairs have no image in common. A lower bound of the ball error on these images.
    """

    cells: int
    edges: EdgeChoice
    inner_edges: tuple[float, ...]
    straddling: float
    log2_mean: float
    log2_median: float
    most: int
    bits: float
    open_bits: float
    has_room: bool
    shared: float
    least_error: float

    @property
    def clarity(self) -> float:
        """`bits`, as a multiple of the bits that a ball leaves open: log2 of the cells that it reaches, for a pixel."""
        if self.open_bits > 0:
            return self.bits / self.open_bits
        return math.inf if self.bits > 0 else 0.0


@final
@dataclass(frozen=True, slots=True)
class Advice:
    """All grids that were looked at, and which one to train on.

    Args:
        data: name of the data set; `sha256` is the checksum of the split that was looked at.
        radius: of the ball, pixel scale.
        images: how many images were counted.
        compared: how many of them, the first ones, were compared with their neighbours.
        neighbours: how many neighbours of other classes, nearest in the Euclidean norm, each was compared with.
        plain_bits: `AdviceRow.bits` of plain images, whose ball reaches the values within the radius.
        rows: the grids, by number of cells; one that the data's values are too few for has none.
        advised: the row to train on; None where no grid of more than one cell has room.
        reason: why, in one sentence.
    """

    data: str
    sha256: str
    radius: float
    images: int
    compared: int
    neighbours: int
    plain_bits: float
    rows: tuple[AdviceRow, ...]
    advised: AdviceRow | None
    reason: str

    def __str__(self) -> str:
        return self.reason

    def describe(self) -> dict[str, Any]:
        """Return the advice as what JSON can hold; the kinds of edges are their names."""
        return asdict(self)


def advise(
    data: DataSet,
    radius: Radius,
    most_cells: int = MOST_CELLS,
    compared: int = COMPARED,
    neighbours: int = NEIGHBOURS,
) -> Advice:
    """Return what balls of a radius do on grids of 1 to `most_cells` cells and each kind of edges, and which to take.

    Advised is a grid of which each cell has room (`AdviceRow.has_room`), since a cell without makes every pixel in it
    straddle. More cells keep more of the image, and leave more of it to whoever chooses within the ball: advised is
    what leaves most sure (`AdviceRow.bits`) of the grids that leave at least `CLEAR` times as much sure as open
    (`AdviceRow.clarity`), and where there is none, the clearest one. The bound is of trial trainings:
    docs/METHOD.md. Cells that keep less than `KEPT` of what balls leave sure of plain images are advised with a
    warning: there they are no gain.

    Args:
        data: the training split: cells are chosen on no other.
        radius: of the ball that the network is to be verified for.
        most_cells: the largest number of cells looked at, 1 to 255.
        compared: how many images, the first ones, are compared with each other.
        neighbours: how many neighbours of other classes each is compared with, at least 1. More find more pairs.

    Raises:
        ConfigError: if a number has no meaning, or the data have no image.
    """
    if not 1 <= most_cells <= 255 or compared < 1 or neighbours < 1:
        raise ConfigError(
            f"expected 1 to 255 cells, and at least 1 image and 1 neighbour to compare, got {most_cells}, "
            f"{compared} and {neighbours}"
        )
    if len(data) == 0:
        raise ConfigError(f"expected images of {data.name}, got none")
    counts = _histograms(data)
    some = data.first(min(compared, len(data)))
    images = some.take(np.arange(len(some))).images.reshape(len(some), -1)
    pairs = _neighbours(images, some.labels, neighbours)
    total = counts.sum(axis=0)
    rows = tuple(
        _row(how, grid, counts, images, pairs, radius)
        for how, grid in _grids(total.astype(np.int64), radius, most_cells)
    )
    plain_bits = _sure(total, *_within(len(total), radius))
    advised, reason = _choice(rows, plain_bits)
    return Advice(
        data=data.name,
        sha256=data.sha256,
        radius=float(radius.pixel),
        images=len(data),
        compared=len(some),
        neighbours=neighbours,
        plain_bits=plain_bits,
        rows=rows,
        advised=advised,
        reason=reason,
    )


def _grids(counts: Int64[np.ndarray, "values"], radius: Radius, most_cells: int) -> Iterator[tuple[EdgeChoice, Grid]]:
    for cells in range(1, most_cells + 1):
        for how in EdgeChoice if cells > 1 else (EdgeChoice.UNIFORM,):
            try:
                yield how, grid_of(how, cells, radius, counts)
            except ConfigError:  # too few values for so many cells
                continue


def _row(
    how: EdgeChoice,
    grid: Grid,
    counts: Float64[np.ndarray, "images values"],
    images: UInt8[np.ndarray, "some pixels"],
    pairs: Int64[np.ndarray, "pairs two"],
    radius: Radius,
) -> AdviceRow:
    values = level_pixels(counts.shape[1] - 1)
    lowest, highest = grid.reachable(values, radius.outward)
    reached = highest.astype(np.int64) - lowest + 1
    straddles = reached > 1
    logs: Float64[np.ndarray, "images"] = counts @ np.log2(reached)
    stays = np.unique(lowest[~straddles])
    sharing = pairs[_share(grid, images, pairs, radius.pixel, values)]
    return AdviceRow(
        cells=grid.cells,
        edges=how,
        inner_edges=grid.inner_edges,
        straddling=float(counts.sum(axis=0) @ straddles / counts.sum()),
        log2_mean=float(logs.mean()),
        log2_median=float(np.median(logs)),
        most=int(reached.max()),
        bits=_bits(grid, counts.sum(axis=0), lowest, highest),
        open_bits=float(logs.sum() / counts.sum()),
        has_room=len(stays) == grid.cells and not straddles[0] and not straddles[-1],
        shared=len(np.unique(sharing)) / len(images),
        least_error=_disjoint(sharing) / len(images),
    )


def _bits(
    grid: Grid,
    counts: Float64[np.ndarray, "values"],
    lowest: UInt[np.ndarray, "values"],
    highest: UInt[np.ndarray, "values"],
) -> float:
    """Return the mean over pixels of -log2 of the share of pixels in the cells from the lowest to the highest."""
    cells = grid.level_cells(len(counts) - 1)
    first = np.searchsorted(cells, np.arange(grid.cells + 1))  # cells rise with the values
    return _sure(counts, first[lowest], first[highest.astype(np.int64) + 1])


def _sure(
    counts: Float64[np.ndarray, "values"], first: Int64[np.ndarray, "values"], behind: Int64[np.ndarray, "values"]
) -> float:
    """Return the mean over pixels of -log2 of the share of pixels whose values its ball reaches: first to behind."""
    below = np.concatenate([[0], np.cumsum(counts)])  # of whole numbers: exact
    reached, seen = below[behind] - below[first], counts > 0
    return float(counts[seen] @ np.log2(counts.sum() / reached[seen]) / counts.sum())


def _within(count: int, radius: Radius) -> tuple[Int64[np.ndarray, "values"], Int64[np.ndarray, "values"]]:
    """Return which stored values lie within the radius of each, as the first one and the one behind the last."""
    places, reach = np.arange(count), math.floor(radius.pixel * (count - 1))
    return np.maximum(places - reach, 0), np.minimum(places + reach + 1, count)


def _share(
    grid: Grid,
    images: UInt8[np.ndarray, "some pixels"],
    pairs: Int64[np.ndarray, "pairs two"],
    radius: Fraction,
    values: np.ndarray,
) -> Bool[np.ndarray, "pairs"]:
    """Return which pairs share an interval image that a float32 image of each ball has.

    The ends of balls are rounded inward here, not outward as a verifier rounds them: what is shared is shared.
    """
    low, high = (grid.cell(end) for end in float32_within(values, min(radius, Fraction(1))))
    apart = (high[:, None] < low[None, :]) | (high[None, :] < low[:, None])
    shared = np.zeros(len(pairs), dtype=bool)
    if not apart.any():
        return np.ones(len(pairs), dtype=bool)
    width = len(values)
    table = apart.ravel()
    for start in range(0, len(pairs), _BATCH):
        one, other = images[pairs[start : start + _BATCH].T]
        shared[start : start + _BATCH] = ~table[one.astype(np.int32) * width + other].any(axis=1)
    return shared


def _disjoint(pairs: Int64[np.ndarray, "pairs two"]) -> int:
    """Return how many of the pairs, taken one after the other, have no image in common."""
    taken: set[int] = set()
    for one, other in pairs.tolist():
        if one not in taken and other not in taken:
            taken |= {one, other}
    return len(taken) // 2


def _neighbours(
    images: UInt8[np.ndarray, "some pixels"], labels: Int64[np.ndarray, "some"], count: int
) -> Int64[np.ndarray, "pairs two"]:
    """Return each image with its nearest neighbours of other classes (Euclidean norm), each pair once, ascending."""
    values = images.astype(np.float32)
    squares = np.einsum("ij,ij->i", values, values)
    found = []
    for start in range(0, len(values), _BATCH):
        rows = slice(start, start + _BATCH)
        distance = squares[None, :] - 2 * (values[rows] @ values.T)
        distance[labels[rows][:, None] == labels[None, :]] = np.inf
        kept = min(count, len(values))
        nearest = np.argpartition(distance, kept - 1, axis=1)[:, :kept]
        own = np.repeat(np.arange(start, start + len(nearest)), kept)
        is_other = np.isfinite(np.take_along_axis(distance, nearest, axis=1)).ravel()
        found.append(np.stack([own, nearest.ravel()], axis=1)[is_other])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0).astype(np.int64)


def _histograms(data: DataSet) -> Float64[np.ndarray, "images values"]:
    """Return how many pixels of each image have each stored value, as floats: they are multiplied for every grid."""
    width = data.levels + 1
    found = []
    for batch in data.batches(_BATCH):
        places = batch.images.reshape(len(batch.labels), -1).astype(np.int64)
        places += np.arange(len(places))[:, None] * width
        found.append(np.bincount(places.ravel(), minlength=len(places) * width).reshape(-1, width))
    return np.concatenate(found).astype(np.float64)


def _choice(rows: Sequence[AdviceRow], plain_bits: float) -> tuple[AdviceRow | None, str]:
    fitting = [row for row in rows if row.has_room and row.cells > 1]
    if not fitting:
        return None, (
            "no grid of more than one cell has room for balls of this radius: on every one, background or ink "
            "straddles, or every pixel of a cell does; verify a smaller radius, or train on plain images"
        )
    clear = [row for row in fitting if row.clarity >= CLEAR]
    best = max(clear, key=lambda row: row.bits) if clear else max(fitting, key=lambda row: row.clarity)
    why = (
        f"leave most of a pixel sure, of the grids that leave {CLEAR} times as much sure as open"
        if clear
        else f"leave {best.clarity:.1f} times as much of a pixel sure as open, and no grid leaves more"
    )
    is_coarse = best.bits < KEPT * plain_bits
    warning = (
        f"; they keep {best.bits:.1f} of the {plain_bits:.1f} bits that are sure of a pixel of plain images, so that "
        "these may have less error: compare both"
    )
    mean = "" if math.isclose(best.log2_mean, best.log2_median, rel_tol=0.1) else f" (median {best.log2_median:.1f})"
    return best, (
        f"{best.cells} cells with {best.edges} edges {why}; {100 * best.straddling:.1f} % of pixels straddle, "
        f"2^{best.log2_mean:.1f}{mean} combinations an image, and at least {100 * best.least_error:.2f} % of the "
        f"images compared can be certified by no network on them{warning if is_coarse else ''}"
    )
