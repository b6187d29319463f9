"""The abstraction phi as a torch module, equal to `grid.py` bit for bit."""

from typing import final

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from abscert_plugin.grid import Grid


@final
class Abstraction(nn.Module):
    """phi on float images: maps a pixel to the two ends of its cell.

    Only comparisons with the grid's edges and table look-ups happen, so every device gives the same bits.
    Pixels outside [0, 1] fall into the first or last cell; `Grid.cell` is the one that refuses them.

    Source: AbsCert paper, section 3.2 and Algorithm 1.
    """

    interior: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        edges = torch.from_numpy(grid.training_edges)
        self.grid = grid
        self.register_buffer("interior", torch.from_numpy(grid.edges[1:-1].copy()), persistent=False)
        self.register_buffer("lower", edges[:-1].clone(), persistent=False)
        self.register_buffer("upper", edges[1:].clone(), persistent=False)

    def forward(
        self, images: Float32[Tensor, "batch channels height width"]
    ) -> Float32[Tensor, "batch channels2 height width"]:
        """Return the interval images (training scale) of images on the pixel scale [0, 1]."""
        cell = torch.bucketize(images, self.interior, right=True)
        return torch.cat([self.lower[cell], self.upper[cell]], dim=1)


@final
class LevelAbstraction(nn.Module):
    """phi on stored pixels: one look-up per pixel, for images that hold integers 0 to `levels`.

    Equal to `Abstraction` on value / levels, at the cost of a table look-up.

    Args:
        grid: the grid.
        levels: the stored value that stands for 1.0 on the pixel scale (255 for 8-bit images).
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, grid: Grid, levels: int) -> None:
        super().__init__()
        cells = grid.level_cells(levels)
        edges = grid.training_edges
        self.register_buffer("lower", torch.from_numpy(edges[:-1][cells]), persistent=False)
        self.register_buffer("upper", torch.from_numpy(edges[1:][cells]), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "batch channels height width"]
    ) -> Float32[Tensor, "batch channels2 height width"]:
        """Return the interval images (training scale) of stored images."""
        batch, channels, height, width = images.shape
        index = images.reshape(-1).int()
        out = self.lower.new_empty((batch, 2, channels, height, width))
        out[:, 0] = torch.index_select(self.lower, 0, index).view(images.shape)
        out[:, 1] = torch.index_select(self.upper, 0, index).view(images.shape)
        return out.view(batch, 2 * channels, height, width)
