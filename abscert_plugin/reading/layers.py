"""Torch layers for the ONNX operators that auto_LiRPA can bound: one function per operator, in a table.

Written here because onnx2pytorch 0.6.0 and onnx2torch 1.5.15 import torchvision, and what they make of a flattening,
of MatMul and Add, or of the mid-points in front of a wrapped model is not bounded, or not tightly, by auto_LiRPA 0.3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn


class UnsupportedNodeError(Exception):
    """A node that cannot become a layer; says what is wrong with it, for a message that says where it is."""


@final
@dataclass(frozen=True, slots=True)
class Activation:
    """What a layer gives out.

    Args:
        slot: its place in the network: 0 is the input, k + 1 is what layer k gives out.
        shape: its shape without the batch.
    """

    slot: int
    shape: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Affine:
    """weight @ source + bias over the channels (or features), not yet a layer, so that steps after it fall together.

    Args:
        source: what it reads.
        weight: float64 [out, in].
        bias: float64 [out].
    """

    source: Activation
    weight: np.ndarray
    bias: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape without the batch."""
        return (len(self.bias), *self.source.shape[1:])

    def layer(self) -> nn.Module:
        """Return it as a layer: a convolution of one pixel, or a linear layer."""
        outputs, inputs = self.weight.shape
        made = nn.Conv2d(inputs, outputs, 1) if len(self.shape) == 3 else nn.Linear(inputs, outputs)
        return with_parameters(made, self.weight.reshape(made.weight.shape), self.bias)


Value: TypeAlias = Activation | Affine
Layers: TypeAlias = Sequence[nn.Module]


@final
@dataclass(frozen=True, slots=True)
class NodeView:
    """A node whose inputs are known.

    Args:
        attributes: its attributes.
        inputs: values, constants (arrays), or None where an argument was left out.
    """

    attributes: Mapping[str, Any]
    inputs: tuple[Value | np.ndarray | None, ...]

    def constant(self, place: int) -> np.ndarray:
        """Return the input at `place`, which has to be a constant."""
        found = self.inputs[place] if place < len(self.inputs) else None
        if not isinstance(found, np.ndarray):
            raise UnsupportedNodeError(f"expected a constant as input {place}")
        return found

    def optional_constant(self, place: int) -> np.ndarray | None:
        """Return the constant at `place`, None where it was left out."""
        return self.constant(place) if place < len(self.inputs) and self.inputs[place] is not None else None

    def value(self, place: int = 0) -> Value:
        """Return the input at `place`, which has to depend on the image."""
        found = self.inputs[place]
        if not isinstance(found, Activation | Affine):
            raise UnsupportedNodeError(f"expected something that depends on the image as input {place}")
        return found

    def require(self, **expected: Any) -> None:
        """Raise unless every attribute that is there has the expected value."""
        for name, value in expected.items():
            if self.attributes.get(name, value) != value:
                raise UnsupportedNodeError(f"expected {name} = {value}, got {self.attributes[name]}")


def with_parameters(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    """Return the layer with these weights."""
    layer.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float32), requires_grad=False)
    layer.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32), requires_grad=False)
    return layer


@final
class Total(nn.Module):
    """The sum of two activations."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the sum."""
        return first + second


@final
class Difference(nn.Module):
    """The difference of two activations."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the difference."""
        return first - second


@final
class Permuted(nn.Module):
    """The axes in another order; `order` counts the batch, which stays first."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, values: Tensor) -> Tensor:
        """Return the values with their axes in this order."""
        return values.permute(self.order)


@final
class Reshaped(nn.Module):
    """The values of each image in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        """Return the values in this shape; the batch is what is left over, not a number fixed by tracing."""
        return values.reshape(-1, *self.shape)


# --- operators that become layers ------------------------------------------------------------------------------------


def _convolution(node: NodeView) -> Layers:
    weight = node.constant(1)
    bias = node.optional_constant(2)
    outputs, inputs, *kernel = weight.shape
    _require_planes(node, kernel)
    stride = tuple(node.attributes.get("strides", (1, 1)))
    dilation = tuple(node.attributes.get("dilations", (1, 1)))
    groups = node.attributes.get("group", 1)
    padding = _padding(node, tuple(kernel), stride, dilation)
    made = nn.Conv2d(inputs * groups, outputs, tuple(kernel), stride, padding, dilation, groups)
    return [with_parameters(made, weight, np.zeros(outputs) if bias is None else bias)]


def _require_planes(node: NodeView, kernel: Sequence[int]) -> None:
    """Raise unless a window of two axes slides over images: torch would take other ranks for something else."""
    if len(kernel) != 2 or len(node.value().shape) != 3:
        raise UnsupportedNodeError(
            f"expected a window over the 2 axes of images, got one over {len(kernel)} of {node.value().shape}"
        )


def _max_pool(node: NodeView) -> Layers:
    node.require(ceil_mode=0, storage_order=0, dilations=[1, 1])
    kernel = tuple(node.attributes["kernel_shape"])
    _require_planes(node, kernel)
    stride = tuple(node.attributes.get("strides", (1, 1)))
    padding = _padding(node, kernel, stride, (1, 1))
    # auto_LiRPA 0.3 refuses linear bounds where windows overlap or are padded, but looks at the heights alone
    if (stride[0] == kernel[0] and not padding[0]) and (stride[1] != kernel[1] or padding[1]):
        raise UnsupportedNodeError(f"expected windows that tile the width as they tile the height, got {kernel}")
    return [nn.MaxPool2d(kernel, stride, padding)]


def _average_pool(node: NodeView) -> Layers:
    node.require(ceil_mode=0, dilations=[1, 1])
    kernel = tuple(node.attributes["kernel_shape"])
    _require_planes(node, kernel)
    stride = tuple(node.attributes.get("strides", (1, 1)))
    padding = _padding(node, kernel, stride, (1, 1))
    if any(padding) and not node.attributes.get("count_include_pad", 0):
        raise UnsupportedNodeError("expected padding that counts (count_include_pad = 1), got windows of several sizes")
    return [_average(node.value().shape[0], kernel, stride, padding)]


def _global_average_pool(node: NodeView) -> Layers:
    channels, *sizes = node.value().shape
    _require_planes(node, sizes)
    return [_average(channels, tuple(sizes), (1, 1), (0, 0))]


def _average(channels: int, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, int]) -> nn.Module:
    """Return the mean over windows as a convolution of each channel: auto_LiRPA 0.3 bounds an AvgPool2d wrongly.

    Its backward pass scales slopes up by the kernel, whatever the stride and the padding are.
    """
    made = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels)  # type: ignore[arg-type]
    return with_parameters(made, np.full(made.weight.shape, 1 / prod(kernel)), np.zeros(channels))


def _leaky_relu(node: NodeView) -> Layers:
    alpha = node.attributes.get("alpha", 0.01)
    if not 0 <= alpha <= 1:  # its lines and intervals are wrong beyond
        raise UnsupportedNodeError(f"expected alpha from 0 to 1, got {alpha:g}")
    return [nn.LeakyReLU(alpha)]


def _padding(
    node: NodeView, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, int]:
    """Return the padding of height and width, the same on both sides."""
    kind = node.attributes.get("auto_pad", b"NOTSET")
    pads = tuple(node.attributes.get("pads", (0, 0, 0, 0)))
    if kind in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = node.value().shape[1:]
        spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
        needed = [
            max((-(-size // step) - 1) * step + span - size, 0)
            for size, step, span in zip(sizes, stride, spans, strict=True)
        ]
        pads = (*(total // 2 for total in needed), *(total - total // 2 for total in needed))
    elif kind == b"VALID":
        pads = (0, 0, 0, 0)
    if len(pads) != 4 or pads[:2] != pads[2:]:
        raise UnsupportedNodeError(f"expected the same padding on both sides of height and width, got {pads}")
    return pads[0], pads[1]


def _batch_normalisation(node: NodeView) -> Layers:
    node.require(training_mode=0)
    scale, shift, mean, variance = (node.constant(place) for place in range(1, 5))
    kind = nn.BatchNorm2d if len(node.value().shape) == 3 else nn.BatchNorm1d
    made = kind(len(scale), eps=node.attributes.get("epsilon", 1e-5))
    made.running_mean = torch.tensor(mean, dtype=torch.float32)
    made.running_var = torch.tensor(variance, dtype=torch.float32)
    return [with_parameters(made, scale, shift)]


def _flatten(node: NodeView) -> Layers:
    shape = node.value().shape
    if node.attributes.get("axis", 1) not in (1, -len(shape)):
        raise UnsupportedNodeError(f"expected axis = 1, got {node.attributes['axis']}")
    return [nn.Flatten()] if len(shape) > 1 else []


def _reshape(node: NodeView) -> Layers:
    """Return the reshaping of each image; sizes that stand for the batch are -1 here."""
    shape, target = node.value().shape, [int(size) for size in node.constant(1)]
    if 0 in target:
        node.require(allowzero=0)
    sizes = [shape[place - 1] if size == 0 and place else size for place, size in enumerate(target)][1:]
    if sizes.count(-1) == 1:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(shape) // known if known else 0
    # the size of the batch itself may be anything: what each image holds tells whether it stays the batch
    if prod(sizes) != prod(shape) or min(sizes, default=0) < 1:
        raise UnsupportedNodeError(f"expected a shape that keeps the batch apart, got {target}")
    return _to_shape(shape, tuple(sizes))


def _squeeze(node: NodeView) -> Layers:
    shape = node.value().shape
    axes = _axes(node)
    places = {axis % (len(shape) + 1) for axis in axes}
    if 0 in places:
        raise UnsupportedNodeError("expected the batch to stay")
    return _to_shape(shape, tuple(size for place, size in enumerate(shape, 1) if place not in places))


def _unsqueeze(node: NodeView) -> Layers:
    shape = node.value().shape
    axes = _axes(node)
    places = {axis % (len(shape) + 1 + len(axes)) for axis in axes}
    if 0 in places:
        raise UnsupportedNodeError("expected the batch to stay first")
    old = iter(shape)
    return _to_shape(shape, tuple(1 if p in places else next(old) for p in range(1, len(shape) + len(axes) + 1)))


def _axes(node: NodeView) -> list[int]:
    return list(node.attributes["axes"]) if "axes" in node.attributes else node.constant(1).tolist()


def _to_shape(shape: tuple[int, ...], target: tuple[int, ...]) -> Layers:
    if target == shape:
        return []
    return [nn.Flatten()] if len(target) == 1 else [Reshaped(target)]


def _transpose(node: NodeView) -> Layers:
    rank = len(node.value().shape) + 1
    order = tuple(node.attributes.get("perm", reversed(range(rank))))
    if order[0] != 0:
        raise UnsupportedNodeError(f"expected the batch to stay first, got perm = {order}")
    return [] if order == tuple(range(rank)) else [Permuted(order)]


def _cast(node: NodeView) -> Layers:
    node.require(to=1)  # float32
    return []


def _dropout(node: NodeView) -> Layers:
    training = node.optional_constant(2)
    if training is not None and training.any():
        raise UnsupportedNodeError("expected a Dropout that does nothing, as in inference")
    return []


LAYERS: Final[Mapping[str, Callable[[NodeView], Layers]]] = MappingProxyType(
    {
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalisation,
        "Cast": _cast,
        "Conv": _convolution,
        "Dropout": _dropout,
        "Flatten": _flatten,
        "GlobalAveragePool": _global_average_pool,
        "Identity": lambda node: [],  # noqa: ARG005
        "LeakyRelu": _leaky_relu,
        "MaxPool": _max_pool,
        "Relu": lambda node: [nn.ReLU()],  # noqa: ARG005
        "Reshape": _reshape,
        "Sigmoid": lambda node: [nn.Sigmoid()],  # noqa: ARG005
        "Squeeze": _squeeze,
        "Tanh": lambda node: [nn.Tanh()],  # noqa: ARG005
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
"""From an operator to the layers that compute it, one after another; none where it changes nothing."""
