"""Plain images and the balls around them, as the networks of baselines see them."""

from typing import final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box


@final
class PixelBalls:
    """Plain images and their balls, on the training scale [-1, 1].

    Args:
        levels: the stored pixel value that stands for 1.0 on the pixel scale.
    """

    def __init__(self, levels: int) -> None:
        self._levels = levels

    def center(
        self, images: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the images."""
        return 2 * (images.float() / self._levels) - 1

    def box(self, images: UInt8[Tensor, "batch channels height width"], radius: float) -> Box:
        """Return the balls of a radius on the pixel scale, cut to the pixel range."""
        center = self.center(images)
        return Box.between((center - 2 * radius).clamp(min=-1), (center + 2 * radius).clamp(max=1))

    def adversarial(
        self, network: nn.Module, box: Box, labels: Int64[Tensor, "batch"], steps: int
    ) -> Float[Tensor, "batch channels height width"]:
        """Return images of the ball on which the loss is large: signed gradient steps from a random start.

        Source: Madry et al. 2018, steps of 2.5 radii divided by their number; a single one is of 1.25 radii, as in
        Wong et al. 2020.
        """
        low, high = box.lower, box.upper
        size = 0.625 if steps == 1 else 1.25 / steps  # of the ball's width, two radii
        current = low + (high - low) * torch.rand_like(low)
        for _ in range(steps):
            current = current.detach().requires_grad_()
            loss = functional.cross_entropy(network(current).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, current)
            moved = current + size * (high - low) * gradient.sign()
            current = torch.minimum(torch.maximum(moved, low), high)
        return current.detach()
