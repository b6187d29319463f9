"""Train the networks that side_by_side.py asks about: five plain ones and three of cells, on MNIST.

usage: python benchmarks/side_by_side_networks.py OUT [NAME...]

Writes OUT/NAME/deploy.onnx (and abstract.onnx beside those of cells), one network after the other; an OUT/NAME that is
whole stays as it is. About twenty minutes on one core.
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

import abscert_plugin as abscert


class Residual(nn.Module):
    """Two convolutions and what goes past them, added; a ReLU behind.

    Args:
        filters: channels that come in and go out.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(filters, filters, 3, padding=1), nn.ReLU(), nn.Conv2d(filters, filters, 3, padding=1)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [batch, filters, height, width] of the same."""
        return torch.relu(values + self.body(values))


def residual(channels: int) -> nn.Module:
    """Return a small residual network of images of 28 x 28: two blocks of 8 and 16 filters."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        Residual(8),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        Residual(16),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def ends(layer: nn.Module, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what intervals become in a layer of the network above."""
    if isinstance(layer, Residual):
        below, above = ends(layer.body, low, high)
        return torch.relu(low + below), torch.relu(high + above)
    if isinstance(layer, nn.Sequential):
        for part in layer:
            low, high = ends(part, low, high)
        return low, high
    if isinstance(layer, nn.Conv2d | nn.Linear):
        middle = layer((low + high) / 2)
        half = (high - low) / 2
        if isinstance(layer, nn.Linear):
            room = nn.functional.linear(half, layer.weight.abs())
        else:
            room = nn.functional.conv2d(half, layer.weight.abs(), None, layer.stride, layer.padding)
        return middle - room, middle + room
    return layer(low), layer(high)


def of_intervals(steps: int) -> Callable[..., torch.Tensor]:
    """Return a loss: a fiftieth that of intervals, the rest one gradient step to a corner of the ball (MTL-IBP).

    Args:
        steps: in which the radius rises to what it is asked for.
    """
    count = itertools.count(1)

    def loss(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, radius: float) -> torch.Tensor:
        radius *= min(next(count) / steps, 1.0)
        near = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(network(near), labels), near)
        attacked = network((images + radius * slope.sign()).clamp(-1, 1))
        low, high = ends(network, (images - radius).clamp(-1, 1), (images + radius).clamp(-1, 1))
        worst = torch.where(nn.functional.one_hot(labels, low.shape[1]).bool(), low, high)
        return 0.98 * nn.functional.cross_entropy(attacked, labels) + 0.02 * nn.functional.cross_entropy(worst, labels)

    return loss


@dataclass(frozen=True)
class Recipe:
    """How one of the networks is trained, and the radius that it is trained for and asked about."""

    method: str | Callable[..., torch.Tensor]
    epochs: int
    network: str | Callable[[int], nn.Module] = "cnn-2layer"
    radius: str = "0.1"
    cells: int | None = None
    activation: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


RECIPES: Final = {
    "ibp": Recipe("ibp", 5),
    "mtl-ibp": Recipe("mtl-ibp", 10, options={"share": 0.05}),
    "sabr": Recipe("sabr", 4),
    "tanh": Recipe("mtl-ibp", 5, activation="tanh", options={"share": 0.1}),
    "residual": Recipe(of_intervals(1200), 6, network=residual),
    "cells-2": Recipe("reachable", 5, cells=2, options={"loss": "mtl-ibp", "share": 0.1}),
    "cells-2-r0.3": Recipe("reachable", 8, cells=2, radius="0.3", options={"loss": "mtl-ibp", "share": 0.2}),
    "cells-4": Recipe("reachable", 4, network="dm-small", cells=4, options={"loss": "mtl-ibp", "share": 0.1}),
}


def make(name: str, recipe: Recipe, out: Path) -> None:
    """Train one of the networks into a folder, unless it is there."""
    if (out / name / "deploy.onnx").exists():
        return
    abscert.train(
        recipe.network,
        "mnist",
        method=recipe.method,
        radius=recipe.radius,
        cells=recipe.cells,
        activation=recipe.activation,
        epochs=recipe.epochs,
        out=out / name,
        resume=(out / name).exists(),
        progress=lambda epoch: print(name, epoch, flush=True),
        **recipe.options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; all where none is given")
    options = parser.parse_args()
    for name in options.names or RECIPES:
        make(name, RECIPES[name], options.out)


if __name__ == "__main__":
    main()
