"""What float32 arithmetic may have added to a lower bound, and taking it off."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING: Final = 1e-5
"""The share of max(1, largest |bound| of its box) that every bound is lowered by.

auto_LiRPA's float32 sums are not rounded outward. Against float64 its bounds of DM-small and FC-5 were too high by at
most 9e-7 of that measure, with margins from 0.002 to 170,000.
"""


def lowered(bounds: Float[Tensor, "batch margins"]) -> Float[Tensor, "batch margins"]:
    """Return the bounds less what rounding may have added, -inf where one is not a finite number."""
    size = torch.where(bounds.isfinite(), bounds.abs(), 1).amax(dim=1, keepdim=True).clamp(min=1)
    return torch.nan_to_num(bounds - ROUNDING * size, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
