"""A deployed file as a torch module of images, with a gradient through phi, which as a function of pixels has none."""

from enum import StrEnum
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.front import Cells, Front
from abscert_plugin.grid import Grid

_SCALE: Final = 2.0  # the training scale [-1, 1] is twice as wide as the pixel scale


class Gradient(StrEnum):
    """What a backward pass takes for the gradient of phi, whose own is zero."""

    STRAIGHT_THROUGH = "straight-through"
    """That of the scaling of pixels: as if both ends of a pixel's cell moved with the pixel."""
    CELLS = "cells"
    """How far each end of the cell moves as the pixel goes through its ball, over the ball's width: zero where the ball
    stays in one cell."""


@final
class DeployedModule(nn.Module):
    """A deployed classifier in torch: images on the pixel scale to the logits of its file, with a gradient.

    Args:
        network: what the front feeds, on the training scale.
        front: cells, or the scaling of pixels.
        gradient: what stands for the gradient of phi; of plain files it is that of the scaling, whatever this says.
        radius: of the ball on the pixel scale by which `cells` goes; unused elsewhere.

    Attributes:
        network: the network, such as for `DeployedClassifier`, by which auto_LiRPA bounds the whole.
        grid: its cells; None of a plain file.
    """

    def __init__(self, network: nn.Module, front: Front, gradient: Gradient, radius: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.grid: Grid | None = front.grid if isinstance(front, Cells) else None
        self._phi = Abstraction(self.grid) if self.grid is not None else None
        self._front = front
        self._window = radius if gradient is Gradient.CELLS else None

    def forward(self, images: Float32[Tensor, "batch channels height width"]) -> Float32[Tensor, "batch classes"]:
        """Return the logits of images on the pixel scale [0, 1]."""
        function: Any = _Scaled.apply if self._phi is None else _Abstracted.apply
        how = (self._front,) if self._phi is None else (self._phi, self._window)
        logits: Tensor = self.network(function(images, *how))
        return logits


class _Abstracted(torch.autograd.Function):
    """phi forward, bit for bit; backward what `Gradient` says."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, phi: Abstraction, window: float | None) -> Tensor:
        ctx.save_for_backward(images)
        ctx.phi, ctx.window = phi, window
        return phi(images.contiguous())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (images,) = ctx.saved_tensors
        by_end = torch.stack(gradients[0].chunk(2, dim=1))
        slopes = _SCALE if ctx.window is None else _secants(images, ctx.phi, ctx.window)
        return (by_end * slopes).sum(0), None, None


def _secants(images: Tensor, phi: Abstraction, window: float) -> Tensor:
    """Return by how much each end of a pixel's cell moves in a ball, over its width: [2, *images]."""
    low, high = (images - window).clamp(min=0), (images + window).clamp(max=1)
    moved = (phi(high) - phi(low)) / (high - low).repeat(1, 2, 1, 1)
    return torch.stack(moved.chunk(2, dim=1))


class _Scaled(torch.autograd.Function):
    """What a plain file's network takes of images, and slopes by pixels backward."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, front: Front) -> Tensor:
        ctx.front, ctx.shape = front, images.shape
        return torch.from_numpy(front.network_input(images.detach().cpu().numpy())).to(images.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        black = np.zeros(tuple(ctx.shape), np.float32)
        slopes = ctx.front.change(gradients[0].cpu().numpy(), black, black + 1)
        return torch.from_numpy(slopes).to(gradients[0].device), None
