"""Random changes of stored images, vectorised over the batch."""

from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from abscert_plugin.training.config import Augmentation

_PADDING: Final = 4
_SHIFT: Final = 2
_ERASED_AREA: Final = (0.04, 0.2)
_ERASED_ASPECT: Final = (0.3, 3.3)
_LINEAR: Final = 0.08  # standard deviation of what is added to the entries of the identity: turns, stretches, shears
_BENT: Final = 0.03  # standard deviation of the field at its knots, as a share of the side
_KNOTS: Final = 4  # along each side
_CONTRAST: Final = 1.2  # undoes the blur of bending: MNIST keeps its number of pixels near 0.25, 0.5 and 0.75


def augment(
    images: UInt8[Tensor, "batch channels height width"], kind: Augmentation, levels: int, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Return changed copies of the images.

    Args:
        images: stored images.
        kind: which changes.
        levels: the stored pixel value that stands for 1.0.
        generator: lives on the CPU, so that every device draws the same.

    Source: AbsCert's code for CIFAR-10 (flip, RandomErasing 0.04 to 0.2, RandomCrop with padding 4); Simard et al. 2003
    for elastic changes.
    """
    if kind is Augmentation.NONE:
        return images
    if kind is Augmentation.SHIFT:
        return _crop(images, generator, _SHIFT)
    if kind is Augmentation.ELASTIC:
        return _bend(images, levels, generator)
    return _erase(_crop(_flip(images, generator), generator, _PADDING), (levels + 1) // 2, generator)


def _bend(images: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Move points of images by linear maps near the identity, shifts and smooth fields; black enters at the sides."""
    batch, _, height, width = images.shape
    linear = torch.eye(2) + _LINEAR * torch.randn(batch, 2, 2, generator=generator)
    shift = 2 * torch.rand(batch, 2, generator=generator) - 1
    knots = 2 * _BENT * torch.randn(batch, 2, _KNOTS, _KNOTS, generator=generator)  # a side is 2 long
    sides = torch.tensor([width, height])
    theta = torch.cat([linear, (2 * _SHIFT * shift / sides)[..., None]], dim=2)
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    field = functional.interpolate(knots.to(images.device), (height, width), mode="bicubic", align_corners=True)
    moved = functional.grid_sample(images.float(), grid + field.permute(0, 2, 3, 1), "bicubic", align_corners=False)
    sharp = levels / 2 + _CONTRAST * (moved - levels / 2)
    return sharp.round().clamp(0, levels).to(images.dtype)


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def _crop(images: Tensor, generator: torch.Generator, padding: int) -> Tensor:
    """Shift each image by up to the padding, black pixels entering at the sides."""
    batch, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    offsets = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator).to(images.device)
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    # a batch at once: picture b takes its own rows and columns
    return padded.permute(0, 2, 3, 1)[
        torch.arange(batch, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    ].permute(0, 3, 1, 2)


def _erase(images: Tensor, grey: int, generator: torch.Generator) -> Tensor:
    """Set one rectangle of half of the images to grey."""
    batch, _, height, width = images.shape
    draws = torch.rand(5, batch, generator=generator).to(images.device)
    area = (_ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * draws[0]) * height * width
    low, high = (torch.log(torch.tensor(value)).item() for value in _ERASED_ASPECT)
    aspect = torch.exp(low + (high - low) * draws[1])
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (draws[2] * (height - tall + 1)).floor(), (draws[3] * (width - wide + 1)).floor()
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    in_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])
    in_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    chosen = (draws[4] < 0.5)[:, None, None]
    erased = (chosen & in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return torch.where(erased, images.new_tensor(grey), images)
