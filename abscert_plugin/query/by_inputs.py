"""Cutting a case at values of its inputs."""

from collections.abc import Sequence
from functools import partial
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.query.combining import refuted_by_sums, slopes_of
from abscert_plugin.query.look import Cut, Look
from abscert_plugin.query.query import Case
from abscert_plugin.query.refuting import Refuter
from abscert_plugin.query.tree import COMBINED, CUT, INPUTS, Region


@final
class ByInputs:
    """Boxes of inputs, each bounded anew.

    Args:
        proof: of the network.
        refuter: of the case.
        case: the case, of one conjunction.
        is_real: whether inputs are real numbers, not float32 alone.
    """

    stuck: Final = "an input is left of which rounding decides whether it satisfies the query"
    tried: Final = 64
    followed: Final = 16

    def __init__(self, proof: Proof, refuter: Refuter, case: Case, is_real: bool) -> None:
        self._source = proof.source
        self._refuter, self._case, self._is_real = refuter, case, is_real

    def whole(self) -> Region:
        """Return the whole box."""
        return Region(self._case.lower, self._case.upper)

    def look(self, states: Sequence[Region]) -> list[Look]:
        """Bound boxes."""
        lower, upper = ends_of(states)
        closed = self._refuter.refuted_inputs(lower, upper)
        rest = (~closed).nonzero().flatten()
        looks = [Look(INPUTS)] * len(states)
        if len(rest):
            found = self._bounded([states[row] for row in rest], lower[rest], upper[rest])
            for row, look in zip(rest.tolist(), found, strict=True):
                looks[row] = look
        return looks

    def _bounded(self, regions: Sequence[Region], lower: Tensor, upper: Tensor) -> list[Look]:
        refuter = self._refuter
        values = refuter.intervals(lower, upper, refined=True)
        bounds = refuter.bounds(values, BoundMethod.IBP)
        seen: dict[str, Tensor] = {}
        if refuter.is_linear:
            linear, seen = refuter.explained(values)
            bounds = torch.maximum(bounds, linear)
        refuted, room = refuter.refuted(values, bounds), refuter.room(values, bounds)
        limits, least = refuter.worst(room, refuted)
        slopes = slopes_of(refuter, seen.get(self._source), room, lower)
        is_open = ~refuted.all(dim=1)
        weights, combined = refuted_by_sums(refuter, values, slopes, room, (upper - lower) / 2, is_open)
        nearest = slopes[torch.arange(len(regions)), limits]
        corners = torch.where(nearest < 0, upper, lower).numpy()
        looks = []
        for row, region in enumerate(regions):
            if not is_open[row]:
                looks.append(Look(str(BoundMethod.CROWN)))
            elif combined[row]:
                looks.append(Look(COMBINED, weights=tuple(weights[row].tolist())))
            else:
                cut = self._best_cut(region, slopes[row].abs().sum(0).numpy())
                looks.append(Look("", float(least[row]), corners[row], region.upper - region.lower, cut=cut))
        return looks

    def _best_cut(self, region: Region, slopes: np.ndarray) -> Cut | None:
        """Return the cut of the input on which the bounds depend most; None where the box is a point."""
        width = region.upper - region.lower
        if self._is_real:
            middle = region.lower / 2 + region.upper / 2
            can = (region.lower < middle) & (middle < region.upper)
        else:
            below = np.nextafter(region.upper.astype(np.float32), np.float32(-np.inf))
            middle = np.minimum((region.lower / 2 + region.upper / 2).astype(np.float32), below).astype(np.float64)
            can = region.lower < region.upper
        if not bool(can.any()):
            return None
        score = np.where(can, np.nan_to_num(slopes) * width + 1e-9 * width / max(float(width.max()), 1e-300), -1)
        place = int(score.argmax())
        value = float(middle[place])
        halves = partial(region.cut, place, value, not self._is_real)
        return Cut(CUT, place, value, halves, 2 * region.lower.nbytes)


def ends_of(regions: Sequence[Region]) -> tuple[Tensor, Tensor]:
    """Return the ends of boxes, [box, entries] each."""
    return (
        torch.from_numpy(np.stack([region.lower for region in regions])),
        torch.from_numpy(np.stack([region.upper for region in regions])),
    )
