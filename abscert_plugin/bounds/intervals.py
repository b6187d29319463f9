"""Interval arithmetic through a feed-forward network, differentiable: what a sound loss is made of.

It serves training alone, in the arithmetic of training; verdicts come from `verification`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.errors import ConfigError
from abscert_plugin.networks.param_ramp import ParamRamp


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

    def of(self, images: slice | Int64[Tensor, "part"]) -> "Box":
        """Return the boxes of some images of the batch."""
        return Box(self.center[images], self.radius[images])


@final
@dataclass(frozen=True, slots=True)
class IntervalMargins:
    """Bounds of a network on a batch of boxes.

    Args:
        lower: lower bounds of the label's logit minus each logit; 0 at the label itself.
        upper: upper bounds of the same.
        hidden: the box before each activation, in order.
    """

    lower: Float[Tensor, "batch classes"]
    upper: Float[Tensor, "batch classes"]
    hidden: tuple[Box, ...]


def bounded_layers(network: nn.Module) -> tuple[list[nn.Module], nn.Linear]:
    """Return the layers that interval arithmetic goes through, and the last one, which gives the logits.

    Raises:
        ConfigError: if the network is no sequence of layers, has one that interval arithmetic is not written for, or
            does not end with a linear one.
    """
    if not isinstance(network, nn.Sequential):
        raise ConfigError(f"interval arithmetic is written for a sequence of layers, got {type(network).__name__}")
    *layers, last = network
    if not isinstance(last, nn.Linear):
        raise ConfigError(f"expected a network that ends with a linear layer, got {type(last).__name__}")
    for layer in layers:
        if not isinstance(layer, _NORMS) and type(layer) not in _LAYERS:
            known = ", ".join(sorted(kind.__name__ for kind in (*_LAYERS, *_NORMS)))
            raise ConfigError(
                f"no interval arithmetic for the layer {type(layer).__name__}, only for {known}; "
                "plain, pgd and abstrain train any network"
            )
    return layers, last


def interval_margins(
    network: nn.Module,
    box: Box,
    labels: Int64[Tensor, "batch"],
    clean: Float[Tensor, "all *feature"] | None = None,
) -> IntervalMargins:
    """Return bounds of the margins over each box; the last layer is merged with the differences of logits.

    Soundness: by interval arithmetic, up to the rounding of the arithmetic that it runs in.

    Args:
        network: the layers.
        box: what the network may be fed.
        labels: the class whose margins are bounded, for each box.
        clean: the images themselves, or all those of a batch of which only some have a box: a BatchNorm layer in
            training mode normalises the boxes by their statistics.

    Raises:
        ConfigError: as `bounded_layers`.

    Source: Gowal et al. 2018, sections 3 and 4 (interval bounds, elision of the last layer).
    """
    layers, last = bounded_layers(network)
    box, _, hidden = propagated(layers, box, clean if records_statistics(network) else None)
    # index_select, since the gradient of weight[labels] adds up in another order from run to run on several threads
    rows = last.weight.index_select(0, labels)[:, None] - last.weight  # [batch, classes, features], zero at the label
    center = torch.einsum("bcf,bf->bc", rows, box.center)
    spread = torch.einsum("bcf,bf->bc", rows.abs(), box.radius)
    offset = 0.0 if last.bias is None else last.bias.index_select(0, labels)[:, None] - last.bias
    return IntervalMargins(center + offset - spread, center + offset + spread, hidden)


def propagated(
    layers: Sequence[nn.Module], box: Box, clean: Float[Tensor, "all *feature"] | None = None
) -> tuple[Box, Float[Tensor, "all *latent"] | None, tuple[Box, ...]]:
    """Return the box after some layers, what they make of the images themselves, and the box before each activation.

    Args:
        layers: of a network for which `bounded_layers` knows interval arithmetic.
        box: what the first of them may be fed.
        clean: as in `interval_margins`; where it is None, so is the second result.
    """
    hidden: list[Box] = []
    for layer in layers:
        if isinstance(layer, _NORMS):
            box = _normalised(layer, box, clean)
        else:
            if type(layer) in ACTIVATIONS:
                hidden.append(box)
            box = _LAYERS[type(layer)](layer, box)
        if clean is not None:
            clean = _unrecorded(layer, clean)
    return box, clean, tuple(hidden)


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


_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d)


def _normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, box: Box, clean: Tensor | None) -> Box:
    """Return the box after a BatchNorm layer: an affine function, by the clean batch's statistics while training."""
    if layer.training and clean is not None:
        axes = [axis for axis in range(clean.ndim) if axis != 1]
        mean, variance = clean.mean(dim=axes), clean.var(dim=axes, unbiased=False)
    else:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = layer.running_mean, layer.running_var
    scale = layer.weight / torch.sqrt(variance + layer.eps)
    shape = (1, -1, *[1] * (box.center.ndim - 2))
    center = (box.center - mean.view(shape)) * scale.view(shape) + layer.bias.view(shape)
    return Box(center, box.radius * scale.abs().view(shape))


def _unrecorded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Run a layer so that no BatchNorm counts the batch a second time."""
    if not isinstance(layer, _NORMS):
        return layer(inputs)
    return functional.batch_norm(inputs, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)


def records_statistics(network: nn.Module) -> bool:
    """Return whether a forward pass changes the network's running statistics."""
    return any(isinstance(layer, _NORMS) and layer.training for layer in network.modules())


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm layers use their running statistics for a while, as an attack on the network must see it."""
    norms = [layer for layer in network.modules() if isinstance(layer, _NORMS) and layer.training]
    for layer in norms:
        layer.eval()
    try:
        yield
    finally:
        for layer in norms:
            layer.train()


def initialise_for_intervals(network: nn.Module) -> None:
    """Draw weights so that the size of a box neither grows nor falls from layer to layer; the last layer is left.

    Source: Shi et al. 2021, section 4.1: normal with a standard deviation of sqrt(2 pi) / fan-in.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / fan_in)


ACTIVATIONS: Final = frozenset({nn.ReLU, nn.Sigmoid, nn.Tanh, ParamRamp})
"""The layers that a box is kept before."""
_LAYERS: Final[Mapping[type[nn.Module], Callable[[Any, Box], Box]]] = MappingProxyType(
    {
        nn.Linear: _linear,
        nn.Conv2d: _convolution,
        nn.MaxPool2d: _monotone,
        nn.Flatten: _reshape,
        **dict.fromkeys(ACTIVATIONS, _monotone),
    }
)


_TOLERANCE: Final = 0.5  # the ratio (tau) from which nothing is penalised


def warmup_regulariser(entering: Box, hidden: tuple[Box, ...]) -> Float[Tensor, ""]:
    """Return the penalty on boxes that grow from layer to layer and on activations of one sign.

    Args:
        entering: the network's input.
        hidden: the box before each activation.

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
        terms.append(sum(functional.relu(_TOLERANCE - value) for value in (growth, balance, spread)) / _TOLERANCE)
    return torch.stack([torch.as_tensor(term) for term in terms]).mean()


def _ratio(first: Tensor, second: Tensor) -> Tensor:
    """Return min(a / b, b / a), and 1 where one of them is 0, so that layers without a stable sign do not count."""
    smaller, larger = torch.minimum(first, second), torch.maximum(first, second)
    return torch.where(smaller > 0, smaller / larger.clamp(min=1e-12), torch.ones_like(first))
