"""The margin of a label: what every claim and every loss is about."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def logit_margins(logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Return the label's logit minus the greatest other one; NaN where a logit is not a finite number."""
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    margins = logits.gather(1, labels[:, None])[:, 0] - others
    return torch.where(torch.isfinite(logits).all(dim=1), margins, torch.nan)


def other_classes(labels: Int64[Tensor, "batch"], classes: int) -> Int64[Tensor, "batch others"]:
    """Return all classes but the label, ascending.

    >>> other_classes(torch.tensor([1, 3]), 4).tolist()
    [[0, 2, 3], [0, 1, 2]]
    """
    places = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    return places + (places >= labels[:, None])
