"""Choosing the ReLU whose sign is to be fixed next in a part.

Source: Bunel et al. 2020 (the score of a split); De Palma et al. 2021 (the few best splits are bounded before one is
chosen).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds

_TRIED: Final = 3  # cuts whose halves are bounded before one is chosen
_LOWER_LINE: Final = 0.1  # how much the lower line of a ReLU counts beside the upper one
_OTHER_HALF: Final = 0.2  # how much the better half counts beside the worse one


def chosen_signs(
    bounds: PartBounds, drafts: Drafts, wanted: Bool[np.ndarray, "part row"], parts: Sequence[int]
) -> list[int | None]:
    """Return the ReLU by which each of some parts is to be cut; None where every sign is known.

    Args:
        bounds: what gave the drafts.
        drafts: of all parts.
        wanted: the rows that are to be bounded better; all of a part where there is none.
        parts: the places of these.
    """
    candidates = [_candidates(bounds, drafts.pulls[place], drafts.parts[place]) for place in parts]
    halves: list[Part] = []
    which = []
    for place, relus in zip(parts, candidates, strict=True):
        for relu in relus if len(relus) > 1 else []:
            halves += drafts.parts[place].halves(relu)
            which += [wanted[place]] * 2
    least: list[float] = []
    if halves:
        rows = np.stack(which)
        rows[~rows.any(axis=1)] = True
        found = bounds.improved(halves, rows, 0).bounds
        least = np.where(rows, found, np.inf).min(axis=1).clip(max=0).tolist()
    chosen: list[int | None] = []
    for relus in candidates:
        scores = []
        for _ in relus if len(relus) > 1 else []:
            first, second = sorted((least.pop(0), least.pop(0)))
            scores.append(first + _OTHER_HALF * second)
        chosen.append(relus[int(np.argmax(scores))] if scores else next(iter(relus), None))
    return chosen


def _candidates(bounds: PartBounds, pull: Tensor, part: Part) -> list[int]:
    """Return the ReLUs whose lines cost the bound most, the dearest first."""
    low, high = bounds.lower.float(), bounds.upper.float()
    is_open = (low < 0) & (high > 0)
    is_open[list(part.signs)] = False
    above = (-pull).clamp(min=0) * (-low * high / (high - low).clamp(min=1e-12))
    below = pull.clamp(min=0) * torch.minimum(-low, high)
    scores = torch.where(is_open, above + _LOWER_LINE * below + 1e-12, 0.0)
    best = scores.topk(min(_TRIED, len(scores)))
    return [int(place) for score, place in zip(best.values, best.indices, strict=True) if score > 0]
