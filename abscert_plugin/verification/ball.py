"""The claim `ball`: every image within the radius gets the label from the deployed classifier. The steps, in order."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.front import Cells, Images
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.records import EXHAUSTIVE, SEARCHED
from abscert_plugin.verification.batch import BallBatch, Rows
from abscert_plugin.verification.bounding import Bounding
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell_cut import CellCut
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.enumeration import enumerate_cells
from abscert_plugin.verification.guarding import GuardRun
from abscert_plugin.verification.refuting import Refuting
from abscert_plugin.verification.search import Cut, Problem, Search
from abscert_plugin.verification.sign_cut import SignCut

_LINEAR: Final = (BoundMethod.CROWN_IBP, BoundMethod.CROWN)
_SHARE_OF_HIDDEN: Final = 0.25  # of the time that is left, before cells are cut
_FEW_LEAVES: Final = 64  # a ball that cells cut into no more of them is mostly done before hidden values are bounded
_SHARE_OF_FEW: Final = 0.5  # of the time that is left for such a ball, before it is searched as others are
_ENTRIES: Final = 2**24  # of all tensors, over the problems that are searched at once
_NO_NETWORK: Final = "no proof was found, and running a plain classifier alone certifies nothing"


@final
class BallVerifier:
    """Decides images on the claim `ball`, for a file with cells and for one of plain images alike.

    Sound: `certified` rests on a proof (`proving`) over all that the ball reaches, or on running every reachable
    combination of cells, and holds in the arithmetic that is asked for of the deployed file. `falsified` rests on an
    image of the ball that was run through that file and got another label, by more than the floor. Complete for cells,
    given time, but for margins that rounding may undo; of plain images, what neither attack nor branch and bound
    decides is `unknown`.

    Args:
        deployed: the deployed classifier.
        white_box: its network for gradients, and for the float32 bounds that steer; None leaves proofs and running it.
        ball: radius and kind of images.
        budget: what may be spent on an image.
        guard: bounds by intervals; None where proofs do.

    Source: AbsCert paper, sections 2 and 4.1; docs/METHOD.md on the two claims.
    """

    def __init__(
        self,
        deployed: Deployed,
        white_box: WhiteBox | None,
        ball: Ball,
        budget: Budget,
        guard: GuardRun | None = None,
    ) -> None:
        self._guard = guard
        self._deployed = deployed
        self._white_box = white_box
        self.ball = ball
        self._budget = budget
        self._counts_cells = isinstance(deployed.front, Cells)

    @property
    def _unbounded(self) -> str:
        return self._white_box.unbounded if self._white_box is not None else ""

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on."""
        return {
            "claim": Claim.BALL.value,
            **self.ball.radius.as_options(),
            "inputs": str(self.ball.inputs),
            "arithmetic": str(self._deployed.arithmetic),
            "floor": self.floor,
            "proofs": self._deployed.prover is not None,
            "white_box": self._white_box is not None,
            # where there are none, proofs are tried without, and gradients tell where to cut
            **({"no_bounds_by_auto_LiRPA": self._unbounded} if self._unbounded else {}),
            **self._budget.described(self._counts_cells),
        }

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of torch and auto_LiRPA."""
        is_asked = self._white_box is not None and not self._unbounded
        return {"torch": torch.__version__, **({"auto_LiRPA": lirpa_version()} if is_asked else {})}

    @property
    def floor(self) -> float:
        """What a margin of a run must exceed, or be below 0 by, to decide anything."""
        return self._deployed.floor

    def run(self, images: Images) -> Float32[np.ndarray, "batch classes"]:
        """Return the deployed file's logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails.
        """
        return self._deployed.run(images)

    def decide(
        self, images: Images, labels: Int64[np.ndarray, "batch"], index: Int64[np.ndarray, "batch"]
    ) -> list[Decided]:
        """Return the verdicts on a batch of images, in order.

        Args:
            images: pixels on the pixel scale [0, 1].
            labels: classes from 0.
            index: each image's place in its data set.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
            BoundDefectError: if the file contradicts a proof that is about to certify an image.
        """
        reach = self._deployed.front.reach(self.ball, images)
        batch = BallBatch(self._deployed, reach, labels, index, self._budget.seconds)
        return batch.run([batch.forward, *self._steps(batch)])

    def _steps(self, batch: BallBatch) -> list[Callable[[Rows], None]]:
        """Return the steps after the forward pass: cheap ones first; neither can contradict another."""
        bounding = self._bounding()
        only = self._budget.only
        if only is not None:
            return [lambda rows: bounding.alone(batch, rows, only)] if bounding is not None else [self._none(batch)]

        def bound(methods: Iterable[BoundMethod]) -> list[Callable[[Rows], None]]:
            return [partial(bounding.bound, batch, method=method) for method in methods] if bounding is not None else []

        first = [method for method in self._budget.bounds if method is BoundMethod.IBP]
        quick = [method for method in self._budget.bounds if method is BoundMethod.CROWN_IBP]
        slow = [method for method in self._budget.bounds if method not in (*first, *quick)]
        refuting = Refuting(self._deployed, self._white_box, self._budget, batch) if self._budget.attacks else None
        return [
            *bound(first),
            lambda rows: self._run_small(batch, rows),
            *([refuting.cheaply] if refuting is not None else []),
            *bound(quick),
            *([refuting.from_corners] if refuting is not None else []),
            *bound(slow),
            *([refuting.strongly] if refuting is not None else []),
            self._last(batch),
        ]

    def _bounding(self) -> Bounding | None:
        prover, white_box = self._deployed.prover, self._white_box
        return None if prover is None else Bounding(prover, white_box and white_box.bounder, self._budget, self._guard)

    def _last(self, batch: BallBatch) -> Callable[[Rows], None]:
        """Return the step that takes all the time that is left."""
        prover = self._deployed.prover
        if prover is not None and (self._white_box is not None or not self._counts_cells):
            return lambda rows: self._search_some(batch, rows, max(1, _ENTRIES // max(1, prover.entries)))
        return (lambda rows: self._enumerate(batch, rows)) if self._counts_cells else self._none(batch)

    def _none(self, batch: BallBatch) -> Callable[[Rows], None]:
        reason = self._deployed.note or _NO_NETWORK
        return lambda rows: batch.end(rows, Verdict.UNKNOWN, reason, "none")

    def _run_small(self, batch: BallBatch, rows: Rows) -> None:
        """Run every combination of cells where there are few."""
        if batch.log2_counts is not None:
            self._enumerate(batch, rows[_has_few(batch.log2_counts[rows], self._budget.exhaustive)])

    def _enumerate(self, batch: BallBatch, rows: Rows) -> None:
        method = EXHAUSTIVE
        for row in rows.tolist():
            if not len(batch.in_time(np.array([row]))):
                continue
            with batch.timed(np.array([row])):
                problem = self._problem(batch, row)
                found = enumerate_cells(self._deployed, problem, partial(batch.refute, row, method=method))
            if not batch.is_open[row]:
                continue
            batch.margin[row] = found.margin
            reason = found.failure or "every reachable combination of cells was run"
            if found.failure:
                batch.end([row], Verdict.UNKNOWN, reason, method)
            else:
                batch.affirm(row, reason, method, self._deployed.arithmetic)

    def _search_some(self, batch: BallBatch, rows: Rows, size: int) -> None:
        """Search a few problems at once: each keeps what is known of all its tensors."""
        for start in range(0, len(rows), size):
            self._search(batch, rows[start : start + size])

    def _search(self, batch: BallBatch, rows: Rows) -> None:
        """Search by hidden values; cells, where the front has them, take over what that leaves open in its time.

        Balls of few combinations are searched by cells first, which decides most of them, and sooner.
        """
        prover = self._deployed.prover
        assert prover is not None
        hidden = SignCut(prover, self._deployed)
        if not self._counts_cells:
            self._search_by(hidden, batch, rows, 1.0)
            return
        assert self._white_box is not None
        assert batch.log2_counts is not None
        is_few = _has_few(batch.log2_counts[rows], _FEW_LEAVES * self._budget.leaf)
        # the tighter of the two; intervals alone are tighter still on networks that were trained by them
        methods = {
            row: max(_LINEAR, key=lambda kind: batch.bounds.get((row, kind), -math.inf)) for row in rows.tolist()
        }
        cells = CellCut(self._white_box.bounder, prover, self._deployed, self._budget.leaf, methods)
        self._search_by(cells, batch, rows[is_few], _SHARE_OF_FEW)
        self._search_by(hidden, batch, batch.in_time(rows), _SHARE_OF_HIDDEN)
        self._search_by(cells, batch, batch.in_time(rows), 1.0)

    def _search_by(self, cut: Cut, batch: BallBatch, rows: Rows, share: float) -> None:
        """Search by cuts of one kind, in a share of the time that is left.

        What stays open ends where the share is all of it, and where more time would not help: if a complete search is
        through, or bounds nothing.
        """
        method = SEARCHED
        problems = {row: self._problem(batch, row, share) for row in rows.tolist()}
        search = Search(cut, lambda row, point: batch.refute(row, point, method), self._budget)
        outcomes = search.run(problems)
        certified, unbounded = {}, []
        for row, outcome in outcomes.items():
            batch.seconds[row] += outcome.seconds
            if not batch.is_open[row]:
                continue
            if outcome.certified:
                certified[row] = outcome.margin
                batch.evidence[row] = cut.evidence(row, outcome.tree) if outcome.lines.are_whole else None
            elif share < 1 and not (cut.is_complete and (outcome.is_unbounded or outcome.failure == outcome.stuck)):
                continue
            elif outcome.is_unbounded and self._counts_cells:  # what cannot be bounded can still be run
                unbounded.append(row)
            else:
                batch.margin[row] = outcome.margin
                batch.end([row], Verdict.UNKNOWN, outcome.failure, method)
        batch.certify(certified, "every branch was proven or run", method, self._deployed.arithmetic)
        self._enumerate(batch, np.array(unbounded, dtype=np.int64))

    def _problem(self, batch: BallBatch, row: int, share: float = 1.0) -> Problem:
        """Return what is left to decide of a row, and a share of the time that is left for it."""
        seconds = share * (self._budget.seconds - float(batch.seconds[row]))
        return Problem(batch.reach.lowest[row], batch.reach.highest[row], int(batch.labels[row]), seconds)


def _has_few(log2_counts: Float64[np.ndarray, "row"], most: int) -> Bool[np.ndarray, "row"]:
    """Return which counts of combinations, as logarithms that were rounded, are no more than a number."""
    return log2_counts <= math.log2(most) + 1e-9
