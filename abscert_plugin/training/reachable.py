"""Sound training on reachable cells: a loss on the image's own cells, mixed with one over all cells of its ball.

A ball of images reaches finitely many interval images; all lie in one box between the ends of its lowest and highest
cells. A pixel that lies farther than the radius from any edge has one cell, so the box is a point there.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.abstraction import LevelAbstraction
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid, level_pixels
from abscert_plugin.radius import Radius
from abscert_plugin.training.interval_bounds import Box, interval_margins, warmup_regulariser
from abscert_plugin.training.objective import Moment


class RobustLoss(StrEnum):
    """How the loss over a ball is made.

    `INTERVAL`: cross-entropy of interval bounds over the whole box (Gowal et al. 2018).
    `MTL_IBP`: that, mixed with cross-entropy on adversarial cells (De Palma et al. 2024).
    `SABR`: interval bounds over a small box around adversarial cells (Mueller et al. 2023).
    """

    INTERVAL = "interval"
    MTL_IBP = "mtl-ibp"
    SABR = "sabr"


@final
@dataclass(frozen=True, slots=True)
class ReachableConfig:
    """Options of sound training on reachable cells.

    Args:
        radius: the ball to train for.
        loss: how the loss over the ball is made.
        share: weight of the interval loss (MTL-IBP's alpha), or size of the small box (SABR's lambda), 0 to 1.
        natural_end: weight of the cross-entropy on the image's own cells at the end (it begins with 1), 0 to 1.
        start: share of the epochs before the radius rises from 0.
        ramp: share of the epochs in which it rises to `radius`.
        regulariser: weight of the warm-up regulariser of Shi et al. 2021 while the radius rises.
        attack_steps: gradient steps to find adversarial cells.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    loss: RobustLoss = RobustLoss.INTERVAL
    share: float = 0.5
    natural_end: float = 0.0
    start: float = 0.02
    ramp: float = 0.5
    regulariser: float = 0.5
    attack_steps: int = 3

    def __post_init__(self) -> None:
        for name in ("share", "natural_end", "start", "ramp"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"expected {name.replace('_', '-')} from 0 to 1, got {getattr(self, name)}")
        if self.start + self.ramp > 1:
            raise ConfigError(f"expected start and ramp within the training, got {self.start} + {self.ramp} of it")
        if not (math.isfinite(self.regulariser) and self.regulariser >= 0):
            raise ConfigError(f"expected a regulariser of at least 0, got {self.regulariser}")
        if self.attack_steps < 1:
            raise ConfigError(f"expected at least 1 attack step, got {self.attack_steps}")

    def progress(self, moment: Moment) -> float:
        """Return how far the radius has risen at a moment, from 0 to 1."""
        done = moment.step / (moment.steps_per_epoch * moment.epochs)
        return min(1.0, max(0.0, (done - self.start) / self.ramp)) if self.ramp else float(done >= self.start)

    def describe(self) -> dict[str, Any]:
        """Return the options for a checkpoint and run.json."""
        return {
            "radius": str(self.radius.given),
            "radius_scale": str(self.radius.scale),
            "loss": str(self.loss),
            "share": self.share,
            "natural_end": self.natural_end,
            "start": self.start,
            "ramp": self.ramp,
            "regulariser": self.regulariser,
            "attack_steps": self.attack_steps,
        }


@final
class ReachableCells:
    """The lowest and highest cells of balls around stored images, as boxes of interval images.

    Args:
        grid: the cells.
        levels: the stored pixel value that stands for 1.0.
        device: where the images are.
    """

    def __init__(self, grid: Grid, levels: int, device: torch.device) -> None:
        self._grid = grid
        self._pixels = level_pixels(levels)
        self._device = device
        self._known: tuple[float, Tensor] | None = None

    def ends(
        self, images: UInt8[Tensor, "batch channels height width"], radius: float
    ) -> tuple[Float[Tensor, "batch channels2 height width"], Float[Tensor, "batch channels2 height width"]]:
        """Return the interval images of the lowest and of the highest cells within the radius (pixel scale).

        Cells are ordered, so these two are the lower and the upper end of the box of all reachable interval images.
        """
        index = images.reshape(-1).int()
        batch, channels, height, width = images.shape
        out = torch.index_select(self._table(radius), 1, index).view(4, batch, channels, height, width)
        return torch.cat([out[0], out[1]], dim=1), torch.cat([out[2], out[3]], dim=1)

    def _table(self, radius: float) -> Float[Tensor, "4 values"]:
        if self._known is None or self._known[0] != radius:
            low, high = self._grid.reachable(self._pixels, radius)
            edges = self._grid.training_edges
            rows = np.stack([edges[:-1][low], edges[1:][low], edges[:-1][high], edges[1:][high]])
            self._known = (radius, torch.from_numpy(rows).to(self._device))
        return self._known[1]


@final
class Reachable:
    """The method `reachable`.

    Args:
        grid: the cells.
        levels: the stored pixel value that stands for 1.0.
        device: where the batches are.
        config: its options.

    Source: interval bounds and their schedule after Gowal et al. 2018; on cells: design.md section 4.
    """

    name: Final = "reachable"
    claim: Final = "ball"

    def __init__(self, grid: Grid, levels: int, device: torch.device, config: ReachableConfig) -> None:
        self._abstraction = LevelAbstraction(grid, levels).to(device)
        self._cells = ReachableCells(grid, levels, device)
        self._config = config

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return the stored images: which cells the loss sees depends on the moment."""
        return images

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,
    ) -> Float[Tensor, ""]:
        """Return the mixed loss of a batch of stored images.

        Raises:
            ConfigError: if interval arithmetic is not written for the network.
        """
        config, progress = self._config, self._config.progress(moment)
        natural_weight = 1 - progress * (1 - config.natural_end)
        total = inputs.new_zeros((), dtype=torch.float32)
        if natural_weight > 0:
            logits = network(self._abstraction(inputs)).float()
            total = total + natural_weight * functional.cross_entropy(logits, labels)
        box = Box.between(*self._cells.ends(inputs, progress * config.radius.outward))
        adversarial = None
        if natural_weight < 1 and config.loss is not RobustLoss.INTERVAL:
            adversarial = adversarial_cells(network, box, labels, config.attack_steps)
        if adversarial is not None and config.loss is RobustLoss.SABR:
            # moved towards the adversarial point, the small box stays inside the whole one
            box = Box(adversarial + config.share * (box.center - adversarial), config.share * box.radius)
        bounds = interval_margins(_sequential(network), box, labels)
        robust = functional.cross_entropy(-bounds.lower, labels)
        if adversarial is not None and config.loss is RobustLoss.MTL_IBP:
            attacked = functional.cross_entropy(network(adversarial).float(), labels)
            robust = (1 - config.share) * attacked + config.share * robust
        total = total + (1 - natural_weight) * robust
        if progress < 1 and config.regulariser > 0:
            total = total + config.regulariser * (1 - progress) * warmup_regulariser(box, bounds.hidden)
        return total

    def margins(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each image's margin over the whole ball, by interval arithmetic."""
        box = Box.between(*self._cells.ends(inputs, self._config.radius.outward))
        return _least(interval_margins(_sequential(network), box, labels).lower, labels)


def adversarial_cells(
    network: nn.Module,
    box: Box,
    labels: Int64[Tensor, "batch"],
    steps: int,
) -> Float[Tensor, "batch channels2 height width"]:
    """Return reachable interval images on which the loss is large.

    Each step moves every pixel to its lowest or highest cell, whichever the gradient says raises the loss.

    Args:
        network: the interval network.
        box: between their lowest and highest reachable cells.
        labels: their classes.
        steps: how many gradients to take; the first starts from randomly chosen ends.
    """
    low, high = box.lower, box.upper
    channels = low.shape[1] // 2
    is_high = torch.rand_like(low[:, :channels]) < 0.5
    for _ in range(steps):
        current = torch.where(is_high.repeat(1, 2, 1, 1), high, low).detach().requires_grad_()
        loss = functional.cross_entropy(network(current).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, current)
        rise = gradient * (high - low)
        is_high = rise[:, :channels] + rise[:, channels:] > 0  # a pixel's two ends move together
    return torch.where(is_high.repeat(1, 2, 1, 1), high, low)


def _least(margins: Tensor, labels: Tensor) -> Tensor:
    """Return the least margin of each row over the classes other than the label."""
    return margins.scatter(1, labels[:, None], float("inf")).amin(dim=1)


def _sequential(network: nn.Module) -> nn.Sequential:
    if not isinstance(network, nn.Sequential):
        raise ConfigError(f"interval arithmetic is written for a sequence of layers, got {type(network).__name__}")
    return network
