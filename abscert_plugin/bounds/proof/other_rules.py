"""From nonlinear ONNX nodes, and those that only move entries, to steps."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.activations import RELU, SIGMOID, TANH, Function, Piecewise
from abscert_plugin.bounds.proof.affine_rules import padding
from abscert_plugin.bounds.proof.building import View, need, zeros_padded
from abscert_plugin.bounds.proof.moves import Concatenation
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest

_FLOAT: Final = 1  # onnx.TensorProto.FLOAT
_LAST: Final = 2**62  # ends of a slice beyond it mean the end of the axis


def _activation(function: Function) -> Callable[[View], None]:
    def rule(view: View) -> None:
        view.build.append(Activation(view.node.outputs[0], view.value(), function))

    return rule


def _leaky_relu(view: View) -> None:
    alpha = float(view.attributes.get("alpha", 0.01))
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
        elif name in view.attributes:
            end = float(view.attributes[name])
        need(end is None or bool(np.isfinite(end)), "expected finite ends")
        ends.append(end)
    least, most = ends
    if least is not None and most is not None:
        need(least < most, f"expected min < max, got {least} and {most}")
        function = Piecewise((least, most), (0.0, 1.0, 0.0), least)
    elif least is not None:
        function = Piecewise((least,), (0.0, 1.0), least)
    elif most is not None:
        function = Piecewise((most,), (1.0, 0.0), most)
    else:
        _identity(view)
        return
    _activation(function)(view)


def _max_pool(view: View) -> None:
    view.require(ceil_mode=0, storage_order=0)
    need(len(view.node.outputs) == 1, "expected no indices")
    kernel = [int(size) for size in view.attributes["kernel_shape"]]
    need(len(kernel) == 2 and len(view.shape()) == 3, "expected a window over the 2 axes of images")
    stride = [int(step) for step in view.attributes.get("strides", [1, 1])]
    dilation = [int(step) for step in view.attributes.get("dilations", [1, 1])]
    begins, ends = padding(view, kernel, stride, dilation)
    spans = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
    need(all(pad <= span for pad, span in zip([*begins, *ends], spans * 2, strict=True)), "a window holds only padding")
    pads = [begins[1], ends[1], begins[0], ends[0]]

    def pool(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, pads, value=-torch.inf)
        return torch.nn.functional.max_pool2d(padded, kernel, stride, dilation=dilation)

    view.build.append(Largest(view.node.outputs[0], view.value(), pool))


# --- moves -----------------------------------------------------------------------------------------------------------


def _identity(view: View) -> None:
    view.move(view.value(), lambda values: values, view.node.outputs[0])


def _cast(view: View) -> None:
    view.require(to=_FLOAT)
    _identity(view)


def _dropout(view: View) -> None:
    need(not view.has(2) or not view.array(2).any(), "expected a Dropout that does nothing, as in inference")
    need(not any(view.node.outputs[1:]), "expected no mask")
    _identity(view)


def _shaped(view: View, shape: Sequence[int]) -> None:
    sizes = tuple(shape)
    view.move(view.value(), lambda values: values.reshape(len(values), *sizes), view.node.outputs[0])


def _reshape(view: View) -> None:
    shape, target = view.shape(), [int(size) for size in view.array(1)]
    need(bool(target), "expected the batch to stay apart")
    if 0 in target:
        view.require(allowzero=0)
    sizes = [(0, *shape)[place] if size == 0 and place <= len(shape) else size for place, size in enumerate(target)]
    sizes = sizes[1:]
    if sizes.count(-1) == 1:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(shape) // known if known else 0
    # the size of the batch may be written as -1, 0 or a number: what each image holds tells whether it stays the batch
    need(prod(sizes) == prod(shape) and min(sizes, default=1) >= 1, f"expected the batch to stay apart, got {target}")
    _shaped(view, sizes)


def _flatten(view: View) -> None:
    need(view.attributes.get("axis", 1) in (1, -len(view.shape())), "expected axis = 1")
    _shaped(view, (prod(view.shape()),))


def _squeeze(view: View) -> None:
    axes, shape = view.integers("axes", 1), view.shape()
    need(axes is not None, "expected axes")
    places = {axis % (len(shape) + 1) for axis in axes or ()}
    need(0 not in places and all(shape[place - 1] == 1 for place in places), "expected axes of one entry")
    _shaped(view, [size for place, size in enumerate(shape, 1) if place not in places])


def _unsqueeze(view: View) -> None:
    axes, shape = view.integers("axes", 1), view.shape()
    need(axes is not None, "expected axes")
    rank = len(shape) + 1 + len(axes or ())
    places = {axis % rank for axis in axes or ()}
    need(0 not in places, "expected the batch to stay first")
    old = iter(shape)
    _shaped(view, [1 if place in places else next(old) for place in range(1, rank)])


def _transpose(view: View) -> None:
    rank = len(view.shape()) + 1
    order = tuple(view.attributes.get("perm", reversed(range(rank))))
    need(order[0] == 0, "expected the batch to stay first")
    view.move(view.value(), lambda values: values.permute(order), view.node.outputs[0])


def _pad(view: View) -> None:
    mode = view.attributes.get("mode", b"constant")
    need(mode == b"constant", f"expected a constant around the values, got {mode!r}")
    given = float(view.array(2).reshape(-1)[0]) if view.has(2) else float(view.attributes.get("value", 0.0))
    need(given == 0, "expected zeros around the values")
    pads, rank = view.integers("pads", 1), len(view.shape()) + 1
    assert pads is not None
    axes = [axis % rank for axis in view.array(3).tolist()] if view.has(3) else list(range(rank))
    need(len(pads) == 2 * len(axes) and min(pads) >= 0, "expected two paddings of at least 0 for each axis")
    around = {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    need(around.get(0, (0, 0)) == (0, 0), "expected the batch as it is")
    flat = [int(size) for axis in reversed(range(1, rank)) for size in around.get(axis, (0, 0))]
    view.move(view.value(), lambda values: zeros_padded(values, flat), view.node.outputs[0])


def _slices(view: View) -> None:
    rank = len(view.shape()) + 1
    starts, ends = view.integers("starts", 1), view.integers("ends", 2)
    need(starts is not None and ends is not None, "expected starts and ends")
    assert starts is not None
    assert ends is not None
    axes = view.integers("axes", 3) or list(range(len(starts)))
    strides = view.integers("steps", 4) or [1] * len(starts)
    picked: dict[int, np.ndarray] = {}
    for start, end, axis, step in zip(starts, ends, axes, strides, strict=True):
        axis %= rank
        need(axis > 0, "expected the batch as it is")
        stop = None if abs(end) > _LAST else end
        picked[axis] = np.arange(view.shape()[axis - 1])[slice(max(start, -_LAST), stop, step)]
        need(picked[axis].size > 0, "nothing is left of an axis")
    source = view.value()
    for place, (axis, indices) in enumerate(picked.items(), 1):
        output = view.node.outputs[0] if place == len(picked) else None
        source = view.move(source, _picker(axis, indices), output)


def _picker(axis: int, indices: np.ndarray) -> Callable[[Tensor], Tensor]:
    places = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
    return lambda values: values.index_select(axis, places)


def _gather(view: View) -> None:
    rank = len(view.shape()) + 1
    axis, indices = view.axis(0, rank), view.array(1)
    need(axis > 0, "expected the batch as it is")
    size = view.shape()[axis - 1]
    need(bool(((indices >= -size) & (indices < size)).all()) and indices.size > 0, "an index lies outside")
    picked = _picker(axis, indices.reshape(-1) % size)
    shape = (*view.shape()[: axis - 1], *indices.shape, *view.shape()[axis:])
    view.move(view.value(), lambda values: picked(values).reshape(len(values), *shape), view.node.outputs[0])


def _split(view: View) -> None:
    rank = len(view.shape()) + 1
    axis, count = view.axis(0, rank), len(view.node.outputs)
    need(axis > 0, "expected the batch as it is")
    size = view.shape()[axis - 1]
    sizes = view.integers("split", 1)
    if sizes is None:
        each = -(-size // count)
        sizes = np.diff(np.minimum(np.arange(count + 1) * each, size)).tolist()
    need(sum(sizes) == size and len(sizes) == count and min(sizes) > 0, f"expected parts that add up to {size}")
    begin = 0
    for name, part in zip(view.node.outputs, sizes, strict=True):
        if name:
            view.move(view.value(), _picker(axis, np.arange(begin, begin + part)), name)
        begin += part


def _concatenate(view: View) -> None:
    ranks = {view.build.values[name].lower.ndim for name in view.node.inputs if name in view.build.values}
    need(len(ranks) == 1, "expected values of one rank")
    axis = view.axis(0, ranks.pop())
    need(axis > 0, "expected the images of a batch to stay apart")
    parts = tuple(view.value(place) for place in range(len(view.node.inputs)))
    view.build.append(Concatenation(view.node.outputs[0], parts, axis))


OTHER_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Cast": _cast,
        "Clip": _clip,
        "Concat": _concatenate,
        "Dropout": _dropout,
        "Flatten": _flatten,
        "Gather": _gather,
        "Identity": _identity,
        "LeakyRelu": _leaky_relu,
        "MaxPool": _max_pool,
        "PRelu": _p_relu,
        "Pad": _pad,
        "Relu": _activation(RELU),
        "Reshape": _reshape,
        "Sigmoid": _activation(SIGMOID),
        "Slice": _slices,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tanh": _activation(TANH),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
