"""The networks of the paper's ImageNet experiments: AlexNet, VGG11, Inception V1 (GoogLeNet) and ResNet18.

Layers and sizes are those of torchvision's models, whose published parameter counts they have; the first layer alone
differs, since an interval image has twice the channels. The papers' activation is ReLU; any other of the table takes
its place everywhere. Each network is a sequence that ends with a linear layer. Images of other sizes than 224 x 224
fit, from a least size on, since the last map is averaged to a fixed size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from abscert_plugin.errors import ConfigError
from abscert_plugin.networks.activation import ACTIVATIONS, Activation
from abscert_plugin.networks.shape import InputShape, windows

# The forwards of this module have no shapes in their types: a check of shapes would be part of a trace.


@final
class AdaptiveAverage(nn.Module):
    """The average pooling of any map to `size` x `size`, as `nn.AdaptiveAvgPool2d` has it, in two matrix products.

    The ONNX exporter has no operator for `nn.AdaptiveAvgPool2d` where the map is not a multiple of the size.

    Args:
        height, width: of the map.
        size: height and width of what comes out; values repeat where it exceeds those of the map.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        # both follow from the sizes, so no checkpoint holds them
        self.register_buffer("rows", _averaging(height, size), persistent=False)
        self.register_buffer("columns", _averaging(width, size).T.contiguous(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return the averages, [batch, channels, size, size], of [batch, channels, height, width]."""
        return self.rows @ values @ self.columns


@final
class Branches(nn.Module):
    """Branches that read the same values; their channels stand one after another."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, values: Tensor) -> Tensor:
        """Return the channels of all branches, [batch, channels, height, width]."""
        return torch.cat([branch(values) for branch in self.branches], dim=1)


@final
class Residual(nn.Module):
    """The activation of the sum of a body and a shortcut around it."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, values: Tensor) -> Tensor:
        """Return the activations, [batch, channels, height, width]."""
        return self.activation(self.body(values) + self.shortcut(values))


@final
class Stack:
    """Layers that are put one after another, and the shape of what the last of them gives out.

    Args:
        shape: of what the first layer is fed, without the batch.
        activation: the activation function.
        epsilon: that of the BatchNorm after each convolution, which then has no bias; None where there is none.
    """

    def __init__(self, shape: tuple[int, ...], activation: Activation, epsilon: float | None) -> None:
        self.layers: list[nn.Module] = []
        self.shape = shape
        self._activation = activation
        self._epsilon = epsilon

    def convolve(self, filters: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        """Add a convolution and its BatchNorm."""
        has_bias = self._epsilon is None
        self.layers.append(nn.Conv2d(self.shape[0], filters, kernel, stride, padding, bias=has_bias))
        self.shape = filters, *(windows(size, kernel, stride, padding) for size in self.shape[1:])
        if self._epsilon is not None:
            self.layers.append(nn.BatchNorm2d(filters, self._epsilon))

    def connect(self, width: int) -> None:
        """Add a linear layer."""
        self.layers.append(nn.Linear(self.shape[0], width))
        self.shape = (width,)

    def activation(self) -> nn.Module:
        """Return an activation of what the last layer gives out."""
        return ACTIVATIONS[self._activation](self.shape)

    def beside(self) -> "Stack":
        """Return a stack without layers that is fed what this one gives out."""
        return Stack(self.shape, self._activation, self._epsilon)

    def put(self, *stages: "Stage") -> nn.Sequential:
        """Add the layers of these stages, and return all layers as one."""
        for stage in stages:
            stage.add_to(self)
        return nn.Sequential(*self.layers)


@runtime_checkable
class Stage(Protocol):
    """A part of a network, as a plan lists it."""

    def add_to(self, stack: Stack) -> None:
        """Put its layers on the stack."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Filters:
    """A convolution with an activation: number of filters, kernel size, stride and padding."""

    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def add_to(self, stack: Stack) -> None:
        """Put its layers on the stack."""
        stack.convolve(self.filters, self.kernel, self.stride, self.padding)
        stack.layers.append(stack.activation())


@final
@dataclass(frozen=True, slots=True)
class MaxPool:
    """A max pooling; `is_ceiled`: whether a last window may reach over the lower and right ends."""

    kernel: int
    stride: int
    padding: int = 0
    is_ceiled: bool = False

    def add_to(self, stack: Stack) -> None:
        """Put its layer on the stack."""
        stack.layers.append(nn.MaxPool2d(self.kernel, self.stride, self.padding, ceil_mode=self.is_ceiled))
        more = self.stride - 1 if self.is_ceiled else 0
        sizes = (windows(size + more, self.kernel, self.stride, self.padding) for size in stack.shape[1:])
        stack.shape = stack.shape[0], *sizes


@final
@dataclass(frozen=True, slots=True)
class Inception:
    """An inception block, by the filters of its branches.

    Args:
        one: those of the 1x1 convolution.
        three: those of a 1x1 and of the 3x3 convolution behind it.
        five: those of a 1x1 convolution and of the one behind it, 5x5 in the paper and 3x3 in torchvision and here.
        pooled: those of the 1x1 convolution behind a max pooling.

    Source: Szegedy et al. 2015, figure 2(b).
    """

    one: int
    three: tuple[int, int]
    five: tuple[int, int]
    pooled: int

    def add_to(self, stack: Stack) -> None:
        """Put the block on the stack."""
        branches = [
            stack.beside().put(Filters(self.one, 1)),
            stack.beside().put(Filters(self.three[0], 1), Filters(self.three[1], 3, padding=1)),
            stack.beside().put(Filters(self.five[0], 1), Filters(self.five[1], 3, padding=1)),
            stack.beside().put(MaxPool(3, 1, 1), Filters(self.pooled, 1)),
        ]
        stack.layers.append(Branches(branches))
        filters = self.one + self.three[1] + self.five[1] + self.pooled
        stack.shape = filters, *stack.shape[1:]


@final
@dataclass(frozen=True, slots=True)
class ResidualBlock:
    """Two convolutions of 3x3, the first with a stride, and a shortcut around both; 1x1 where the shape changes.

    Source: He et al. 2016, figure 2 and option B of section 4.1.
    """

    filters: int
    stride: int = 1

    def add_to(self, stack: Stack) -> None:
        """Put the block on the stack."""
        shortcut, body = stack.beside(), stack.beside()
        if self.stride != 1 or stack.shape[0] != self.filters:
            shortcut.convolve(self.filters, 1, self.stride)
        Filters(self.filters, 3, self.stride, 1).add_to(body)
        body.convolve(self.filters, 3, padding=1)
        stack.layers.append(Residual(body.put(), shortcut.put(), body.activation()))
        stack.shape = body.shape


@final
@dataclass(frozen=True, slots=True)
class Average:
    """The average pooling of the last map to `size` x `size`, and a flattening."""

    size: int = 1

    def add_to(self, stack: Stack) -> None:
        """Put its layers on the stack."""
        channels, height, width = stack.shape
        if height % self.size or width % self.size:
            stack.layers.append(AdaptiveAverage(height, width, self.size))
        elif (height, width) != (self.size, self.size):  # one operator, which verifiers read
            stack.layers.append(nn.AvgPool2d((height // self.size, width // self.size)))
        stack.layers.append(nn.Flatten())
        stack.shape = (channels * self.size**2,)


@final
@dataclass(frozen=True, slots=True)
class Dropout:
    """A dropout: the share of values that are set to 0 in training."""

    share: float

    def add_to(self, stack: Stack) -> None:
        """Put its layer on the stack."""
        stack.layers.append(nn.Dropout(self.share))


@final
@dataclass(frozen=True, slots=True)
class Hidden:
    """A fully connected hidden layer of this width."""

    width: int

    def add_to(self, stack: Stack) -> None:
        """Put its layers on the stack."""
        stack.connect(self.width)
        stack.layers.append(stack.activation())


@final
@dataclass(frozen=True, slots=True)
class ImageNetPlan:
    """A network: its stages, then a linear layer to the logits.

    Args:
        title: its name in messages.
        least_size: least height and width of an image; its poolings leave nothing of a smaller one.
        stages: its parts.
        epsilon: that of the BatchNorm after each convolution; None where there is none.
    """

    title: str
    least_size: int
    stages: tuple[Stage, ...]
    epsilon: float | None = None

    def build(self, shape: InputShape, classes: int, activation: Activation) -> nn.Sequential:
        """Return the network.

        Args:
            shape: that of its input, interval image or plain image.
            classes: number of classes.
            activation: its activation function.

        Raises:
            ConfigError: if the image is smaller than the least size.
        """
        _, height, width = shape
        if min(height, width) < self.least_size:
            raise ConfigError(
                f"expected images of at least {self.least_size}x{self.least_size} pixels for {self.title}, "
                f"got {height}x{width}"
            )
        stack = Stack(shape, activation, self.epsilon)
        stack.put(*self.stages)
        stack.connect(classes)
        return stack.put()


def _averaging(size: int, count: int) -> Tensor:
    """Return the matrix [count, size] that averages `size` values over windows; they overlap unless they divide it."""
    starts = [place * size // count for place in range(count)]
    ends = [-(-(place + 1) * size // count) for place in range(count)]
    places = torch.arange(size)
    rows = [((places >= start) & (places < end)) / (end - start) for start, end in zip(starts, ends, strict=True)]
    return torch.stack(rows)


def _column(*filters: int) -> tuple[Stage, ...]:
    return *(Filters(count, 3, padding=1) for count in filters), MaxPool(2, 2)


ALEXNET: Final = ImageNetPlan(
    "AlexNet",
    63,
    (
        Filters(64, 11, 4, 2),
        MaxPool(3, 2),
        Filters(192, 5, padding=2),
        MaxPool(3, 2),
        Filters(384, 3, padding=1),
        Filters(256, 3, padding=1),
        Filters(256, 3, padding=1),
        MaxPool(3, 2),
        Average(6),
        *(2 * (Dropout(0.5), Hidden(4096))),
    ),
)
"""One column, without response normalisation.

Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", as torchvision has it. That
of 2012 has two columns, of 96 to 384 filters in all, and about as many parameters (60 million).
"""
VGG11: Final = ImageNetPlan(
    "VGG11",
    32,
    (
        *_column(64),
        *_column(128),
        *_column(256, 256),
        *_column(512, 512),
        *_column(512, 512),
        Average(7),
        *(2 * (Hidden(4096), Dropout(0.5))),
    ),
)
"""Without BatchNorm. Source: Simonyan and Zisserman 2015, table 1, column A."""
INCEPTION_V1: Final = ImageNetPlan(
    "Inception V1",
    15,
    (
        Filters(64, 7, 2, 3),
        MaxPool(3, 2, is_ceiled=True),
        Filters(64, 1),
        Filters(192, 3, padding=1),
        MaxPool(3, 2, is_ceiled=True),
        Inception(64, (96, 128), (16, 32), 32),
        Inception(128, (128, 192), (32, 96), 64),
        MaxPool(3, 2, is_ceiled=True),
        Inception(192, (96, 208), (16, 48), 64),
        Inception(160, (112, 224), (24, 64), 64),
        Inception(128, (128, 256), (24, 64), 64),
        Inception(112, (144, 288), (32, 64), 64),
        Inception(256, (160, 320), (32, 128), 128),
        MaxPool(2, 2, is_ceiled=True),
        Inception(256, (160, 320), (32, 128), 128),
        Inception(384, (192, 384), (48, 128), 128),
        Average(),
        Dropout(0.2),
    ),
    epsilon=1e-3,
)
"""GoogLeNet with BatchNorm in place of response normalisation, without the auxiliary heads, in training as well.

Source: Szegedy et al. 2015, table 1, as torchvision has it: 3x3 for 5x5, and a last max pooling of 2x2. It has 6.6
million parameters; torchvision's auxiliary heads, which serve training alone, add 6.4 million, and only with them is
it in the range that the paper states, of 11 to 138 million.
"""
RESNET18: Final = ImageNetPlan(
    "ResNet18",
    1,
    (
        Filters(64, 7, 2, 3),
        MaxPool(3, 2, 1),
        ResidualBlock(64),
        ResidualBlock(64),
        *(block for filters in (128, 256, 512) for block in (ResidualBlock(filters, 2), ResidualBlock(filters))),
        Average(),
    ),
    epsilon=1e-5,
)
"""Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1."""
