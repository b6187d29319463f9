"""What torch slides over images of one axis, two or three; proofs compute by it too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor
from torch.nn import functional

RANKS: Final = (1, 2, 3)
"""How many axes a window may have."""
CONVOLUTIONS: Final = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: Final = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
MAX_POOLS: Final = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


@final
@dataclass(frozen=True, slots=True)
class Padding:
    """Puts a number around the last axes.

    Args:
        begins, ends: how many entries there are in front of each axis and behind it; below 0 some are taken away.
        value: the number.
    """

    begins: Sequence[int]
    ends: Sequence[int]
    value: float = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        """Return values with the number around them."""
        pads = [pad for pair in zip(reversed(self.begins), reversed(self.ends), strict=True) for pad in pair]
        return functional.pad(values, pads, value=self.value)
