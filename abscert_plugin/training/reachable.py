"""Reachable cells: what an interval network sees of a ball of images.

A ball reaches finitely many interval images; all lie in one box, between the ends of its lowest and highest cells. A
pixel that lies farther than the radius from any edge has one cell, so the box is a point there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.abstraction import LevelAbstraction
from abscert_plugin.bounds.intervals import Box
from abscert_plugin.grid import Grid, level_pixels
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Objective
from abscert_plugin.training.robust import CellAttack, RobustConfig, RobustObjective

_STEP: Final = 0.25  # of the way between a pixel's ends


@final
class ReachableCells:
    """The interval images of stored images' own cells, and the boxes of those that their balls reach.

    Args:
        grid: the cells.
        levels: the stored pixel value that stands for 1.0.
        device: where the images are.
        attack: how adversarial inputs are looked for.
    """

    def __init__(self, grid: Grid, levels: int, device: torch.device, attack: CellAttack = CellAttack.ENDS) -> None:
        self._grid = grid
        self._attack = attack
        self._pixels = level_pixels(levels)
        self._device = device
        self._abstraction = LevelAbstraction(grid, levels).to(device)
        self._known: tuple[float, Tensor] | None = None

    def center(
        self, images: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels2 height width"]:
        """Return the interval images of the images' own cells."""
        return self._abstraction(images)

    def box(self, images: UInt8[Tensor, "batch channels height width"], radius: float) -> Box:
        """Return the box of all reachable interval images.

        Cells are ordered, so its ends are the interval images of the lowest and of the highest cells.
        """
        index = images.reshape(-1).int()
        batch, channels, height, width = images.shape
        out = torch.index_select(self._table(radius), 1, index).view(4, batch, channels, height, width)
        return Box.between(torch.cat([out[0], out[1]], dim=1), torch.cat([out[2], out[3]], dim=1))

    def adversarial(
        self, network: nn.Module, box: Box, labels: Int64[Tensor, "batch"], steps: int
    ) -> Float[Tensor, "batch channels2 height width"]:
        """Return reachable interval images on which the loss is large, from random starts, as `CellAttack` says."""
        low, high = box.lower, box.upper
        start = torch.rand_like(low[:, : low.shape[1] // 2])  # a pixel's two ends move together

        def at(shares: Tensor) -> Tensor:
            return torch.where((shares > 0.5).repeat(1, 2, 1, 1), high, low)

        if self._attack is CellAttack.ENDS:
            shares = 1 - start
            for _ in range(steps):
                shares = (self._rise(network, at(shares), box, labels) > 0).to(start.dtype)
        else:
            shares = start
            for _ in range(steps):
                between = low + (high - low) * shares.repeat(1, 2, 1, 1)
                shares = (shares + _STEP * self._rise(network, between, box, labels).sign()).clamp(0, 1)
        return at(shares)

    @staticmethod
    def _rise(network: nn.Module, inputs: Tensor, box: Box, labels: Tensor) -> Tensor:
        """Return by how much the loss rises, to first order, where a pixel goes from its lowest to its highest cell."""
        current = inputs.detach().requires_grad_()
        loss = functional.cross_entropy(network(current).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, current)
        rise = gradient * (box.upper - box.lower)
        channels = rise.shape[1] // 2
        return rise[:, :channels] + rise[:, channels:]

    def _table(self, radius: float) -> Float[Tensor, "4 values"]:
        if self._known is None or self._known[0] != radius:
            low, high = self._grid.reachable(self._pixels, radius)
            edges = self._grid.training_edges
            rows = np.stack([edges[:-1][low], edges[1:][low], edges[:-1][high], edges[1:][high]])
            self._known = (radius, torch.from_numpy(rows).to(self._device))
        return self._known[1]


@final
@dataclass(frozen=True, slots=True)
class ReachableMethod:
    """Sound training on reachable cells.

    Args:
        config: its options.
    """

    config: RobustConfig
    claim: ClassVar[str] = RobustObjective.claim
    takes_intervals: ClassVar[bool] = True

    def prepare(self, network: nn.Module) -> None:
        """Draw the first weights that the options ask for."""
        self.config.prepare(network)

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective."""
        assert grid is not None
        return RobustObjective("reachable", ReachableCells(grid, levels, device, self.config.attack), self.config)

    def describe(self) -> Mapping[str, Any]:
        """Return the options."""
        return self.config.describe()


ENTRY: Final = MethodEntry(
    "reachable", "sound losses over reachable cells", "abscert-plugin", RobustConfig, ReachableMethod, step_cost=3.5
)
