"""What torch slides over images of one axis, two or three; proofs compute by it too."""

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional

RANKS: Final = (1, 2, 3)
"""How many axes a window may have."""
CONVOLUTIONS: Final = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: Final = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
MAX_POOLS: Final = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def padder(begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Return what puts a number around the last axes; a padding below 0 takes entries away."""
    pads = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    return lambda values: functional.pad(values, pads, value=value)
