"""What torch computes for ONNX operators that put entries elsewhere: which goes where is asked of onnx's reference."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.graph.nodes import Node
from abscert_plugin.graph.walk import BATCH, evaluate, need
from abscert_plugin.reading.building import Computed, Function, View

_OPSET_OF_MODES: Final = 11  # before it, a Resize has no modes of coordinates
_RESIZED: Final = 13  # the version of a Resize along one axis that the reference is asked about
_MODES: Final = ("coordinate_transformation_mode", "nearest_mode", "mode", "cubic_coeff_a", "exclude_outside")


def _moved(places: Sequence[int] | None = None) -> Callable[[View], Computed]:
    """Return the rule of a node that puts the entries of some inputs elsewhere; the other inputs say where.

    The reference is run on the number of each entry; 0 stands for what is filled in.
    """

    def rule(view: View) -> Computed:
        asked = tuple(range(len(view.node.inputs)) if places is None else places)
        arrays: dict[str, np.ndarray] = {}
        first = 1
        for place in asked:
            is_constant = view.is_constant(place)
            shape = view.array(place).shape if is_constant else (1, *view.shape(place))
            need(shape[:1] == (1,), "expected a constant for each image")
            arrays[view.node.inputs[place]] = np.arange(first, first + prod(shape)).reshape(shape)
            first += prod(shape)
        node = view.node
        for place in range(len(node.inputs)):
            if place not in asked and node.has(place):
                given = view.array(place)
                arrays[node.inputs[place]] = np.where(given == BATCH, 1, given)
        found = evaluate(node, arrays, view.walk.graph.opset)
        # an output without a name is read by none
        return Computed(tuple(_picked(found.get(name, np.zeros((1, 1)))) for name in node.outputs), asked)

    return rule


def _padded(view: View) -> Computed:
    """Return a padding; one below 0 takes entries away, which the reference does not know."""
    mode, rank, shape = view.attribute("mode", b"constant").decode(), len(view.shape()) + 1, (1, *view.shape())
    pads, fill = view.integers("pads", 1) or [], float(view.attribute("value", 0.0))
    if view.has(2):
        fill = float(view.array(2).reshape(-1)[0])
    axes = [int(axis) % rank for axis in view.array(3).reshape(-1)] if view.has(3) else list(range(rank))
    around = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        around[axis] = pads[place], pads[place + len(axes)]
    kept = tuple(slice(max(0, -begin), size - max(0, -end)) for size, (begin, end) in zip(shape, around, strict=True))
    places = np.arange(1, 1 + prod(shape)).reshape(shape)[kept]
    grown = [(max(0, begin), max(0, end)) for begin, end in around]
    return Computed((_picked(np.pad(places, grown, mode=mode), fill),), (0,))


def _gathered_elements(view: View) -> Computed:
    """Return a picking along an axis, where other axes may be cut short, which the reference does not know."""
    shape, indices = (1, *view.shape()), view.array(1)
    axis = view.axis(0, len(shape))
    around = tuple(slice(None) if place == axis else slice(count) for place, count in enumerate(indices.shape))
    places = np.arange(1, 1 + prod(shape)).reshape(shape)[around]
    return Computed((_picked(np.take_along_axis(places, indices, axis)),), (0,))


def _picked(places: np.ndarray, fill: float = 0.0) -> Function:
    need(len(places) == 1, "expected the images of a batch to stay apart")
    shape, index = places.shape[1:], torch.from_numpy(places.reshape(-1).astype(np.int64))

    def picked(*values: Tensor) -> Tensor:
        count = max(map(len, values))
        flat = [value.expand(count, *value.shape[1:]).flatten(1) for value in values]
        joint = torch.cat([flat[0].new_full((count, 1), fill), *flat], 1)
        return joint.index_select(1, index).reshape(count, *shape)

    return picked


# --- sizes -----------------------------------------------------------------------------------------------------------


def _resized(view: View) -> Computed:
    """Return a resizing axis by axis, each by a matrix: what the reference makes of the unit vectors."""
    is_old = view.node.operator == "Upsample" or view.walk.graph.opset < _OPSET_OF_MODES
    view.require(antialias=0, keep_aspect_ratio_policy=b"stretch")
    shape = (1, *view.shape())
    axes = [int(axis) % len(shape) for axis in view.attribute("axes", range(len(shape)))]
    modes = {name: view.node.attributes[name] for name in _MODES if name in view.node.attributes}
    if is_old:
        modes |= {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    place = 1 if is_old else 2
    given = view.array(place).reshape(-1).tolist() if view.has(place) else list(view.attribute("scales", []))
    sizes = [] if given else view.array(place + 1).reshape(-1).tolist()
    matrices = {}
    for axis, target in zip(axes, map(float, given or sizes), strict=True):
        if axis and target != (1 if given else shape[axis]):
            matrices[axis] = _matrix(shape[axis], target, bool(given), modes)
            if is_old and target < 1:  # the tenth set of operators does not say how coordinates are rounded
                other = _matrix(shape[axis], target, bool(given), {**modes, "nearest_mode": b"ceil"})
                need(torch.equal(other, matrices[axis]), "runtimes differ about the entries that it takes")

    def resize(values: Tensor) -> Tensor:
        for axis, matrix in matrices.items():
            values = (values.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return values

    return Computed((resize,), (0,))


def _matrix(size: int, target: float, is_scale: bool, modes: Mapping[str, object]) -> Tensor:
    arrays = {"x": np.eye(size, dtype=np.float32)}
    if is_scale:
        arrays["scales"] = np.array([1, target], dtype=np.float32)
    else:
        arrays["sizes"] = np.array([size, int(target)], dtype=np.int64)
    names = ("x", "", "scales") if is_scale else ("x", "", "", "sizes")
    node = Node("", "Resize", names, ("y",), modes, frozenset())
    return torch.from_numpy(np.ascontiguousarray(evaluate(node, arrays, _RESIZED)["y"]))


MOVES: Final[Mapping[str, Callable[[View], Computed]]] = MappingProxyType(
    {
        "GatherElements": _gathered_elements,
        "Pad": _padded,
        "Resize": _resized,
        "Upsample": _resized,
        **{
            name: _moved((0,))
            for name in (
                "DepthToSpace",
                "Expand",
                "Gather",
                "GatherND",
                "Slice",
                "SpaceToDepth",
                "Split",
                "Tile",
                "Trilu",
            )
        },
        **dict.fromkeys(("ScatterElements", "ScatterND"), _moved((0, 2))),
    }
)
"""From an operator to where it puts the entries of its inputs."""
