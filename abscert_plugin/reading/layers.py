"""The torch modules that a network read from a file is made of, beside those of torch itself."""

from typing import final

import numpy as np
import torch
from torch import Tensor, nn


def with_parameters(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    """Return the layer with these weights."""
    layer.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float32), requires_grad=False)
    layer.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32), requires_grad=False)
    return layer


@final
class Total(nn.Module):
    """The sum of two activations."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the sum."""
        return first + second


@final
class Difference(nn.Module):
    """The difference of two activations."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the difference."""
        return first - second


@final
class Joined(nn.Module):
    """Activations one after another along an axis, counted with the batch."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        """Return the values one after another."""
        return torch.cat(values, self.axis)


@final
class Permuted(nn.Module):
    """The axes in another order; `order` counts the batch, which stays first."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, values: Tensor) -> Tensor:
        """Return the values with their axes in this order."""
        return values.permute(self.order)


@final
class Reshaped(nn.Module):
    """The values of each image in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        """Return the values in this shape; the batch is what is left over, not a number fixed by tracing."""
        return values.reshape(-1, *self.shape)
