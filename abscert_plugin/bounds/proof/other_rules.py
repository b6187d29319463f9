"""From nonlinear ONNX nodes, and those that only move entries, to steps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.activations import RELU, SIGMOID, TANH, Function, Piecewise
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.constants import need_plain_slice
from abscert_plugin.bounds.proof.moves import Concatenation
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.graph.operands import SHAPES, new_shape
from abscert_plugin.graph.walk import need


def _activation(function: Function) -> Callable[[View], None]:
    def rule(view: View) -> None:
        view.walk.append(Activation(view.output, view.name(), function))

    return rule


def _leaky_relu(view: View) -> None:
    alpha = float(view.attribute("alpha", 0.01))
    need(bool(np.isfinite(alpha)), "expected a finite alpha")
    _activation(Piecewise((0.0,), (alpha, 1.0), roundings=2))(view)


def _p_relu(view: View) -> None:
    slope = view.constant(1)
    need(slope.is_point, "expected slopes that are not computed")
    given, rank = tuple(slope.lower.shape), len(view.shape()) + 1
    need(len(given) < rank or (len(given) == rank and given[0] == 1), "expected the same slopes for all images")
    full = slope.lower.reshape((1,) * (rank - len(given)) + given)
    need(torch.broadcast_shapes(full.shape[1:], view.shape()) == view.shape(), "expected slopes that fit the input")
    _activation(Piecewise((0.0,), (full, 1.0), roundings=2))(view)


def _clip(view: View) -> None:
    ends = []
    for place, name in ((1, "min"), (2, "max")):
        end: float | None = None
        if view.has(place):
            end = float(view.array(place).reshape(-1)[0])
        elif name in view.node.attributes:
            end = float(view.node.attributes[name])
        need(end is None or bool(np.isfinite(end)), "expected finite ends")
        ends.append(end)
    least, most = ends
    need(least is None or most is None or least < most, f"expected min < max, got {least} and {most}")
    bends = tuple(end for end in ends if end is not None)
    slopes = (*([] if least is None else [0.0]), 1.0, *([] if most is None else [0.0]))
    if bends:
        _activation(Piecewise(bends, slopes, bends[0]))(view)
    else:
        _inert(view)


def _max_pool(view: View) -> None:
    need(len(view.node.outputs) == 1, "expected no indices")
    window = view.pool()
    begins, ends = window.begins, window.ends
    spans = [(size - 1) * step for size, step in zip(window.kernel, window.dilation, strict=True)]
    need(all(pad <= span for pad, span in zip([*begins, *ends], spans * 2, strict=True)), "a window holds only padding")
    pads = [begins[1], ends[1], begins[0], ends[0]]

    def pool(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, pads, value=-torch.inf)
        return torch.nn.functional.max_pool2d(padded, window.kernel, window.stride, dilation=window.dilation)

    view.walk.append(Largest(view.output, view.name(), pool))


# --- moves -----------------------------------------------------------------------------------------------------------


def _inert(view: View) -> None:
    view.need_inert()
    view.moved(lambda values: values)


def _in_shape(view: View) -> None:
    shape = new_shape(view)
    view.moved(lambda values: values.reshape(len(values), *shape))


def _transpose(view: View) -> None:
    order = view.order()
    view.moved(lambda values: values.permute(order))


def _pad(view: View) -> None:
    mode = view.attribute("mode", b"constant")
    need(mode == b"constant", f"expected a constant around the values, got {mode!r}")
    given = float(view.array(2).reshape(-1)[0]) if view.has(2) else float(view.attribute("value", 0.0))
    need(given == 0, "expected zeros around the values")
    pads, rank = view.integers("pads", 1), len(view.shape()) + 1
    assert pads is not None
    axes = [axis % rank for axis in view.array(3).tolist()] if view.has(3) else list(range(rank))
    need(len(pads) == 2 * len(axes) and min(pads) >= 0, "expected two paddings of at least 0 for each axis")
    around = {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    need(around.get(0, (0, 0)) == (0, 0), "expected the batch as it is")
    flat = [int(size) for axis in reversed(range(1, rank)) for size in around.get(axis, (0, 0))]
    view.moved(lambda values: torch.nn.functional.pad(values, flat))


def _slices(view: View) -> None:
    rank = len(view.shape()) + 1
    starts, ends = view.integers("starts", 1) or [], view.integers("ends", 2) or []
    axes = view.integers("axes", 3) or list(range(len(starts)))
    strides = view.integers("steps", 4) or [1] * len(starts)
    picked: dict[int, np.ndarray] = {}
    for start, end, axis, step in zip(starts, ends, axes, strides, strict=True):
        need(axis % rank > 0, "expected the batch as it is")
        size = view.shape()[axis % rank - 1]
        need_plain_slice(size, start, end, step)
        picked[axis % rank] = np.arange(size)[slice(start, end, step)]
        need(picked[axis % rank].size > 0, "nothing is left of an axis")
    source = view.name()
    for place, (axis, indices) in enumerate(picked.items(), 1):
        output = view.output if place == len(picked) else None
        source = view.move(source, _picker(axis, indices), output)


def _picker(axis: int, indices: np.ndarray) -> Callable[[Tensor], Tensor]:
    places = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
    return lambda values: values.index_select(axis, places)


def _gather(view: View) -> None:
    rank = len(view.shape()) + 1
    axis, indices = view.axis(0, rank), view.array(1)
    size = view.shape()[axis - 1]
    need(bool(((indices >= -size) & (indices < size)).all()) and indices.size > 0, "an index lies outside")
    picked = _picker(axis, indices.reshape(-1) % size)
    shape = (*view.shape()[: axis - 1], *indices.shape, *view.shape()[axis:])
    view.moved(lambda values: picked(values).reshape(len(values), *shape))


def _split(view: View) -> None:
    axis, sizes = view.parts()
    begin = 0
    for name, part in zip(view.node.outputs, sizes, strict=True):
        if name:
            view.move(view.name(), _picker(axis, np.arange(begin, begin + part)), name)
        begin += part


def _concatenate(view: View) -> None:
    ranks = {view.walk.values[name].lower.ndim for name in view.node.inputs if name in view.walk.values}
    need(len(ranks) == 1, "expected values of one rank")
    axis = view.axis(0, ranks.pop())
    parts = tuple(view.name(place) for place in range(len(view.node.inputs)))
    view.walk.append(Concatenation(view.output, parts, axis))


OTHER_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        **dict.fromkeys(("Cast", "Dropout", "Identity"), _inert),
        **dict.fromkeys(SHAPES, _in_shape),
        "Clip": _clip,
        "Concat": _concatenate,
        "Gather": _gather,
        "LeakyRelu": _leaky_relu,
        "MaxPool": _max_pool,
        "PRelu": _p_relu,
        "Pad": _pad,
        "Relu": _activation(RELU),
        "Sigmoid": _activation(SIGMOID),
        "Slice": _slices,
        "Split": _split,
        "Tanh": _activation(TANH),
        "Transpose": _transpose,
    }
)
