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
from abscert_plugin.reading.building import Activation, Affine, Rule, Value, View
from abscert_plugin.reading.layers import Difference, Permuted, Reshaped, Total, with_parameters

# --- layers ----------------------------------------------------------------------------------------------------------


def _convolution(view: View) -> Value:
    weight = view.array(1)
    outputs, inputs, *kernel = weight.shape
    window, groups = view.window(kernel), view.attribute("group", 1)
    bias = view.array(2) if view.has(2) else np.zeros(outputs)
    made = nn.Conv2d(inputs * groups, outputs, *_sliding(window), tuple(window.dilation), groups)  # type: ignore[arg-type]
    return view.layer(with_parameters(made, weight, bias))


def _sliding(window: Window) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return kernel, stride and padding of a window; torch pads both sides alike."""
    pads = window.begins, window.ends
    need(pads[0] == pads[1], f"expected the same padding on both sides of height and width, got {pads}")
    return tuple(window.kernel), tuple(window.stride), tuple(window.begins)


def _max_pool(view: View) -> Value:
    view.require(dilations=[1, 1], ceil_mode=0)
    kernel, stride, padding = _sliding(view.pool())
    # auto_LiRPA 0.3 refuses linear bounds where windows overlap or are padded, but looks at the heights alone
    tiles = [step == size and not pad for step, size, pad in zip(stride, kernel, padding, strict=True)]
    need(not tiles[0] or tiles[1], f"expected windows that tile the width as they tile the height, got {kernel}")
    return view.layer(nn.MaxPool2d(kernel, stride, padding))


def _average_pool(view: View) -> Value:
    view.require(dilations=[1, 1], ceil_mode=0)
    window = view.pool()
    counts = bool(view.attribute("count_include_pad", 0)) or not any(window.begins)
    need(counts, "expected padding that counts (count_include_pad = 1), got windows of several sizes")
    return _average(view, window)


def _global_average_pool(view: View) -> Value:
    return _average(view, view.window(view.shape()[1:]))


def _average(view: View, window: Window) -> Value:
    """Return the mean over windows as a convolution of each channel: auto_LiRPA 0.3 bounds an AvgPool2d wrongly.

    Its backward pass scales slopes up by the kernel, whatever the stride and the padding are.
    """
    channels = view.shape()[0]
    made = nn.Conv2d(channels, channels, *_sliding(window), groups=channels)  # type: ignore[arg-type]
    return view.layer(with_parameters(made, np.full(made.weight.shape, 1 / prod(window.kernel)), np.zeros(channels)))


def _batch_normalisation(view: View) -> Value:
    view.require(training_mode=0)
    scale, shift, mean, variance = (view.array(place) for place in range(1, 5))
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


def _linear(value: Activation, weight: np.ndarray, bias: np.ndarray) -> Value:
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
    return view.join(Total() if sign > 0 else Difference())


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
        "Conv": _convolution,
        "Div": _divide,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "LeakyRelu": _leaky_relu,
        "MatMul": _matrix_product,
        "MaxPool": _max_pool,
        "Mul": _multiply,
        "Relu": lambda view: view.layer(nn.ReLU()),
        "Sigmoid": lambda view: view.layer(nn.Sigmoid()),
        "Split": _split,
        "Sub": lambda view: _sum(view, -1),
        "Tanh": lambda view: view.layer(nn.Tanh()),
        "Transpose": _transpose,
    }
)
"""From an operator to what its outputs are: layers are appended on the way."""
