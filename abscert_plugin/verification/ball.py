"""The claim `ball`: every image within the radius gets the label from the deployed classifier. The steps, in order."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float32, Int64

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.front import Cells, Images
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.verification.attack import gradient_attack, score_attack
from abscert_plugin.verification.batch import BallBatch, Rows
from abscert_plugin.verification.bounding import Bounding
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell_cut import CellCut
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.enumeration import enumerate_cells
from abscert_plugin.verification.search import Cut, Problem, Search
from abscert_plugin.verification.sign_cut import SignCut

_LINEAR: Final = (BoundMethod.CROWN_IBP, BoundMethod.CROWN)
_MOST_SIGNS: Final = 5_000  # branches that are kept: each has the bounds of all hidden layers
_NO_NETWORK: Final = "the network could not be opened, and running a plain classifier alone certifies nothing"


@final
class BallVerifier:
    """Decides images on the claim `ball`, for a file with cells and for one of plain images alike.

    Sound: `certified` rests on a bound above the floor over all that the ball reaches, or on running every reachable
    combination of cells. `falsified` rests on an image of the ball that was run through the deployed file and got
    another label, by more than the floor. Complete for cells, given time, but for margins within the floor; of plain
    images, what neither attack nor branch and bound decides is `unknown`.

    Args:
        deployed: the deployed classifier.
        white_box: its network for gradients and bounds; None leaves running it.
        ball: radius and kind of images.
        budget: what may be spent on an image.

    Source: AbsCert paper, sections 2 and 4.1; docs/METHOD.md on the two claims.
    """

    def __init__(self, deployed: Deployed, white_box: WhiteBox | None, ball: Ball, budget: Budget) -> None:
        self._deployed = deployed
        self._white_box = white_box
        self.ball = ball
        self._budget = budget
        self._counts_cells = isinstance(deployed.front, Cells)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on."""
        return {
            "claim": Claim.BALL.value,
            **self.ball.radius.as_options(),
            "inputs": str(self.ball.inputs),
            "floor": self.floor,
            "bound_floor": self.bound_floor if self._white_box is not None else None,
            "white_box": self._white_box is not None,
            **self._budget.described(self._counts_cells),
        }

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of torch and auto_LiRPA."""
        return {"torch": torch.__version__, **({"auto_LiRPA": lirpa_version()} if self._white_box is not None else {})}

    @property
    def floor(self) -> float:
        """What a margin must exceed, or be below 0 by, to decide anything."""
        return self._deployed.floor

    def run(self, images: Images) -> Float32[np.ndarray, "batch classes"]:
        """Return the deployed file's logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails.
        """
        return self._deployed.run(images)

    @property
    def bound_floor(self) -> float:
        """What a bound must exceed: the floor, and twice what onnxruntime and the bounded network were apart.

        Twice, since a margin is a difference of two logits.
        """
        return self.floor + (2 * self._white_box.difference if self._white_box is not None else 0.0)

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
            BoundDefectError: if the file contradicts a bound that is about to certify an image.
        """
        reach = self._deployed.front.reach(self.ball, images)
        batch = BallBatch(self._deployed, reach, labels, index, self._budget.seconds)
        return batch.run([batch.forward, *self._steps(batch)])

    def _steps(self, batch: BallBatch) -> list[Callable[[Rows], None]]:
        """Return the steps after the forward pass: cheap ones first; neither can contradict another."""
        if self._white_box is None:
            return self._black_box_steps(batch)
        bounding = Bounding(self._white_box.bounder, self.bound_floor, self._budget)
        only = self._budget.only
        if only is not None:
            return [lambda rows: bounding.alone(batch, rows, only)]

        def bound(method: BoundMethod) -> Callable[[Rows], None]:
            return lambda rows: bounding.bound(batch, rows, method)

        first = [bound(method) for method in self._budget.bounds if method is BoundMethod.IBP]
        linear = [bound(method) for method in self._budget.bounds if method is not BoundMethod.IBP]
        attacks = [lambda rows: self._attack(batch, rows)] if self._budget.attacks else []
        return [
            lambda rows: self._run_small(batch, rows),
            *first,
            *attacks,
            *linear,
            lambda rows: self._search(batch, rows),
        ]

    def _black_box_steps(self, batch: BallBatch) -> list[Callable[[Rows], None]]:
        if not self._counts_cells:
            return [lambda rows: batch.end(rows, Verdict.UNKNOWN, _NO_NETWORK, "none")]
        attacks = [lambda rows: self._attack(batch, rows)] if self._budget.attacks else []
        return [
            lambda rows: self._run_small(batch, rows),
            *attacks,
            lambda rows: self._enumerate(batch, rows),
        ]

    def _run_small(self, batch: BallBatch, rows: Rows) -> None:
        """Run every combination of cells where there are few."""
        if batch.log2_counts is not None:
            most = math.log2(self._budget.exhaustive) + 1e-9
            self._enumerate(batch, rows[batch.log2_counts[rows] <= most])

    def _enumerate(self, batch: BallBatch, rows: Rows) -> None:
        method = "exhaustive"
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
            batch.end([row], Verdict.UNKNOWN if found.failure else Verdict.CERTIFIED, reason, method)

    def _attack(self, batch: BallBatch, rows: Rows) -> None:
        reach, labels, index = batch.reach.take(rows), batch.labels[rows], batch.index[rows]
        with batch.timed(rows):
            until = time.perf_counter() + batch.left(rows)
            if self._white_box is not None:
                method, network = "gradient attack", self._white_box.network
                found = gradient_attack(network, reach, labels, index, self._budget.restarts, until)
            else:
                method = "score attack"
                found = score_attack(self._deployed, reach, labels, index, self._budget.queries, until)
            for place in np.flatnonzero(found.margins < 0):
                batch.refute(int(rows[place]), found.points[place], method)

    def _search(self, batch: BallBatch, rows: Rows) -> None:
        assert self._white_box is not None
        method = "branch and bound"
        problems = {row: self._problem(batch, row) for row in rows.tolist()}
        search = Search(
            self._cut(batch, rows),
            self.bound_floor,
            lambda row, point: batch.refute(row, point, method),
            self._budget if self._counts_cells else replace(self._budget, most_open=_MOST_SIGNS),
        )
        outcomes = search.run(problems)
        certified, unbounded = {}, []
        for row, outcome in outcomes.items():
            batch.seconds[row] += outcome.seconds
            if not batch.is_open[row]:
                continue
            if outcome.is_unbounded and self._counts_cells:  # what cannot be bounded can still be run
                unbounded.append(row)
            elif outcome.certified:
                certified[row] = outcome.margin
            else:
                batch.margin[row] = outcome.margin
                batch.end([row], Verdict.UNKNOWN, outcome.failure, method)
        batch.certify(certified, "every branch was bounded or run", method)
        self._enumerate(batch, np.array(unbounded, dtype=np.int64))

    def _cut(self, batch: BallBatch, rows: Rows) -> Cut:
        """Return how the search cuts: cells, or signs of hidden values where the front has no cells."""
        assert self._white_box is not None
        bounder = self._white_box.bounder
        if not self._counts_cells:
            return SignCut(bounder, self._deployed)
        # the tighter of the two; intervals alone are tighter still on networks that were trained by them
        methods = {
            row: max(_LINEAR, key=lambda kind: batch.bounds.get((row, kind), -math.inf)) for row in rows.tolist()
        }
        return CellCut(bounder, self._deployed, self.bound_floor, self._budget.leaf, methods)

    def _problem(self, batch: BallBatch, row: int) -> Problem:
        """Return what is left to decide of a row, and the time that is left for it."""
        seconds = self._budget.seconds - float(batch.seconds[row])
        return Problem(batch.reach.lowest[row], batch.reach.highest[row], int(batch.labels[row]), seconds)
