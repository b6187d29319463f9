"""The torch modules that a network read from a file is made of, beside those of torch itself."""

from collections.abc import Callable, Mapping
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
class Applied(nn.Module):
    """A function of activations and constants.

    Args:
        function: takes tensors, in order.
        constants: those among them that do not depend on the image, by their place; numbers become float32.
    """

    def __init__(self, function: Callable[..., Tensor], constants: Mapping[int, np.ndarray] | None = None) -> None:
        super().__init__()
        self.function = function
        self.places = tuple(sorted(constants or {}))
        for place in self.places:
            array = np.asarray((constants or {})[place])
            given = torch.from_numpy(np.array(array, dtype=np.float32 if array.dtype.kind == "f" else array.dtype))
            self.register_buffer(f"constant{place}", given)

    def forward(self, *values: Tensor) -> Tensor:
        """Return what the function gives for these activations and the constants."""
        given = list(values)
        for place in self.places:
            given.insert(place, getattr(self, f"constant{place}"))
        found = self.function(*given)
        if values[0].requires_grad and not found.requires_grad:  # steps alone: a gradient of 0, not none
            first = values[0].flatten(1)[:, 0].clamp(-1, 1).nan_to_num() * 0
            found = found + first.reshape(-1, *(1 for _ in found.shape[1:]))
        return found


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
