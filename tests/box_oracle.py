"""Small networks, boxes of interval images, and the least margins in them, without auto_LiRPA."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.compat import load_lirpa

SHAPE = (2, 6, 6)
CLASSES = 4
ROUNDING = 1e-5  # of float32 logits of order 1, computed one by one and in bounds


def lirpa_or_skip() -> Any:
    try:
        return load_lirpa()
    except ConfigError as error:
        pytest.skip(str(error), allow_module_level=True)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(108, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.norm(self.second(x)))
        return self.last(x.flatten(1))


def _convolutional(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1),
        activation(),
        nn.Flatten(),
        nn.Linear(27, 12),
        activation(),
        nn.Linear(12, CLASSES),
    )


def _normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, CLASSES),
    )


def _pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, 1, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(27, CLASSES))


BUILDERS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": lambda: _convolutional(nn.ReLU),
    "sigmoid": lambda: _convolutional(nn.Sigmoid),
    "tanh": lambda: _convolutional(nn.Tanh),
    "batch-norm": _normalised,
    "max-pool": lambda: _pooled(nn.MaxPool2d(2)),
    "average-pool": lambda: _pooled(nn.AvgPool2d(2)),
    "residual": Residual,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)),
    "convolution-last": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, CLASSES, 3), nn.Flatten()
    ),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """Return a network in evaluation mode whose normalisations have seen data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = BUILDERS[name]()
        built.train()
        with torch.no_grad():
            for _ in range(3):
                built(torch.rand(8, *SHAPE) * 2 - 1)
    return built.eval()


def boxes(count: int, free: float, seed: int = 0, grid: Grid | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes between reachable interval images of which a share of pixels is free, and labels."""
    grid = grid or Grid(7)
    random = np.random.default_rng(seed)
    shape = (count, SHAPE[0] // 2, *SHAPE[1:])
    low = random.integers(0, grid.cells, shape)
    high = np.where(random.random(shape) < free, random.integers(low, grid.cells), low)
    ends = [torch.from_numpy(grid.ends(cell.astype(np.uint8))) for cell in (low, high)]
    return ends[0], ends[1], torch.from_numpy(random.integers(0, CLASSES, count))


def margins_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logit[label] - logit[j] for the other j, written as loops."""
    return torch.stack(
        [
            torch.stack([row[label] - row[other] for other in range(len(row)) if other != label])
            for row, label in zip(logits, labels.tolist(), strict=True)
        ]
    )


def sampled_least_margins(net: nn.Module, lower: Tensor, upper: Tensor, labels: Tensor, count: int = 400) -> Tensor:
    """Return the least margins over random points and corners of each box."""
    generator = torch.Generator().manual_seed(1)
    share = torch.rand((count, *lower.shape), generator=generator)
    share[: count // 2].round_()
    points = torch.lerp(lower, upper, share)
    points = torch.maximum(torch.minimum(points, upper), lower)
    with torch.no_grad():
        logits = net(points.flatten(0, 1))
    margins = margins_of(logits, labels.repeat(count))
    return margins.unflatten(0, (count, len(labels))).amin(0)


def reachable_least_margins(net: nn.Module, grid: Grid, low: np.ndarray, high: np.ndarray, label: int) -> Tensor:
    """Return the least margins over every combination of cells from `low` to `high`, arrays [1, 2, 2]."""
    spans = [range(first, last + 1) for first, last in zip(low.flat, high.flat, strict=True)]
    cells = np.array(list(product(*spans)), dtype=np.uint8).reshape(-1, *low.shape)
    with torch.no_grad():
        logits = net(torch.from_numpy(grid.ends(cells)))
    return margins_of(logits, torch.full((len(cells),), label)).amin(0)


def assert_below(bounds: Tensor, margins: Tensor) -> None:
    """Assert that no bound is above the margin, but for rounding."""
    excess = float((bounds - margins).max())
    assert excess <= ROUNDING * max(1.0, float(margins.abs().max())), f"a bound is {excess:.3g} too high"
