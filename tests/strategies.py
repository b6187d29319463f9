"""Hypothesis strategies for grids, images and radii, aimed at the edges of cells."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from abscert_plugin.grid import Grid

_MOST = 300  # cells; more than a byte tells apart

SPECIAL_PIXELS = np.array(
    [
        0.0,
        -0.0,
        np.nextafter(np.float32(0), np.float32(1)),  # the least subnormal
        np.finfo(np.float32).tiny,  # the least normal number
        np.nextafter(np.finfo(np.float32).tiny, np.float32(0)),  # the greatest subnormal
        np.nextafter(np.float32(1), np.float32(0)),
        1.0,
    ],
    dtype=np.float32,
)


def cell_counts(most: int = _MOST) -> st.SearchStrategy[int]:
    """Return numbers of cells, few as often as many."""
    return st.integers(1, min(most, 12)) | st.integers(1, most)


def grids(most: int = _MOST) -> st.SearchStrategy[Grid]:
    """Return grids, uniform and not."""
    return cell_counts(most).map(Grid) | uneven_grids(min(most, 12))


def uneven_grids(most: int = 12) -> st.SearchStrategy[Grid]:
    """Return grids whose edges lie anywhere, also one unit apart and on 8-bit pixels."""
    units = st.integers(1, 2**24 - 1) | st.integers(1, 254).map(lambda value: value * 2**24 // 255) | st.integers(1, 4)
    inner = st.lists(units, max_size=most - 1, unique=True).map(lambda edges: tuple(sorted(edges)))
    return inner.map(lambda edges: Grid(len(edges) + 1, edges))


def edge_pixels(grid: Grid) -> np.ndarray:
    """Return every edge and both its float32 neighbours, within [0, 1]."""
    edges = grid.edges
    below, above = np.nextafter(edges, np.float32(-1)), np.nextafter(edges, np.float32(2))
    near = np.concatenate([below, edges, above])
    return near[(near >= 0) & (near <= 1)]


def pixels(grid: Grid) -> st.SearchStrategy[np.float32]:
    """Return pixels: next to an edge, at the ends of float32's range near zero, of 8-bit images, or anywhere."""
    special = np.concatenate([edge_pixels(grid), SPECIAL_PIXELS])
    return st.one_of(
        st.sampled_from(special.tolist()).map(np.float32),
        st.integers(0, 255).map(lambda value: np.float32(value) / np.float32(255)),
        st.floats(0, 1, width=32).map(np.float32),
    )


def pixel_images(grid: Grid, shape: tuple[int, ...] = (1, 2, 2)) -> st.SearchStrategy[np.ndarray]:
    """Return float32 images on the pixel scale."""
    return arrays(np.float32, shape, elements=pixels(grid).map(float), fill=st.nothing())


def uint8_images(shape: tuple[int, ...] = (1, 2, 2), levels: int = 255) -> st.SearchStrategy[np.ndarray]:
    """Return stored images."""
    return arrays(np.uint8, shape, elements=st.integers(0, levels), fill=st.nothing())


def radii(grid: Grid, pixel: np.float32) -> st.SearchStrategy[float]:
    """Return radii that end on an edge seen from `pixel`, next to one, at a size that papers use, or anywhere."""
    on_edges = sorted({abs(float(edge) - float(pixel)) for edge in grid.edges})
    moves: list[Callable[[float], float]] = [
        lambda radius: radius,
        lambda radius: float(np.nextafter(radius, 2)),
        lambda radius: max(0.0, float(np.nextafter(radius, -1))),
        lambda radius: float(np.nextafter(np.float32(radius), np.float32(2))),
        lambda radius: max(0.0, float(np.nextafter(np.float32(radius), np.float32(-1)))),
    ]
    return st.one_of(
        st.builds(lambda radius, move: move(radius), st.sampled_from(on_edges), st.sampled_from(moves)),
        st.sampled_from([0.0, 5e-324, 1e-9, 1 / 255, 2 / 255, 8 / 255, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0]),
        st.floats(0, 1.5),
    )
