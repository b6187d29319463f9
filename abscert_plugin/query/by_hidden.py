"""Cutting a case by what activations read; its box stays whole."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from abscert_plugin.bounds.cut_choice import Cut as HiddenCut
from abscert_plugin.bounds.cut_choice import chosen_cuts
from abscert_plugin.bounds.part import Cuts, Part
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.query.combining import refuted_by_sums, slopes_of
from abscert_plugin.query.look import Cut, Look
from abscert_plugin.query.query import Case
from abscert_plugin.query.refuting import Refuter
from abscert_plugin.query.tree import COMBINED, OPTIMISED, SIGN, VALUE

_STEPS: Final = (30, 12)  # that make lines better: those of the whole box, and of its parts


@final
class ByHidden:
    """Parts of one box, by lines and multipliers that a few steps make better.

    A part is closed where one of the constraints is refuted, or a sum of them; the one that is nearest to it is the one
    whose lines are made better.

    Args:
        proof: of the network.
        refuter: of the case.
        case: the case, of one conjunction with at least one linear constraint.
        values: enclosures of its box, by refined intervals.

    Attributes:
        bounds: what bounds its constraints.
    """

    stuck: Final = "nothing hidden is left to be cut, and the bounds do not decide it"
    tried: Final = 16
    followed: Final = 2

    def __init__(self, proof: Proof, refuter: Refuter, case: Case, values: Mapping[str, Enclosure]) -> None:
        self._proof, self._refuter, self._case, self._values = proof, refuter, case, values
        self.bounds = bounds_of(proof, refuter, values)

    def whole(self) -> Part:
        """Return the whole box."""
        return self.bounds.whole()

    def look(self, states: Sequence[Part]) -> list[Look]:
        """Bound parts."""
        wanted = np.ones((len(states), self._refuter.limits), dtype=bool)
        if wanted.shape[1] > 1:
            nearest = self.bounds.improved(states, wanted, 0).bounds.argmax(axis=1)
            wanted = np.arange(wanted.shape[1]) == nearest[:, None]
        drafts = self.bounds.improved(states, wanted, _STEPS[bool(states[0].cuts)])
        bounds = drafts.bounds.max(axis=1).astype(np.float64)
        likely = np.flatnonzero(bounds > 0)
        if len(likely):
            bounds[likely] = self.bounds.proven([drafts.parts[row] for row in likely]).max(axis=1)
        looks = [Look(OPTIMISED, lines=part) for part in drafts.parts]
        still = np.flatnonzero(~(bounds > 0))
        weights = self._combined([drafts.parts[row] for row in still])
        cuts = chosen_cuts(self.bounds, drafts, wanted, still.tolist())
        for row, found, hidden in zip(still, weights, cuts, strict=True):
            looks[row] = (
                Look(COMBINED, weights=found) if found else self._open(float(bounds[row]), drafts, int(row), hidden)
            )
        return looks

    def _open(self, bound: float, drafts: Drafts, row: int, hidden: HiddenCut | None) -> Look:
        slopes = drafts.at_source[row].flatten().numpy()
        corner = np.where(slopes < 0, self._case.upper, self._case.lower)
        part = drafts.parts[row]
        cut = None
        if hidden is not None:
            place, value = hidden
            kind = VALUE if value or place in part.cuts else SIGN  # a sign is fixed once
            cut = Cut(kind, place, value, partial(part.halves, *hidden), part.bytes)
        return Look("", bound, corner, self._case.upper - self._case.lower, cut=cut)

    def _combined(self, parts: Sequence[Part]) -> list[tuple[float, ...]]:
        """Return of each part the weights of a sum of constraints that refutes it; none where there is no such sum."""
        found: list[tuple[float, ...]] = [()] * len(parts)
        if not parts or not self._refuter.combinable:
            return found
        same = torch.zeros(len(parts), dtype=torch.int64)
        values = {name: value.take(same) for name, value in self._values.items()}
        ends = ends_of_cuts(self._proof, [part.cuts for part in parts])
        bounds, seen = self._refuter.explained(values, ends)
        room = self._refuter.room(values, bounds)
        radius = torch.from_numpy(self._case.upper - self._case.lower).expand(len(parts), -1) / 2
        slopes = slopes_of(self._refuter, seen.get(self._proof.source), room, radius)
        every = torch.ones(len(parts), dtype=torch.bool)
        weights, holds = refuted_by_sums(self._refuter, values, slopes, room, radius, every, ends)
        for row in holds.nonzero().flatten().tolist():
            found[row] = tuple(weights[row].tolist())
        return found


def bounds_of(
    proof: Proof,
    refuter: Refuter,
    values: Mapping[str, Enclosure],
    bent: Int64[np.ndarray, "bent"] | None = None,
    limits: Int64[np.ndarray, "limit"] | None = None,
) -> PartBounds:
    """Return what bounds the constraints of a case over parts of a box: above 0, no output of it satisfies one.

    Args:
        proof: of the network.
        refuter: of the case.
        values: enclosures of the box, in a batch of one.
        bent: the activations whose lines are chosen; those with a choice in the whole box where None.
        limits: the linear constraints that are bounded, by their places; all where None.
    """
    chosen = torch.arange(refuter.limits) if limits is None else torch.from_numpy(limits)
    return PartBounds(proof, values, refuter.rows[refuter.row_of(chosen)], bent, refuter.most(values)[0, chosen])


def ends_of_cuts(proof: Proof, cuts: Sequence[Cuts]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ends of what activations read in parts of which something is known, for a proof."""
    shapes = {name: proof.shapes[name] for name in proof.free}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    known = torch.full((2, len(cuts), sum(sizes)), torch.inf, dtype=torch.float64)
    known[0] = -torch.inf
    for row, some in enumerate(cuts):
        for place, (low, high, _) in some.items():
            known[0, row, place], known[1, row, place] = low, high
    ends = {}
    for (name, shape), of_layer in zip(shapes.items(), known.split(sizes, dim=2), strict=True):
        least, most = of_layer.reshape(2, len(cuts), *shape)
        ends[name] = (least, most)
    return ends
