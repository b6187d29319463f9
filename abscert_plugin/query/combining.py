"""Combinations of constraints: a sum of them, with weights, may be refuted where none of a conjunction is by itself.

Over a box, each linear constraint is broken by at least a linear function of the input. Some input may satisfy each,
and none all of them at once: then there are weights of at least 0 for which the sum of these functions is positive on
the whole box (Farkas). They are looked for here in floating point, for a batch of boxes at once; whatever they are, the
sum is proven anew, by `Refuter.combined`.
"""

from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

_STEPS: Final = 40
_PACE: Final = 2.0  # of the first step: the exponent of the weight whose constraint is broken most
_TINY: Final = 1e-300
_LEAST: Final = 2.0**-20  # of the largest weight: what is smaller changes nothing


def combination(
    slopes: Float64[Tensor, "batch limit entries"], room: Float64[Tensor, "batch limit"], radius: Tensor
) -> tuple[Float64[Tensor, "batch limit"], Float64[Tensor, "batch"]]:
    """Return weights of the constraints, and about by how much their sum is broken everywhere in each box.

    The least value of the sum over the box is concave in the weights: it is raised by mirror ascent, in which weights
    stay positive and of sum 1.

    Args:
        slopes: how each constraint's bound depends on the input.
        room: by how much each is broken at least, the value of that function where it is least; -inf where unknown.
        radius: half the sides of the boxes, [batch, entries].
    """
    known = room.isfinite()
    moves = torch.nan_to_num(slopes) * radius.unsqueeze(1)
    middle = torch.where(known, room, 0.0) + moves.abs().sum(2)
    scale = 1 / (middle.abs() + moves.abs().sum(2) + _TINY)
    moves, middle = moves * scale.unsqueeze(2), middle * scale
    shares = known.to(room.dtype)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1)
    best, value = shares, torch.full(room.shape[:1], -torch.inf, dtype=room.dtype)
    for step in range(_STEPS):
        meeting = torch.einsum("bl,ble->be", shares, moves)
        found = (shares * middle).sum(1) - meeting.abs().sum(1)
        better = found > value
        value, best = torch.where(better, found, value), torch.where(better.unsqueeze(1), shares, best)
        gradient = middle - torch.einsum("ble,be->bl", moves, meeting.sign())
        pace = _PACE / (1 + step) ** 0.5 / (gradient.abs().amax(1, keepdim=True) + _TINY)
        shares = shares * (pace * (gradient - gradient.amax(1, keepdim=True))).exp()
        shares = shares / (shares.sum(1, keepdim=True) + _TINY)
    weights = best * scale
    weights = weights / (weights.amax(1, keepdim=True) + _TINY)
    weights = torch.where(weights < _LEAST, 0.0, weights)
    return weights, torch.where(known.sum(1) > 1, value, -torch.inf)
