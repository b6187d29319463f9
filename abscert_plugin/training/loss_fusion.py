"""Loss fusion: one linear bound of the whole cross-entropy, in place of one for every margin.

With m_j the margin over class j, cross-entropy is the logarithm of 1 + sum exp(-m_j). Over interval bounds of m_j, the
line between the ends of exp(-m_j) is above it; the sum of these lines is a single linear function of the logits, of
which one backward pass gives the largest value. Its cost does not grow with the number of classes.

Source: Xu et al. 2020, "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond", section 3.4;
their code (auto_LiRPA, `loss_fusion`) adds exp and sum to the graph, which comes to the same lines.
"""

from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from abscert_plugin.bounds.intervals import Box, IntervalMargins

if TYPE_CHECKING:
    from abscert_plugin.lirpa.training import CrownIbpMargins

_NARROW: Final = 1e-4  # below, the line has the slope of the middle: less steep, so still above
_LEAST: Final = 1e-30  # of a sum of exponentials whose greatest is 1


def fused_cross_entropy(
    linear: "CrownIbpMargins",
    intervals: IntervalMargins,
    box: Box,
    labels: Int64[Tensor, "batch"],
    linear_weight: float,
) -> Float[Tensor, ""]:
    """Return the mean of upper bounds of the cross-entropy over boxes.

    Args:
        linear: gives linear bounds of the network's margins.
        intervals: interval bounds of them over the same boxes.
        box: what the network may be fed.
        labels: the class of each box.
        linear_weight: weight of the linear bound of the sum of exponentials; that of the interval bound is the rest.
    """
    is_label = torch.zeros_like(intervals.lower, dtype=torch.bool).scatter(1, labels[:, None], True)
    scale = (-intervals.lower).amax(dim=1, keepdim=True).clamp(min=0).detach()  # no exponential is above 1
    least, most = (-intervals.upper - scale).exp(), (-intervals.lower - scale).exp()
    width = intervals.upper - intervals.lower
    middle = (-(intervals.lower + intervals.upper) / 2 - scale).exp()
    slopes = torch.where(width > _NARROW, (most - least) / width.clamp(min=_NARROW), middle)
    slopes = slopes.masked_fill(is_label, 0)
    # exp(-m) is at most most - slope * (m - lower)
    constant = (most + slopes * intervals.lower).masked_fill(is_label, 0).sum(dim=1)
    own = (-scale[:, 0]).exp()  # the label's own exponential
    by_lines = constant - linear.weighted(box.lower, box.upper, labels, slopes)
    by_intervals = most.masked_fill(is_label, 0).sum(dim=1)
    total = own + linear_weight * by_lines + (1 - linear_weight) * by_intervals
    return (total.clamp(min=_LEAST).log() + scale[:, 0]).mean()
