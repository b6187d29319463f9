"""Loss landscapes: the loss of a trained network on a plane through its weights, or through its inputs.

Source: Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4: two random directions, each filter
of them (of a dense layer, each neuron's weights) scaled to the norm of the network's own filter, and, as in their code,
none along biases and BatchNorm; the paper's Figure 3, which was drawn with that tool.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid

_BATCH: Final = 500
Directions: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Two directions, each with one tensor for every tensor of weights."""


@final
@dataclass(frozen=True)
class Landscape:
    """Losses on a plane.

    Args:
        steps: the places along each of the two directions, in the same unit.
        losses: the mean loss at each pair of places, [first direction, second direction].
        curvature: the mean of the two second derivatives of the paraboloid that fits all losses best (least
            squares): how sharp the loss is as far as the plane goes. At the middle alone it would be noise.
    """

    steps: Float64[np.ndarray, "places"]
    losses: Float64[np.ndarray, "places places"]
    curvature: float

    @classmethod
    def of(cls, steps: Float64[np.ndarray, "places"], losses: Float64[np.ndarray, "places places"]) -> "Landscape":
        """Return the landscape with its curvature."""
        along, across = (places.ravel() for places in np.meshgrid(steps, steps, indexing="ij"))
        terms = np.stack([np.ones_like(along), along, across, along**2, along * across, across**2], axis=1)
        middle = losses[len(steps) // 2, len(steps) // 2]
        fitted, *_ = np.linalg.lstsq(terms, (losses - middle).ravel(), rcond=None)
        return cls(steps, losses, float(fitted[3] + fitted[5]))


def weight_landscape(
    network: nn.Module,
    grid: Grid | None,
    images: Tensor,
    labels: Int64[Tensor, "batch"],
    span: float,
    points: int,
    seed: int,
) -> Landscape:
    """Return the loss on a plane through the weights, along two filter-normalised random directions.

    The network's weights are as before afterwards.

    Args:
        network: in evaluation mode; takes interval images, or images on the training scale where there are no cells.
        grid: the cells; None where there are none.
        images: images on the pixel scale, float32 [batch, channels, height, width].
        labels: their classes.
        span: how far it goes to each side, in norms of the weights.
        points: places along each direction, odd and at least 3.
        seed: of the directions; networks of one shape get the same, and so do those of another first layer behind it.

    Raises:
        ConfigError: if span or points have no meaning.
    """
    steps = _steps(span, points)
    inputs = _encoded(grid, images)
    weights = [parameter for parameter in network.parameters() if parameter.ndim]
    first, second = _directions(weights, seed)
    before = [weight.detach().clone() for weight in weights]

    def loss(along: float, across: float) -> float:
        with torch.no_grad():
            for weight, start, one, other in zip(weights, before, first, second, strict=True):
                weight.copy_(start + along * one + across * other)
        return _loss(network, inputs, labels)

    try:
        return Landscape.of(steps, _losses(steps, loss))
    finally:
        with torch.no_grad():
            for weight, start in zip(weights, before, strict=True):
                weight.copy_(start)


def input_landscape(
    network: nn.Module,
    grid: Grid | None,
    images: Tensor,
    labels: Int64[Tensor, "batch"],
    span: float,
    points: int,
    seed: int,
) -> Landscape:
    """Return the loss on a plane through the images: along random signs, and across along others.

    Images are cut to the pixel range. Under abstraction the loss is constant within cells.

    Args:
        network: as in `weight_landscape`.
        grid: as there.
        images: as there.
        labels: as there.
        span: how far each pixel moves to each side, on the pixel scale.
        points: as there.
        seed: as there.

    Raises:
        ConfigError: if span or points have no meaning.
    """
    steps = _steps(span, points)
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(0, 2, images.shape, generator=generator) * 2.0 - 1 for _ in range(2))

    def loss(along: float, across: float) -> float:
        return _loss(network, _encoded(grid, (images + along * first + across * second).clamp(0, 1)), labels)

    return Landscape.of(steps, _losses(steps, loss))


def _steps(span: float, points: int) -> np.ndarray:
    if not (span > 0 and np.isfinite(span)):
        raise ConfigError(f"expected a span above 0, got {span}")
    if points < 3 or points % 2 == 0:
        raise ConfigError(f"expected an odd number of points, at least 3, got {points}")
    return np.linspace(-span, span, points)


def _losses(steps: np.ndarray, loss: Callable[[float, float], float]) -> np.ndarray:
    return np.array([[loss(float(along), float(across)) for across in steps] for along in steps])


def _encoded(grid: Grid | None, images: Tensor) -> Tensor:
    return 2 * images - 1 if grid is None else Abstraction(grid)(images)


def _loss(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        parts = zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True)
        total = sum(float(functional.cross_entropy(network(some), those, reduction="sum")) for some, those in parts)
    return total / len(labels)


def _directions(weights: list[nn.Parameter], seed: int) -> Directions:
    """Return two random directions whose filters have the norms of the weights' own; biases stay where they are.

    The last layer is drawn first: networks that differ in their first layer alone, as those of cells do from those of
    plain images, get the same random numbers in all others.
    """

    def direction(generator: torch.Generator) -> tuple[Tensor, ...]:
        drawn = [torch.randn(weight.shape, generator=generator) for weight in reversed(weights)]
        return tuple(
            _normalised(noise, weight.detach()) for noise, weight in zip(reversed(drawn), weights, strict=True)
        )

    return direction(torch.Generator().manual_seed(2 * seed)), direction(torch.Generator().manual_seed(2 * seed + 1))


def _normalised(noise: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    norms = weight.flatten(1).norm(dim=1)
    own = noise.flatten(1).norm(dim=1)
    shape = (-1, *[1] * (weight.ndim - 1))
    return noise * (norms.reshape(shape) / own.clamp(min=1e-12).reshape(shape))
