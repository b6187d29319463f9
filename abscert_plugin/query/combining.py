"""Combinations of constraints: a sum of them, with weights, may be refuted where none of a conjunction is by itself.

Over a box, each linear constraint is broken by at least a linear function of the input. Some input may satisfy each,
and none all of them at once: then there are weights of at least 0 for which the sum of these functions is positive on
the whole box (Farkas). They are looked for here in floating point, for a batch of boxes at once; whatever they are, the
sum is proven anew, by `Refuter.combined`.
"""

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from abscert_plugin.bounds.proof.descent import Part
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.query.refuting import Refuter

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


def refuted_by_sums(
    refuter: Refuter,
    values: Mapping[str, Enclosure],
    slopes: Float64[Tensor, "batch _ entries"],
    room: Float64[Tensor, "batch limit"],
    radius: Tensor,
    is_open: Bool[Tensor, "batch"],
    part: Part | None = None,
) -> tuple[Float64[Tensor, "batch limit"], Bool[Tensor, "batch"]]:
    """Return weights of the constraints of a conjunction, and which of some boxes their sum refutes, by proof.

    Args:
        refuter: of the case.
        values: enclosures over the boxes.
        slopes: as `combination` takes them; anything where there is nothing to be combined.
        room: as there.
        radius: as there.
        is_open: the boxes that are tried.
        part: ends of what activations read, as `Refuter.combined` takes them.
    """
    found = torch.zeros_like(is_open)
    if not refuter.combinable:
        return room, found
    weights, sums = combination(slopes, room, radius)
    chosen = (is_open & (sums > 0)).nonzero().flatten()
    if len(chosen):
        taken = {name: value.take(chosen) for name, value in values.items()}
        ends = None if part is None else {name: (low[chosen], high[chosen]) for name, (low, high) in part.items()}
        found[chosen] = refuter.combined(taken, weights[chosen], ends)
    return weights, found


def slopes_of(refuter: Refuter, at_source: Tensor | None, room: Tensor, like: Tensor) -> Tensor:
    """Return how the bound of each limit depends on the input, [batch, limit, entries]; zeros if nothing tells.

    Args:
        refuter: of the case.
        at_source: how the bound of each row does, as `Refuter.explained` gives it.
        room: of the limits.
        like: [batch, entries].
    """
    if at_source is None:
        return like.new_zeros((len(like), max(1, room.shape[1]), like.shape[1]))
    return at_source.flatten(2)[:, refuter.row_of(torch.arange(room.shape[1]))]
