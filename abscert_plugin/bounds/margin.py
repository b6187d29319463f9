"""The margin of a label: what every claim and every loss is about."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def logit_margins(logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return the label's logit minus the greatest other one; NaN where a logit is not a finite number."""
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    margins = logits.gather(1, labels[:, None])[:, 0] - others
    return torch.where(torch.isfinite(logits).all(dim=1), margins, torch.nan)
