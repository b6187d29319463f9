"""Cutting a pixel's reachable cells in two; parts of few combinations are run, and not bounded."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, final

import numpy as np
import torch

from abscert_plugin.bounds.bounder import Bounder, BoundMethod
from abscert_plugin.front import Point, Points, combinations
from abscert_plugin.grid import log2_count
from abscert_plugin.verification.batch import Rows
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import RUN, Evidence, TreeNode
from abscert_plugin.verification.proving import Prover
from abscert_plugin.verification.search import Bounded, Branch, Problem

_LINEAR: Final = (BoundMethod.CROWN_IBP, BoundMethod.CROWN)


@final
class CellCut:
    """Cuts combinations of cells: a branch's state is their two ends.

    Complete: each cut makes parts smaller, and there are finitely many combinations.

    Args:
        bounder: bounds of the interval network in float32.
        prover: proves what they say.
        deployed: the classifier, for the combinations that are run.
        leaf: parts of no more combinations than this are run.
        methods: the linear bounds that suit each problem, CROWN-IBP or CROWN; intervals are tried before them.
    """

    def __init__(
        self, bounder: Bounder, prover: Prover, deployed: Deployed, leaf: int, methods: Mapping[int, BoundMethod]
    ) -> None:
        self._bounder = bounder
        self._prover = prover
        self._deployed = deployed
        self._leaf = math.log2(leaf)
        self._methods = methods

    @property
    def is_complete(self) -> bool:
        """Return True: every combination is run in the end, so one that is mislabelled is met."""
        return True

    def root(self, problem: Problem) -> tuple[Point, Point]:
        """Return the ends of all combinations."""
        return problem.lowest, problem.highest

    def evidence(self, number: int, tree: TreeNode) -> Evidence | None:
        """Return the tree."""
        del number
        return Evidence.of_tree(tree)

    def bound(self, branches: Sequence[Branch], seconds: Sequence[float]) -> list[Bounded]:
        """Run the small branches; bound the others by intervals, and by a linear bound what these leave open.

        Args:
            branches: the branches.
            seconds: for each, what proofs of its points, and bounds of hidden values by CROWN, may take.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
            VerifierError: if they cannot be bounded, or the backend fails.
        """
        lowest, highest = (np.stack([branch.state[end] for branch in branches]) for end in (0, 1))
        labels = np.array([branch.problem.label for branch in branches], dtype=np.int64)
        is_leaf = log2_count(lowest, highest) <= self._leaf
        leaves, rest = np.flatnonzero(is_leaf), np.flatnonzero(~is_leaf)
        left = np.asarray(seconds)
        found = self._run(leaves, lowest, highest, labels, left[leaves])
        if len(rest):
            intervals = self._prover.least_margins(lowest[rest], highest[rest], labels[rest], BoundMethod.IBP)
            found |= {
                int(row): Bounded(float(bound), str(BoundMethod.IBP) if bound > 0 else "")
                for row, bound in zip(rest, intervals, strict=True)
            }
        for method in _LINEAR:
            is_next = [
                row
                for row in rest.tolist()
                if not found[row].closed_by and self._methods[branches[row].number] is method
            ]
            if is_next:
                rows = np.array(is_next)
                linear = self._linear(lowest[rows], highest[rows], labels[rows], method, left[rows])
                found |= dict(zip(is_next, linear, strict=True))
        return [found[row] for row in range(len(branches))]

    def _run(
        self, leaves: Rows, lowest: Points, highest: Points, labels: np.ndarray, seconds: np.ndarray
    ) -> dict[int, Bounded]:
        """Run every combination of some branches."""
        if not len(leaves):
            return {}
        groups = [np.concatenate(list(combinations(lowest[row], highest[row], 1024))) for row in leaves]
        sizes = [len(group) for group in groups]
        margins = self._deployed.margins(np.concatenate(groups), np.repeat(labels[leaves], sizes))
        parts = np.split(margins, np.cumsum(sizes)[:-1])
        return {
            int(row): self._ran(cells, int(labels[row]), part, left)
            for row, cells, part, left in zip(leaves, groups, parts, seconds.tolist(), strict=True)
        }

    def _ran(self, cells: Points, label: int, margins: np.ndarray, seconds: float) -> Bounded:
        end = time.perf_counter() + seconds
        is_shown = self._deployed.shown(cells, np.full(len(cells), label, dtype=np.int64), margins, seconds)
        least = float(margins.min())
        if is_shown.all():
            return Bounded(least, RUN)
        reason = self._deployed.undecided(float(margins[np.flatnonzero(~is_shown)[-1]]))
        if time.perf_counter() > end:
            reason = "the time was up before all combinations of a part were proven"
        suspects = cells[np.flatnonzero(margins < -self._deployed.floor)]
        return Bounded(-math.inf if math.isnan(least) else least, suspects=suspects, reason=reason)

    def _linear(
        self, lowest: Points, highest: Points, labels: np.ndarray, method: BoundMethod, seconds: np.ndarray
    ) -> list[Bounded]:
        lower, upper = (torch.from_numpy(self._deployed.front.network_input(end)) for end in (lowest, highest))
        linear = self._bounder.linear_margins(lower, upper, torch.from_numpy(labels), method)
        bounds, worst = (value.cpu().numpy() for value in linear.bounds.min(dim=1))
        likely = np.flatnonzero((bounds > 0) | np.isneginf(bounds))  # -inf claims nothing: then a proof is asked
        what = lowest[likely], highest[likely], labels[likely], method
        bounds[likely] = self._prover.least_margins(*what, seconds=seconds[likely].tolist())
        slopes = linear.coefficients.cpu().numpy()[np.arange(len(labels)), worst]
        front = self._deployed.front
        change = front.change(slopes, lowest, highest)
        corners = np.where(change < 0, highest, lowest)
        margins = self._deployed.margins(corners, labels)
        places = np.where(lowest < highest, np.abs(change), -1.0).reshape(len(labels), -1).argmax(axis=1)
        return [
            Bounded(
                float(bounds[row]),
                str(method) if bounds[row] > 0 else "",
                corners[row : row + 1] if margins[row] < -self._deployed.floor else (),
                int(places[row]),
                partial(halved, lowest[row], highest[row], int(places[row])),
                bytes=2 * lowest[row].nbytes,
            )
            for row in range(len(labels))
        ]


def halved(lowest: Point, highest: Point, pixel: int) -> tuple[tuple[Point, Point], tuple[Point, Point]]:
    """Cut the reachable cells of one pixel in two."""
    place = np.unravel_index(pixel, lowest.shape)
    middle = (int(lowest[place]) + int(highest[place])) // 2
    below, above = highest.copy(), lowest.copy()
    below[place], above[place] = middle, middle + 1
    return (lowest, below), (above, highest)
