"""Cutting by what enters an activation: ReLUs at 0, sigmoids and tanh in the middle of what they may read."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Final, TypeAlias, final

import numpy as np
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.front import Points
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import Evidence, Node
from abscert_plugin.verification.part_margins import PartMargins
from abscert_plugin.verification.proving import Prover, in_memory
from abscert_plugin.verification.search import Bounded, Branch, Problem

_STEPS: Final = (30, 12)  # that make lines better: those of the whole box, and of its parts
_TRIED: Final = 3  # cuts whose halves are bounded before one is chosen
_NEGLIGIBLE: Final = 0.01  # what costs the bound less than this share of what costs it most is not cut
_OTHER_HALF: Final = 0.2  # how much the better half counts beside the worse one
_NONE_LEFT: Final = "no ReLU or sigmoid is left to split, and the bounds do not decide it"


Cut: TypeAlias = tuple[int, float]
"""An activation among all, and a value of what it reads."""


@final
class SignCut:
    """Cuts by hidden values; the box of inputs stays whole.

    Sound: what an activation reads is at most a value or at least it, and a part is closed by a proof alone. A problem
    may end with no ReLU left and undecided, since its lines and multipliers are those that some steps have found.

    Args:
        prover: proves margins of parts.
        deployed: the classifier, for the corners that may be mislabelled.

    Source: Bunel et al. 2020 (branch and bound, and the score of a split); De Palma et al. 2021 (the few best splits
    are bounded before one is chosen); Wang et al. 2021 (lines and multipliers that children inherit).
    """

    def __init__(self, prover: Prover, deployed: Deployed) -> None:
        self._prover = prover
        self._deployed = deployed
        self._margins: dict[int, PartMargins] = {}  # by the number of the problem

    @property
    def is_complete(self) -> bool:
        """Return False: corners are tried on the way, and other parts have the same ones."""
        return False

    @property
    def entries(self) -> int:
        """How many numbers a branch takes up while it is bounded."""
        return self._prover.entries

    def root(self, problem: Problem) -> None:
        """Return nothing: the whole box has no lines yet."""
        del problem

    def evidence(self, number: int, tree: Node) -> Evidence | None:
        """Return what proves a problem again."""
        margins = self._margins[number]
        return Evidence.of_parts(tree, margins.rows, margins.bounds.bent, margins.loose)

    def bound(self, branches: Sequence[Branch]) -> list[Bounded]:
        """Bound branches by lines and multipliers that a few steps make better.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
            VerifierError: if they cannot be bounded, or the backend fails.
        """
        found: dict[int, Bounded] = {}
        order = sorted(range(len(branches)), key=lambda place: branches[place].number)
        for _, places in groupby(order, key=lambda place: branches[place].number):
            chosen = list(places)
            some = [branches[place] for place in chosen]
            found |= zip(chosen, in_memory(partial(self._bound, some), BoundMethod.CROWN, len(some)), strict=True)
        return [found[place] for place in range(len(branches))]

    def _bound(self, branches: Sequence[Branch]) -> list[Bounded]:
        number, problem = branches[0].number, branches[0].problem
        if number not in self._margins:
            self._margins[number] = self._prover.part_margins(problem.lowest, problem.highest, problem.label)
        margins = self._margins[number]
        if not len(margins.rows):  # each was shown over the whole box
            least = float(margins.proven([margins.bounds.whole()])[0])
            return [Bounded(least, str(BoundMethod.CROWN) if least > 0 else "", reason=_NONE_LEFT)]
        parts = [margins.bounds.whole() if branch.state is None else branch.state for branch in branches]
        wanted = np.ones((len(parts), len(margins.rows)), dtype=bool)
        drafts = margins.bounds.improved(parts, wanted, _STEPS[branches[0].state is not None])
        bounds = drafts.bounds.min(axis=1).astype(np.float64)
        likely = np.flatnonzero(bounds > 0)
        if len(likely):
            bounds[likely] = margins.proven([drafts.parts[row] for row in likely])
        still = np.flatnonzero(~(bounds > 0))
        suspects = self._suspects(problem, drafts, still)
        cuts = dict(zip(still.tolist(), _chosen(margins.bounds, drafts, still), strict=True))
        return [
            self._cut(float(bounds[row]), drafts.parts[row], cuts[row], suspects[row])
            if row in cuts
            else Bounded(float(bounds[row]), str(BoundMethod.OPTIMISED), part=drafts.parts[row])
            for row in range(len(parts))
        ]

    def _suspects(self, problem: Problem, drafts: Drafts, rows: np.ndarray) -> dict[int, Points | tuple[()]]:
        """Return the corners at which bounds are least, where the file mislabels them."""
        if not len(rows):
            return {}
        front, shape = self._deployed.front, self._deployed.image_shape
        slopes = drafts.at_source.numpy()[rows].reshape(len(rows), *front.input_shape(shape))
        lowest, highest = (np.repeat(end[None], len(rows), axis=0) for end in (problem.lowest, problem.highest))
        corners = np.where(front.change(slopes, lowest, highest) < 0, highest, lowest)
        different, back = np.unique(corners, axis=0, return_inverse=True)
        margins = self._deployed.margins(different, np.full(len(different), problem.label, dtype=np.int64))
        is_wrong = margins[back.reshape(-1)] < -self._deployed.floor
        return {row: corners[place : place + 1] if is_wrong[place] else () for place, row in enumerate(rows.tolist())}

    @staticmethod
    def _cut(bound: float, part: Part, cut: Cut | None, suspects: Points | tuple[()]) -> Bounded:
        if cut is None:
            return Bounded(bound, suspects=suspects, reason=_NONE_LEFT)
        return Bounded(bound, "", suspects, cut[0], partial(part.halves, *cut), bytes=part.bytes)


def _chosen(bounds: PartBounds, drafts: Drafts, rows: np.ndarray) -> list[Cut | None]:
    """Return the activation by which each of some parts is to be cut, and where; None where none can be."""
    candidates = [_candidates(bounds, drafts.pulls[row], drafts.parts[row]) for row in rows]
    halves, wanted = [], []
    for row, cuts in zip(rows, candidates, strict=True):
        for cut in cuts if len(cuts) > 1 else []:
            halves += drafts.parts[row].halves(*cut)
            wanted += [~(drafts.bounds[row] > 0)] * 2
    least: list[float] = []
    if halves:
        which = np.stack(wanted)
        which[~which.any(axis=1)] = True
        found = bounds.improved(halves, which, 0).bounds
        least = np.where(which, found, np.inf).min(axis=1).clip(max=0).tolist()
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
