"""Choosing the activation by which a part is cut next, and the value at which.

Source: Bunel et al. 2020 (the score of a split); De Palma et al. 2021 (the few best splits are bounded before one is
chosen).
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds

_TRIED: Final = 3  # cuts whose halves are bounded before one is chosen
_NEGLIGIBLE: Final = 0.01  # what costs the bound less than this share of what costs it most is not cut
_OTHER_HALF: Final = 0.2  # how much the better half counts beside the worse one

Cut: TypeAlias = tuple[int, float]
"""An activation among all, and a value of what it reads."""


def chosen_cuts(
    bounds: PartBounds, drafts: Drafts, wanted: Bool[np.ndarray, "part row"], parts: Sequence[int]
) -> list[Cut | None]:
    """Return the activation by which each of some parts is to be cut, and where; None where none can be.

    Args:
        bounds: what gave the drafts.
        drafts: of all parts.
        wanted: the rows that are to be bounded better; all of a part where there is none.
        parts: the places of those that are to be cut.
    """
    candidates = [_candidates(bounds, drafts.pulls[place], drafts.parts[place]) for place in parts]
    halves: list[Part] = []
    which = []
    for place, cuts in zip(parts, candidates, strict=True):
        for cut in cuts if len(cuts) > 1 else []:
            halves += drafts.parts[place].halves(*cut)
            which += [wanted[place]] * 2
    least: list[float] = []
    if halves:
        rows = np.stack(which)
        rows[~rows.any(axis=1)] = True
        found = bounds.improved(halves, rows, 0).bounds
        least = np.where(rows, found, np.inf).min(axis=1).clip(max=0).tolist()
    chosen: list[Cut | None] = []
    for cuts in candidates:
        scores = []
        for _ in cuts if len(cuts) > 1 else []:
            first, second = sorted((least.pop(0), least.pop(0)))
            scores.append(first + _OTHER_HALF * second)
        chosen.append(cuts[int(np.argmax(scores))] if scores else next(iter(cuts), None))
    return chosen


def _candidates(bounds: PartBounds, pull: Tensor, part: Part) -> list[Cut]:
    """Return where to cut the activations whose lines cost the bound most, the dearest first."""
    below, above = bounds.gaps(part.cuts)
    scores = (-pull).clamp(min=0) * above + pull.clamp(min=0) * below
    best = scores.topk(min(_TRIED, len(scores)))
    least = _NEGLIGIBLE * float(best.values[0]) if len(scores) else 0.0
    places = [int(place) for score, place in zip(best.values, best.indices, strict=True) if score > least]
    cuts = [(place, bounds.where_to_cut(part.cuts, place)) for place in places]
    return [(place, value) for place, value in cuts if value is not None]
