"""Steps that make sums larger."""

from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor

_RATE: Final = 0.1
_DECAY: Final = 0.97
_MEMORY: Final = (0.9, 0.999)
_LEAST: Final = 1e-8


@final
class Ascent:
    """Adam (Kingma and Ba 2015) upwards, with steps that become shorter.

    torch's own imports a compiler when it is made first, which takes longer than most images do.

    Args:
        values: what is moved; leaves with gradients.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = values
        self._means = [[torch.zeros_like(value) for value in values] for _ in _MEMORY]
        self._count = 0

    def step(self, total: Tensor) -> None:
        """Move the values so that a total of them, a scalar, becomes larger."""
        gradients = torch.autograd.grad(total, self._values)
        rate = _RATE * _DECAY**self._count
        self._count += 1
        with torch.no_grad():
            for value, gradient, first, second in zip(self._values, gradients, *self._means, strict=True):
                first.lerp_(gradient, 1 - _MEMORY[0])
                second.mul_(_MEMORY[1]).addcmul_(gradient, gradient, value=1 - _MEMORY[1])
                size = (second / (1 - _MEMORY[1] ** self._count)).sqrt_().add_(_LEAST)
                value.addcdiv_(first, size, value=rate / (1 - _MEMORY[0] ** self._count))
