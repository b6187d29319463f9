"""Interval arithmetic through a feed-forward network, differentiable: what a sound loss is made of.

It serves training alone, in the arithmetic of training; verdicts come from `verification`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Box:
    """All tensors between two ends, by centre and radius.

    Args:
        center: the middle.
        radius: half the width, at least 0, of the same shape.
    """

    center: Float[Tensor, "batch *feature"]
    radius: Float[Tensor, "batch *feature"]

    @classmethod
    def between(cls, lower: Float[Tensor, "batch *feature"], upper: Float[Tensor, "batch *feature"]) -> "Box":
        """Return the box with these ends."""
        return cls((lower + upper) / 2, (upper - lower) / 2)

    @property
    def lower(self) -> Float[Tensor, "batch *feature"]:
        """The lower end."""
        return self.center - self.radius

    @property
    def upper(self) -> Float[Tensor, "batch *feature"]:
        """The upper end."""
        return self.center + self.radius


@final
@dataclass(frozen=True, slots=True)
class IntervalMargins:
    """Bounds of a network on a batch of boxes.

    Args:
        lower: lower bounds of the label's logit minus each logit; 0 at the label itself.
        hidden: the box before each activation, in order.
    """

    lower: Float[Tensor, "batch classes"]
    hidden: tuple[Box, ...]


def interval_margins(network: nn.Sequential, box: Box, labels: Int64[Tensor, "batch"]) -> IntervalMargins:
    """Return bounds of the margins over each box; the last layer is merged with the differences of logits.

    Soundness: by interval arithmetic, up to the rounding of the arithmetic that it runs in.

    Raises:
        ConfigError: if the network has a layer that interval arithmetic is not written for, or does not end with a
            linear one.

    Source: Gowal et al. 2018, sections 3 and 4 (interval bounds, elision of the last layer).
    """
    *layers, last = network
    if not isinstance(last, nn.Linear):
        raise ConfigError(f"expected a network that ends with a linear layer, got {type(last).__name__}")
    hidden: list[Box] = []
    for layer in layers:
        step = _LAYERS.get(type(layer))
        if step is None:
            raise ConfigError(f"no interval arithmetic for the layer {type(layer).__name__}; use --method abstrain")
        if type(layer) in _ACTIVATIONS:
            hidden.append(box)
        box = step(layer, box)
    rows = last.weight[labels][:, None] - last.weight  # [batch, classes, features], zero at the label
    center = torch.einsum("bcf,bf->bc", rows, box.center)
    spread = torch.einsum("bcf,bf->bc", rows.abs(), box.radius)
    offset = 0.0 if last.bias is None else last.bias[labels][:, None] - last.bias
    return IntervalMargins(center + offset - spread, tuple(hidden))


def _linear(layer: nn.Linear, box: Box) -> Box:
    return Box(layer(box.center), functional.linear(box.radius, layer.weight.abs()))


def _convolution(layer: nn.Conv2d, box: Box) -> Box:
    spread = functional.conv2d(
        box.radius, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    return Box(layer(box.center), spread)


def _monotone(layer: nn.Module, box: Box) -> Box:
    return Box.between(layer(box.lower), layer(box.upper))


def _reshape(layer: nn.Module, box: Box) -> Box:
    return Box(layer(box.center), layer(box.radius))


_ACTIVATIONS: Final = frozenset({nn.ReLU, nn.Sigmoid, nn.Tanh})
_LAYERS: Final[Mapping[type[nn.Module], Callable[[Any, Box], Box]]] = MappingProxyType(
    {
        nn.Linear: _linear,
        nn.Conv2d: _convolution,
        nn.MaxPool2d: _monotone,
        nn.Flatten: _reshape,
        **dict.fromkeys(_ACTIVATIONS, _monotone),
    }
)


def warmup_regulariser(entering: Box, hidden: tuple[Box, ...], tolerance: float = 0.5) -> Float[Tensor, ""]:
    """Return the penalty on boxes that grow from layer to layer and on activations of one sign.

    Args:
        entering: the network's input.
        hidden: the box before each activation.
        tolerance: the ratio (tau) from which nothing is penalised.

    Source: Shi et al. 2021, "Fast Certified Robust Training with Short Warmup", equations 8 to 11.
    """
    first = entering.radius.mean()
    terms = []
    for box in hidden:
        growth = first / box.radius.mean().clamp(min=1e-12)
        above, below = box.lower > 0, box.upper < 0
        mean = box.center.mean()
        deviation = (box.center - mean) ** 2
        count = box.center.numel()
        balance = _ratio((box.center * above).sum() / count, -(box.center * below).sum() / count)
        spread = _ratio((deviation * above).sum(), (deviation * below).sum())
        terms.append(sum(functional.relu(tolerance - value) for value in (growth, balance, spread)) / tolerance)
    return torch.stack([torch.as_tensor(term) for term in terms]).mean()


def _ratio(first: Tensor, second: Tensor) -> Tensor:
    """Return min(a / b, b / a), and 1 where one of them is 0, so that layers without a stable sign do not count."""
    smaller, larger = torch.minimum(first, second), torch.maximum(first, second)
    return torch.where(smaller > 0, smaller / larger.clamp(min=1e-12), torch.ones_like(first))
