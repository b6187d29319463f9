"""Cutting by what enters an activation: ReLUs at 0, sigmoids and tanh in the middle of what they may read."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Final, final

import numpy as np

from abscert_plugin.bounds.bounder import BoundMethod, BoundTimeError
from abscert_plugin.bounds.cut_choice import Cut, chosen_cuts
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts
from abscert_plugin.front import Points
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import Evidence, TreeNode
from abscert_plugin.verification.part_margins import PartMargins
from abscert_plugin.verification.proving import Prover, in_memory
from abscert_plugin.verification.search import Bounded, Branch, Problem

_STEPS: Final = (30, 12)  # that make lines better: those of the whole box, and of its parts
_NONE_LEFT: Final = "no ReLU or sigmoid is left to split, and the bounds do not decide it"


@final
class SignCut:
    """Cuts by hidden values; the box of inputs stays whole.

    Sound: what an activation reads is at most a value or at least it, and a part is closed by a proof alone. A problem
    may end with no ReLU left and undecided, since its lines and multipliers are those that some steps have found.

    Args:
        prover: proves margins of parts.
        deployed: the classifier, for the corners that may be mislabelled.

    Source: Bunel et al. 2020 (branch and bound); Wang et al. 2021 (lines and multipliers that children inherit).
    """

    def __init__(self, prover: Prover, deployed: Deployed) -> None:
        self._prover = prover
        self._deployed = deployed
        self._margins: dict[int, PartMargins] = {}  # by the number of the problem

    @property
    def is_complete(self) -> bool:
        """Return False: corners are tried on the way, and other parts have the same ones."""
        return False

    def root(self, problem: Problem) -> None:
        """Return nothing: the whole box has no lines yet."""
        del problem

    def evidence(self, number: int, tree: TreeNode) -> Evidence | None:
        """Return what proves a problem again."""
        margins = self._margins[number]
        return Evidence.of_parts(tree, margins.rows, margins.bounds.bent, margins.loose)

    def bound(self, branches: Sequence[Branch], seconds: Sequence[float]) -> list[Bounded]:
        """Bound branches by lines and multipliers that a few steps make better.

        Args:
            branches: the branches.
            seconds: for each, what bounds of hidden values over its problem's whole box may take.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
            VerifierError: if they cannot be bounded, or the backend fails.
        """
        found: dict[int, Bounded] = {}
        order = sorted(range(len(branches)), key=lambda place: branches[place].number)
        for _, places in groupby(order, key=lambda place: branches[place].number):
            chosen = list(places)
            some, left = [branches[place] for place in chosen], sum(seconds[place] for place in chosen)
            found |= zip(chosen, in_memory(partial(self._bound, some, left), BoundMethod.CROWN, len(some)), strict=True)
        return [found[place] for place in range(len(branches))]

    def _bound(self, branches: Sequence[Branch], seconds: float) -> list[Bounded]:
        number, problem = branches[0].number, branches[0].problem
        try:
            margins = self._margins_of(number, problem, seconds)
        except BoundTimeError as error:
            return [Bounded(-math.inf, reason=str(error)) for _ in branches]
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
        chosen = chosen_cuts(margins.bounds, drafts, ~(drafts.bounds > 0), still.tolist())
        cuts = dict(zip(still.tolist(), chosen, strict=True))
        return [
            self._cut(float(bounds[row]), drafts.parts[row], cuts[row], suspects[row])
            if row in cuts
            else Bounded(float(bounds[row]), str(BoundMethod.OPTIMISED), part=drafts.parts[row])
            for row in range(len(parts))
        ]

    def _margins_of(self, number: int, problem: Problem, seconds: float) -> PartMargins:
        if number not in self._margins:
            ends = problem.lowest, problem.highest
            self._margins[number] = self._prover.part_margins(*ends, problem.label, seconds=seconds)
        return self._margins[number]

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
