"""From ONNX operators that auto_LiRPA can bound to layers of torch, or to affine functions that fall together into one.

Written here because onnx2pytorch 0.6.0 and onnx2torch 1.5.15 import torchvision, and what they make of a flattening,
of MatMul and Add, or of the mid-points in front of a wrapped model is not bounded, or not tightly, by auto_LiRPA 0.3.
"""

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import nn

from abscert_plugin.graph.operands import SHAPES, Window, new_shape
from abscert_plugin.graph.walk import need
from abscert_plugin.reading.building import Affine, LayerOutput, Rule, Value, View
from abscert_plugin.reading.layers import Applied, Permuted, Reshaped, with_parameters

# --- layers ----------------------------------------------------------------------------------------------------------


def _convolution(view: View) -> Value:
    weight = view.array(1)
    outputs, _, *kernel = weight.shape
    bias = view.array(2) if view.has(2) else np.zeros(outputs)
    return _convolved(view, view.window(kernel, (1, 2)), weight, bias, view.attribute("group", 1))


def _convolved(view: View, window: Window, weight: np.ndarray, bias: np.ndarray, groups: int) -> Value:
    """Return a convolution over one axis or two, of a window that may be padded by more on one side.

    Where it is, the kernel is enlarged by zeros until it is padded by as much on both.
    """
    pads = [_more(*one) for one in zip(window.begins, window.ends, window.dilation, strict=True)]
    grown = [(0, 0), (0, 0), *((before, behind) for _, before, behind in pads)]
    weight = np.pad(weight, grown)
    padding, stride, dilation = [pad for pad, _, _ in pads], list(window.stride), list(window.dilation)
    value, shape = view.activation(), view.shape()
    is_line = len(shape) == 2
    if is_line:
        weight, padding, stride, dilation = weight[:, :, None], [0, *padding], [1, *stride], [1, *dilation]
        value = view.walk.append(Reshaped((shape[0], 1, shape[1])), value)
    outputs, inputs, *kernel = weight.shape
    made = nn.Conv2d(inputs * groups, outputs, kernel, stride, padding, dilation, groups)  # type: ignore[arg-type]
    value = view.walk.append(with_parameters(made, weight, bias), value)
    return view.walk.append(Reshaped((outputs, value.shape[2])), value) if is_line else value


def _more(begin: int, end: int, dilation: int) -> tuple[int, int, int]:
    """Return a padding for both sides, and by how many entries a kernel grows before and behind."""
    need((begin - end) % dilation == 0, f"expected paddings that differ by a multiple of {dilation}")
    pad = max(begin, end)
    return pad, (pad - begin) // dilation, (pad - end) // dilation


def _padded(view: View) -> Value:
    """Return zeros around the images as a convolution of each channel by a kernel of one entry."""
    view.require(mode=b"constant")
    given = float(view.array(2).reshape(-1)[0]) if view.has(2) else float(view.attribute("value", 0.0))
    need(given == 0, "expected zeros around the values")
    pads, (channels, *sizes) = view.integers("pads", 1) or [], view.shape()
    rank = len(sizes)
    need(rank in (1, 2) and not view.has(3) and len(pads) == 2 * (rank + 2), "expected paddings of images")
    begins, ends = pads[2 : rank + 2], pads[rank + 4 :]
    need(not any([*pads[:2], *pads[rank + 2 : rank + 4]]) and min(*begins, *ends) >= 0, "expected padded images")
    ones = [1] * rank
    weight = np.ones((channels, 1, *ones))
    return _convolved(view, Window(ones, ones, ones, begins, ends), weight, np.zeros(channels), channels)


def _concatenate(view: View) -> Value:
    parts = [view.activation(place) for place in range(len(view.node.inputs))]
    rank = len(parts[0].shape) + 1
    need(all(len(part.shape) + 1 == rank for part in parts), "expected values of one rank")
    axis = view.axis(0, rank)
    return view.walk.append(Applied(lambda *values: torch.cat(values, axis)), *parts)


def _sliding(window: Window) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return kernel, stride and padding of a window; torch pads both sides alike."""
    pads = window.begins, window.ends
    need(pads[0] == pads[1], f"expected the same padding on both sides of height and width, got {pads}")
    return tuple(window.kernel), tuple(window.stride), tuple(window.begins)


def _max_pool(view: View) -> Value:
    view.require(dilations=[1, 1], ceil_mode=0)
    kernel, stride, padding = _sliding(view.pool())
    fits = all(2 * pad <= size for size, pad in zip(kernel, padding, strict=True))
    need(fits, f"expected padding of at most half a window, as torch does, got {padding}")
    # auto_LiRPA 0.3 refuses linear bounds where windows overlap or are padded, but looks at the heights alone
    tiles = [step == size and not pad for step, size, pad in zip(stride, kernel, padding, strict=True)]
    need(not tiles[0] or tiles[1], f"expected windows that tile the width as they tile the height, got {kernel}")
    return view.layer(nn.MaxPool2d(kernel, stride, padding))


def _average_pool(view: View) -> Value:
    view.require(dilations=[1, 1], ceil_mode=0)
    window = view.pool()
    counts = bool(view.attribute("count_include_pad", 0)) or not any([*window.begins, *window.ends])
    need(counts, "expected padding that counts (count_include_pad = 1), got windows of several sizes")
    return _average(view, window)


def _global_average_pool(view: View) -> Value:
    return _average(view, view.window(view.shape()[1:]))


def _reduced_mean(view: View) -> Value:
    """Return the mean of each channel, which is what heads of classifiers take."""
    axes, sizes = view.integers("axes", 1) or [], view.shape()[1:]
    rank = len(sizes) + 2
    need(sorted(axis % rank for axis in axes) == [2, 3] == list(range(2, rank)), "expected the mean of each channel")
    mean = _average(view, view.window(sizes))
    assert isinstance(mean, LayerOutput)
    return mean if view.attribute("keepdims", 1) else view.walk.append(nn.Flatten(), mean)


def _average(view: View, window: Window) -> Value:
    """Return the mean over windows as a convolution of each channel: auto_LiRPA 0.3 bounds an AvgPool2d wrongly.

    Its backward pass scales slopes up by the kernel, whatever the stride and the padding are.
    """
    channels = view.shape()[0]
    weight = np.full((channels, 1, *window.kernel), 1 / prod(window.kernel))
    return _convolved(view, window, weight, np.zeros(channels), channels)


def _batch_normalisation(view: View) -> Value:
    view.require(training_mode=0)
    scale, shift, mean, variance = (view.array(place) for place in range(1, 5))
    need(len(view.shape()) in (1, 2, 3), f"expected features, lines or images, got the shape {view.shape()}")
    kind = nn.BatchNorm2d if len(view.shape()) == 3 else nn.BatchNorm1d
    made = kind(len(scale), eps=view.attribute("epsilon", 1e-5))
    made.running_mean = torch.tensor(mean, dtype=torch.float32)
    made.running_var = torch.tensor(variance, dtype=torch.float32)
    return view.layer(with_parameters(made, scale, shift))


def _leaky_relu(view: View) -> Value:
    alpha = view.attribute("alpha", 0.01)
    need(0 <= alpha <= 1, f"expected alpha from 0 to 1, got {alpha:g}")  # its lines and intervals are wrong beyond
    return view.layer(nn.LeakyReLU(alpha))


def _in_shape(view: View) -> Value:
    target = new_shape(view)
    need(bool(target), "expected images or features")
    if target == view.shape():
        return view.activation()
    return view.layer(nn.Flatten() if len(target) == 1 else Reshaped(target))


def _transpose(view: View) -> Value:
    order = view.order()
    return view.activation() if order == tuple(range(len(order))) else view.layer(Permuted(order))


def _inert(view: View) -> Value:
    view.need_inert()
    return view.activation()


# --- affine over features: a layer, to which later steps fall --------------------------------------------------------


def _matrix_product(view: View) -> Value:
    return _linear(view.activation(), view.array(1).T.astype(np.float64), np.zeros(1))


def _gemm(view: View) -> Value:
    view.require(transA=0)
    weight = view.array(1).astype(np.float64)
    weight = (weight if view.attribute("transB", 0) else weight.T) * view.attribute("alpha", 1.0)
    bias = view.array(2).astype(np.float64) * view.attribute("beta", 1.0) if view.has(2) else np.zeros(1)
    return _linear(view.activation(), weight, bias)


def _linear(value: LayerOutput, weight: np.ndarray, bias: np.ndarray) -> Value:
    fits = value.shape == weight.shape[1:]
    need(fits, f"expected features and a matrix, got {value.shape} and {weight.shape[::-1]}")
    return Affine(value, weight, np.broadcast_to(bias, (1, len(weight))).reshape(-1))


# --- affine over channels or features, entry by entry ----------------------------------------------------------------


def _as_affine(value: Value) -> Affine:
    """Return the value as an affine function: of itself, where it is an activation."""
    if isinstance(value, Affine):
        return value
    need(len(value.shape) in (1, 3), f"expected images or features, got the shape {value.shape}")
    return Affine(value, np.eye(value.shape[0]), np.zeros(value.shape[0]))


def _with_constant(view: View, place: int) -> tuple[Affine, np.ndarray]:
    """Return the other input, and the constant at a place as one number for each channel or feature, in float64."""
    constant, (channels, *others) = view.array(place), view.shape(1 - place)
    per_channel = (1, channels, *(1 for _ in others))
    fits = constant.ndim <= len(per_channel) and all(
        given in (1, size) for given, size in zip(constant.shape[::-1], per_channel[::-1], strict=False)
    )
    need(fits, f"expected a constant for each channel of {view.shape(1 - place)}, got one of shape {constant.shape}")
    spread = np.broadcast_to(constant, per_channel).reshape(channels).astype(np.float64)
    return _as_affine(view.value(1 - place)), spread


def _sum(view: View, sign: int) -> Value:
    """Return first + sign * second."""
    for place, signs in ((1, (1, sign)), (0, (sign, 1))):
        if view.is_constant(place):
            value, constant = _with_constant(view, place)
            return Affine(value.source, signs[0] * value.weight, signs[0] * value.bias + signs[1] * constant)
    first, second = view.value(0), view.value(1)
    if isinstance(first, Affine) and isinstance(second, Affine) and _are_alike(first, second):
        return Affine(first.source, first.weight + sign * second.weight, first.bias + sign * second.bias)
    return view.join(torch.add if sign > 0 else torch.sub)


def _are_alike(first: Affine, second: Affine) -> bool:
    return (first.source, first.shape) == (second.source, second.shape)


def _multiply(view: View) -> Value:
    place = 1 if view.is_constant(1) else 0
    need(view.is_constant(place), "expected a constant as one factor")
    return _scaled(*_with_constant(view, place))


def _divide(view: View) -> Value:
    need(view.is_constant(1), "expected a constant divisor")
    value, constant = _with_constant(view, 1)
    return _scaled(value, 1 / constant)


def _scaled(value: Affine, factor: np.ndarray) -> Value:
    return Affine(value.source, factor[:, None] * value.weight, factor * value.bias)


def _split(view: View) -> list[Value]:
    axis, sizes = view.parts()
    need(axis == 1, "expected a Split along the channels")
    value, ends = _as_affine(view.value()), np.cumsum(sizes)
    rows = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return [Affine(value.source, value.weight[part], value.bias[part]) for part in rows]


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys(("Cast", "Dropout", "Identity"), _inert),
        **dict.fromkeys(SHAPES, _in_shape),
        "Add": lambda view: _sum(view, 1),
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalisation,
        "Concat": _concatenate,
        "Conv": _convolution,
        "Div": _divide,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "LeakyRelu": _leaky_relu,
        "MatMul": _matrix_product,
        "MaxPool": _max_pool,
        "Mul": _multiply,
        "Pad": _padded,
        "ReduceMean": _reduced_mean,
        "Relu": lambda view: view.layer(nn.ReLU()),
        "Sigmoid": lambda view: view.layer(nn.Sigmoid()),
        "Split": _split,
        "Sub": lambda view: _sum(view, -1),
        "Tanh": lambda view: view.layer(nn.Tanh()),
        "Transpose": _transpose,
    }
)
"""From an operator to what its outputs are: layers are appended on the way."""
