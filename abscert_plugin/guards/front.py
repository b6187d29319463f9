"""The ball of a guard, made in its own graph: ends of what the network reads for every image of the ball."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.phi import to_length
from abscert_plugin.ball import Ball
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Cells
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.values import Ends, Pixels
from abscert_plugin.preprocessing import Preprocessing

_ONE: Final = np.float32(1).view(np.uint32)
_OUTSIDE: Final = _ONE + np.uint32(1)  # of [0, 1]: no pixel reaches it
_FEW_CELLS: Final = 8  # one after another they are quicker than a search
_SPARE: Final = 2.0**-22  # of a difference in float32, as a share of the largest number in it


def fed(emitter: Emitter, artifact: Artifact, balls: Sequence[Ball]) -> Ends | Pixels:
    """Return what the network reads for all images of some balls, one ball after another along the batch.

    Args:
        emitter: takes up the nodes.
        artifact: the file.
        balls: one for each radius.
    """
    front, image = artifact.front, artifact.classifier.input_name
    if isinstance(front, Cells):
        parts = [_cell_ends(emitter, image, front, artifact.metadata.image_shape[0], ball) for ball in balls]
        return _together(emitter, parts, top=1.0, is_positive=False)
    if front.preprocessing is not None:
        return _fed_pixels(image, front.preprocessing, [ball.radius.outward for ball in balls])
    zero, one = np.zeros(1), np.ones(1)
    return Pixels(image, tuple(one * ball.radius.outward for ball in balls), zero, one, one, zero)


def pixel_ends(emitter: Emitter, pixels: Pixels) -> Ends:
    """Write ends of what a network is fed: of the real value, and of whatever the file computes."""
    parts, least, most = [], pixels.least - pixels.off, pixels.most + pixels.off
    low, high = emitter.outward(least, -np.inf), emitter.outward(most, np.inf)
    for reach in pixels.reaches:
        # the tensor is off from the real value as the file is; the rest is a rounding of the difference
        change = emitter.above(reach + 2 * pixels.off + _SPARE * (pixels.size + reach + pixels.off))
        lower = emitter.node("Max", [emitter.node("Sub", [pixels.center, change]), low])
        parts.append((lower, emitter.node("Min", [emitter.node("Add", [pixels.center, change]), high])))
    top = float((pixels.size + pixels.off).max())
    return _together(emitter, parts, top, is_positive=bool((least >= 0).all()))


def _together(emitter: Emitter, parts: Sequence[tuple[str, str]], top: float, is_positive: bool) -> Ends:
    lower, upper = zip(*parts, strict=True)
    if len(parts) == 1:
        return Ends(lower[0], upper[0], 0, top, is_positive, is_even=True)
    ends = [emitter.node("Concat", list(side), axis=0) for side in (lower, upper)]
    return Ends(ends[0], ends[1], 0, top, is_positive, is_even=True)


def inside(emitter: Emitter, artifact: Artifact) -> str:
    """Write which images have all pixels in the pixel range, [batch] of bool; NaN lies in none."""
    front, image = artifact.front, artifact.classifier.input_name
    if isinstance(front, Cells) or front.preprocessing is None:
        cut = emitter.node("Clip", [image, emitter.exactly(0.0), emitter.exactly(1.0)])
        rank, lies_inside = 4, emitter.node("Equal", [image, cut])  # NaN is equal to nothing
    else:
        least, most = _range(front.preprocessing)
        above = emitter.node("GreaterOrEqual", [image, emitter.constant(least)])
        below = emitter.node("LessOrEqual", [image, emitter.constant(most)])
        rank, lies_inside = least.ndim, emitter.node("And", [above, below])
    both = emitter.node("Cast", [lies_inside], to=1)
    worst = emitter.reduced("ReduceMin", both, range(1, rank))
    return emitter.node("Greater", [worst, emitter.exactly(0.5)])


def thresholds(cells: int, reached: Callable[[np.ndarray], np.ndarray]) -> Float32[np.ndarray, "cells"]:
    """Return the least pixel from which on a cell, or one above it, is reached, for each cell.

    Args:
        cells: how many there are.
        reached: from pixels to the number of a cell that never falls as the pixel rises.

    Returns: pixels in [0, 1], 0 where every pixel does, infinite where none does.
    """
    wanted = np.arange(cells)
    low, high = np.zeros(cells, dtype=np.uint32), np.full(cells, _OUTSIDE)
    while bool((low < high).any()):
        middle = low + (high - low) // 2  # below `_OUTSIDE`; the order of floats is that of their bits
        is_reached = (middle < _OUTSIDE) & (reached(np.minimum(middle, _ONE).view(np.float32)) >= wanted)
        low, high = np.where(is_reached, low, middle + 1), np.where(is_reached, middle, high)
        low = np.minimum(low, high).astype(np.uint32)
    return np.where(low == _OUTSIDE, np.float32(np.inf), low.view(np.float32)).astype(np.float32)


def _cell_ends(emitter: Emitter, image: str, front: Cells, channels: int, ball: Ball) -> tuple[str, str]:
    """Write the interval images of the lowest and the highest cells that a ball reaches, found as the verifier does."""

    def lowest(pixels: np.ndarray) -> np.ndarray:
        return front.reach(ball, pixels.reshape(-1, 1, 1, 1)).lowest.reshape(-1)

    def highest(pixels: np.ndarray) -> np.ndarray:
        return front.reach(ball, pixels.reshape(-1, 1, 1, 1)).highest.reshape(-1)

    lower, upper = (
        _interval_image(emitter, image, front, channels, thresholds(front.grid.cells, reached))
        for reached in (lowest, highest)
    )
    return lower, upper


def _interval_image(
    emitter: Emitter, image: str, front: Cells, channels: int, opening: Float32[np.ndarray, "cells"]
) -> str:
    """Write the interval image of the cells that open at some pixels."""
    edges, cells = front.grid.training_edges, len(opening)
    if not 1 < cells <= _FEW_CELLS:
        return emitter.node("Concat", _searched(emitter, image, edges, opening), axis=1)
    opened = [emitter.node("GreaterOrEqual", [image, emitter.constant(np.array(end))]) for end in opening[1:]]
    if channels == 1:  # both ends of its cells at once
        both = np.stack([edges[:-1], edges[1:]], axis=1).reshape(cells, 1, 2, 1, 1)
        return _chosen(emitter, opened, both)
    return emitter.node("Concat", [_chosen(emitter, opened, edges[side:][:cells]) for side in (0, 1)], axis=1)


def _chosen(emitter: Emitter, opened: Sequence[str], ends: np.ndarray) -> str:
    """Write the ends of the last cell that is open; `opened` says it of all but the first."""
    found = emitter.constant(np.array(ends[0]))
    for is_open, end in zip(opened, ends[1:], strict=True):
        found = emitter.node("Where", [is_open, emitter.constant(np.array(end)), found])
    return found


def _searched(emitter: Emitter, image: str, edges: np.ndarray, opening: np.ndarray) -> list[str]:
    """Write lower and upper ends by binary search and look-up."""
    cells = len(opening)
    bits = max(1, (cells - 1).bit_length())
    table = np.full(2**bits, np.inf, dtype=np.float32)
    table[:cells] = opening
    cell = emitter.constant(np.array(0, dtype=np.int64))
    for step in (2**power for power in reversed(range(bits))):
        candidate = emitter.node("Add", [cell, emitter.constant(np.array(step, dtype=np.int64))])
        edge = emitter.node("Gather", [emitter.constant(table), candidate], axis=0)
        cell = emitter.node("Where", [emitter.node("GreaterOrEqual", [image, edge]), candidate, cell])
    sides = (to_length(side, len(table)) for side in (edges[:-1], edges[1:]))  # a pixel of inf is looked up too
    return [emitter.node("Gather", [emitter.constant(side), cell], axis=0) for side in sides]


def _fed_pixels(image: str, way: Preprocessing, radii: Sequence[float]) -> Pixels:
    """Return what a file of others is fed for the images of balls, whatever preprocessing made its input.

    What is fed for a pixel lies between two ends for 0 and two for 1. The scale is a line, so what is fed for pixels
    that are r apart differs by no more than r times the whole range, and by the ends' distance at both of them.
    """
    least, most = (end.astype(np.float64) for end in _range(way))
    zeros = np.zeros((1, *way.image_shape), np.float32)
    inner_least, inner_most = (
        end.astype(np.float64) for end in (way.ends(zeros, zeros)[1], way.ends(zeros + 1, zeros + 1)[0])
    )
    rounding = (inner_least - least) + (most - inner_most)
    reaches = tuple(radius * (most - least) + 2 * rounding for radius in radii)
    size = np.maximum(abs(least), abs(most))
    return Pixels(image, reaches, least, most, size, np.zeros_like(size))


def _range(way: Preprocessing) -> tuple[Float32[np.ndarray, "one *input"], Float32[np.ndarray, "one *input"]]:
    """Return the least and the greatest of what a file of others is fed, entry by entry.

    Raises:
        UnsupportedModelError: if it is not fed float32.
    """
    if way.element != "float32":
        raise UnsupportedModelError(f"expected a classifier that reads float32, got {way.element}: it has no guard yet")
    zeros = np.zeros((1, *way.image_shape), np.float32)
    return way.ends(zeros, zeros + 1)
