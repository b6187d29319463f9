"""From ONNX nodes that only move entries, and constants between them, to steps."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.building import View, need_plain_axes
from abscert_plugin.bounds.proof.constants import need_plain_slice
from abscert_plugin.bounds.proof.moves import Concatenation
from abscert_plugin.bounds.proof.rows import reshape
from abscert_plugin.graph.operands import SHAPES, new_shape
from abscert_plugin.graph.walk import BATCH, need
from abscert_plugin.reading.sliding import Padding

_FOREVER: Final = 2**31 - 1  # an end of a slice that is behind every batch
_INDEXED: Final = {b"reflect": "reflect", b"edge": "edge", b"wrap": "wrap"}  # of a Pad: numpy's names are ONNX's


def _inert(view: View) -> None:
    view.need_inert()
    view.moved(lambda values: values)


def _in_shape(view: View) -> None:
    shape = new_shape(view)
    view.moved(lambda values: values.reshape(len(values), *shape))


def _transpose(view: View) -> None:
    order = view.order()
    view.moved(lambda values: values.permute(order))


def _places(view: View) -> np.ndarray:
    """Return the place of each entry of the input among all of an image: [1, *shape]."""
    shape = view.shape()
    return np.arange(prod(shape)).reshape(1, *shape)


# --- more entries ----------------------------------------------------------------------------------------------------


def _pad(view: View) -> None:
    mode, rank = view.attribute("mode", b"constant"), len(view.shape()) + 1
    need(mode == b"constant" or mode in _INDEXED, f"expected constant, reflect, edge or wrap, got {mode!r}")
    pads = view.integers("pads", 1) or []
    axes = [int(axis) % rank for axis in view.array(3).reshape(-1)] if view.has(3) else list(range(rank))
    need(len(pads) == 2 * len(axes) and len(set(axes)) == len(axes), "expected two paddings for each axis")
    need_plain_axes(axes, rank)
    given = {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    around = [given.get(axis, (0, 0)) for axis in range(rank)]
    need(around[0] == (0, 0), "expected the batch as it is")
    sizes = view.shape()
    need(all(size + sum(pair) >= 1 for size, pair in zip(sizes, around[1:], strict=True)), "nothing is left of an axis")
    if mode in _INDEXED:
        least = min(min(pair) for pair in around)
        most = {b"reflect": -1, b"edge": 2**31, b"wrap": 0}[mode]
        fits = all(max(pair) <= size + most for size, pair in zip(sizes, around[1:], strict=True))
        need(least >= 0 and fits, f"expected paddings from 0 to the size of an axis, got {pads}")
        view.picked([view.name()], np.pad(_places(view), around, mode=_INDEXED[mode])[0])  # type: ignore[call-overload]
        return
    value = float(view.array(2).reshape(-1)[0]) if view.has(2) else float(view.attribute("value", 0.0))
    if value:
        need(
            all(min(pair) >= -size for size, pair in zip(sizes, around[1:], strict=True)), "expected values to be left"
        )
        _pad_with(view, value, around)
        return
    begins, ends = ([int(pair[side]) for pair in around[1:]] for side in (0, 1))
    view.moved(Padding(begins, ends))


def _pad_with(view: View, value: float, around: Sequence[tuple[int, int]]) -> None:
    kept = _places(view)[
        tuple(
            slice(max(0, -begin), size - max(0, -end))
            for size, (begin, end) in zip((1, *view.shape()), around, strict=True)
        )
    ]
    grown = [(max(0, begin), max(0, end)) for begin, end in around]
    fill = prod(view.shape())  # behind the last entry
    constant = view.filled(value)
    view.picked([view.name(), constant], np.pad(kept, grown, constant_values=fill)[0])


def _expand(view: View) -> None:
    sizes, shape = [int(size) for size in view.array(1).reshape(-1)], (1, *view.shape())
    rank = max(len(sizes), len(shape))
    sizes = [1] * (rank - len(sizes)) + sizes
    need(rank == len(shape) and BATCH not in sizes[1:], f"expected a shape that keeps the batch first, got {sizes}")
    full = np.broadcast_shapes(shape[1:], tuple(sizes[1:]))
    # a runtime repeats a batch of one image where another size is asked for: each of those is this image
    view.moved(lambda values: values.expand(len(values), *full))


def _tile(view: View) -> None:
    repeats = [int(count) for count in view.array(1).reshape(-1)]
    need(len(repeats) == len(view.shape()) + 1 and min(repeats) >= 1, "expected a number of repeats for each axis")
    need(repeats[0] == 1, "expected the batch as it is")
    view.moved(lambda values: values.repeat(repeats))


def _concatenate(view: View) -> None:
    names = [view.planted(place) for place in range(len(view.node.inputs))]
    ranks = {view.walk.values[name].lower.ndim for name in names}
    need(len(ranks) == 1, "expected values of one rank")
    axis = view.axis(0, ranks.pop())
    view.walk.append(Concatenation(view.output, tuple(names), axis))


def _depth_to_space(view: View) -> None:
    block, is_deep, (channels, height, width) = _block(view)
    need(channels % block**2 == 0, f"expected channels that are a multiple of {block} x {block}")
    left = channels // block**2
    split, order = ((block, block, left), (3, 4, 1, 5, 2)) if is_deep else ((left, block, block), (1, 4, 2, 5, 3))

    def move(values: Tensor) -> Tensor:
        apart = values.reshape(len(values), *split, height, width).permute(0, *order)
        return apart.reshape(len(values), left, height * block, width * block)

    view.moved(move)


def _space_to_depth(view: View) -> None:
    block, is_deep, (channels, height, width) = _block(view)
    need(height % block == 0 and width % block == 0, f"expected sizes that are a multiple of {block}")
    order = (3, 5, 1, 2, 4) if is_deep else (1, 3, 5, 2, 4)

    def move(values: Tensor) -> Tensor:
        apart = values.reshape(len(values), channels, height // block, block, width // block, block)
        return apart.permute(0, *order).reshape(len(values), -1, height // block, width // block)

    view.moved(move)


def _block(view: View) -> tuple[int, bool, tuple[int, int, int]]:
    """Return the size of a block, whether its entries are the outer ones of the channels, and the image's shape."""
    block, mode = int(view.attribute("blocksize", 0)), view.attribute("mode", b"DCR")
    need(block >= 1 and mode in (b"DCR", b"CRD"), f"expected a blocksize, and the mode DCR or CRD, got {mode!r}")
    return block, mode == b"DCR", _image(view)


def _image(view: View) -> tuple[int, int, int]:
    need(len(view.shape()) == 3, f"expected images, got the shape {view.shape()}")
    channels, height, width = view.shape()
    return channels, height, width


# --- some of the entries ---------------------------------------------------------------------------------------------


def _slices(view: View) -> None:
    rank = len(view.shape()) + 1
    starts, ends = view.integers("starts", 1) or [], view.integers("ends", 2) or []
    axes = view.integers("axes", 3) or list(range(len(starts)))
    strides = view.integers("steps", 4) or [1] * len(starts)
    picked: dict[int, np.ndarray] = {}
    for start, end, axis, step in zip(starts, ends, axes, strides, strict=True):
        need(-rank <= axis < rank, f"expected an axis of {rank}, got {axis}")
        if axis % rank == 0:
            need(start == 0 and end >= _FOREVER and step == 1, "expected the batch as it is")
            continue
        size = view.shape()[axis % rank - 1]
        need_plain_slice(size, start, end, step)
        picked[axis % rank] = np.arange(size)[slice(start, end, step)]
        need(picked[axis % rank].size > 0, "nothing is left of an axis")
    _picked_along(view, picked)


def _picked_along(view: View, picked: Mapping[int, np.ndarray]) -> None:
    source = view.name()
    for axis, indices in list(picked.items())[:-1]:
        source = view.move(source, _picker(axis, indices))
    if picked:
        axis, indices = list(picked.items())[-1]
        view.move(source, _picker(axis, indices), view.output)
    else:
        view.moved(lambda values: values)


def _picker(axis: int, indices: np.ndarray) -> Callable[[Tensor], Tensor]:
    places = torch.from_numpy(np.array(indices, dtype=np.int64, order="C"))  # of one entry, a view may go backward
    return lambda values: values.index_select(axis, places)


def _index(view: View, place: int, size: int) -> np.ndarray:
    """Return indices along an axis, counted from the front."""
    indices = view.array(place)
    need(indices.dtype.kind == "i" and indices.size > 0, "expected indices")
    need(bool(((indices >= -size) & (indices < size)).all()), "an index lies outside")
    return np.asarray(indices % size)


def _gather(view: View) -> None:
    axis = view.axis(0, len(view.shape()) + 1)
    indices = _index(view, 1, view.shape()[axis - 1])
    picked = _picker(axis, indices.reshape(-1))
    shape = (*view.shape()[: axis - 1], *indices.shape, *view.shape()[axis:])
    view.moved(lambda values: picked(values).reshape(len(values), *shape))


def _gather_elements(view: View) -> None:
    axis = view.axis(0, len(view.shape()) + 1)
    indices = _index(view, 1, view.shape()[axis - 1])
    need(len(indices) == 1 and indices.ndim == len(view.shape()) + 1, "expected indices of one image")
    sizes = zip(indices.shape, (1, *view.shape()), strict=True)
    need(all(count <= size for place, (count, size) in enumerate(sizes) if place != axis), "expected fewer indices")
    around = [slice(count) if place != axis else slice(None) for place, count in enumerate(indices.shape)]
    view.picked([view.name()], np.take_along_axis(_places(view)[tuple(around)], indices, axis)[0])


def _gather_nd(view: View) -> None:
    places, batch = _places(view), int(view.attribute("batch_dims", 0))
    indices, shape = view.array(1), places.shape
    need(batch >= 1 and indices.ndim >= batch + 1 and len(indices) == 1, "expected indices of one image")
    need(indices.shape[:batch] == shape[:batch], "expected indices that fit the values")
    depth = indices.shape[-1]
    need(indices.size > 0 and batch + depth <= len(shape), "expected indices that fit the values")
    sizes = np.array(shape[batch : batch + depth])
    need(bool(((indices >= -sizes) & (indices < sizes)).all()), "an index lies outside")
    ahead = prod(shape[:batch])
    rows = np.arange(ahead)[:, None]
    parts = (indices % sizes).reshape(ahead, -1, depth)
    found = places.reshape(ahead, *shape[batch:])[(rows, *np.moveaxis(parts, 2, 0))]
    view.picked([view.name()], found.reshape(*indices.shape[:-1], *shape[batch + depth :])[0])


def _split(view: View) -> None:
    axis, sizes = view.parts()
    for name, (begin, end) in zip(view.node.outputs, pairwise(np.cumsum([0, *sizes])), strict=True):
        if name:
            view.move(view.name(), _picker(axis, np.arange(begin, end)), name)


def _triangle(view: View) -> None:
    need(len(view.shape()) >= 2, "expected matrices")
    diagonal = int(view.array(1).reshape(-1)[0]) if view.has(1) else 0
    keeps = torch.triu if view.attribute("upper", 1) else torch.tril
    view.moved(lambda values: keeps(values, diagonal))


# --- entries in the place of others ----------------------------------------------------------------------------------


def _scatter_elements(view: View) -> None:
    view.require(reduction=b"none")
    first, second, places = view.planted(0), view.planted(2), None
    shape = view.walk.values[first].lower.shape[1:]
    places = np.arange(prod(shape)).reshape(1, *shape)
    axis, indices = view.axis(0, places.ndim), view.array(1)
    size = places.shape[axis]
    need(bool(((indices >= -size) & (indices < size)).all()) and indices.size > 0, "an index lies outside")
    need(
        len(indices) == 1 and indices.shape[1:] == view.walk.values[second].lower.shape[1:], "expected fitting updates"
    )
    updates = places.size + np.arange(indices.size).reshape(indices.shape)
    target = tuple(np.meshgrid(*map(np.arange, indices.shape), indexing="ij"))
    target = (*target[:axis], indices % size, *target[axis + 1 :])
    _replaced(view, [first, second], places, target, updates)


def _scatter_nd(view: View) -> None:
    view.require(reduction=b"none")
    first, second = view.planted(0), view.planted(2)
    shape, indices = view.walk.values[first].lower.shape[1:], view.array(1)
    places = np.arange(prod(shape)).reshape(1, *shape)
    depth = indices.shape[-1]
    sizes = np.array(places.shape[:depth])
    need(1 <= depth <= places.ndim and indices.size > 0, "expected indices that fit the values")
    need(bool(((indices >= -sizes) & (indices < sizes)).all()), "an index lies outside")
    expected = (*indices.shape[:-1], *places.shape[depth:])
    # the updates of one image stand behind a batch of 1, which the walk has left out
    need((1, *view.walk.values[second].lower.shape[1:]) == expected, "expected updates of one image")
    updates = places.size + np.arange(prod(expected)).reshape(expected)
    _replaced(view, [first, second], places, tuple(np.moveaxis(indices % sizes, -1, 0)), updates)


def _replaced(
    view: View, sources: list[str], places: np.ndarray, target: tuple[np.ndarray, ...], updates: np.ndarray
) -> None:
    """Give the first value with entries of the second in the places of `target`, each of which is named once."""
    counts = np.zeros(places.shape, dtype=np.int64)
    np.add.at(counts, target, 1)
    need(int(counts.max()) == 1, "expected each entry to be replaced once")
    found = places.copy()
    found[target] = updates
    view.picked(sources, found[0])


SHAPE_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        **dict.fromkeys(("Dropout", "Identity"), _inert),
        **dict.fromkeys(SHAPES, _in_shape),
        "Reshape": reshape,
        "Concat": _concatenate,
        "DepthToSpace": _depth_to_space,
        "Expand": _expand,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "Pad": _pad,
        "ScatterElements": _scatter_elements,
        "ScatterND": _scatter_nd,
        "Slice": _slices,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Tile": _tile,
        "Transpose": _transpose,
        "Trilu": _triangle,
    }
)
