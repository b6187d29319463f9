"""The claim `ball`: every image within the radius gets the label from the deployed classifier. The steps, in order."""

import math
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.verification.attack import Candidates, gradient_attack, score_attack
from abscert_plugin.verification.batch import Batch
from abscert_plugin.verification.branch_and_bound import BranchAndBound
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import DeployedCells, Part
from abscert_plugin.verification.exhaustive import enumerate_cells
from abscert_plugin.verification.reach import Ball, Reach
from abscert_plugin.verification.steps import Bounding, Budget, Step, run_steps

_LINEAR: Final = (BoundMethod.CROWN_IBP, BoundMethod.CROWN)


@final
class BallVerifier:
    """Decides images on the claim `ball`.

    Sound: `certified` rests on a bound above the floor, or on running every reachable combination of cells.
    `falsified` rests on an image of the ball that was run through the deployed file and got another label, by more
    than the floor. Complete, given time, but for margins within the floor.

    Args:
        deployed: the deployed classifier.
        white_box: its interval network for gradients and bounds; None leaves running it.
        ball: radius and kind of images.
        budget: what may be spent on an image.

    Source: AbsCert paper, sections 2 and 4.1; design.md section 1.
    """

    def __init__(self, deployed: DeployedCells, white_box: WhiteBox | None, ball: Ball, budget: Budget) -> None:
        self._deployed = deployed
        self._white_box = white_box
        self.ball = ball
        self._budget = budget
        self._bounding = Bounding(white_box.bounder, self.bound_floor, budget) if white_box is not None else None

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on."""
        return {
            "claim": Claim.BALL.value,
            **self.ball.radius.as_options(),
            "inputs": str(self.ball.inputs),
            "floor": self._deployed.floor,
            "bound_floor": self.bound_floor if self._white_box is not None else None,
            "white_box": self._white_box is not None,
            "timeout_seconds": self._budget.seconds,
            "exhaustive": self._budget.exhaustive,
            "restarts": self._budget.restarts,
            "queries": self._budget.queries,
            **self._budget.chosen,
        }

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of torch and auto_LiRPA."""
        return {"torch": torch.__version__, **({"auto_LiRPA": lirpa_version()} if self._white_box is not None else {})}

    @property
    def floor(self) -> float:
        """What a margin must exceed, or be below 0 by, to decide anything."""
        return self._deployed.floor

    def run(self, images: Float32[np.ndarray, "batch channels height width"]) -> Float32[np.ndarray, "batch classes"]:
        """Return the deployed file's logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails.
        """
        return self._deployed.run(images)

    @property
    def bound_floor(self) -> float:
        """What a bound must exceed: the floor, and twice what onnxruntime and the bounded network were apart."""
        return self._deployed.floor + (2 * self._white_box.difference if self._white_box is not None else 0.0)

    def decide(
        self,
        images: Float32[np.ndarray, "batch channels height width"],
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> list[Decided]:
        """Return the verdicts on a batch of images, in order.

        Args:
            images: pixels on the pixel scale [0, 1].
            labels: classes from 0.
            index: each image's place in its data set.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
        """
        reach = self.ball.reach(self._deployed.metadata.grid, images)
        batch = _CellBatch(self._deployed, reach, labels, index)
        steps: list[Step] = [lambda _: batch.forward("the ball lies in the image's own cells")]
        bounds = [] if self._bounding is None else self._bounding.steps(batch, lambda rows: reach.take(rows).box())
        if self._budget.only is not None:
            steps += bounds
        else:
            steps += [lambda rows: self._exhaustive(batch, rows), lambda rows: self._attack(batch, rows), *bounds]
            steps.append(lambda rows: self._search(batch, rows))
        run_steps(batch, steps, self._budget.seconds)
        return batch.decided()

    def _exhaustive(self, batch: "_CellBatch", rows: Int64[np.ndarray, "some"]) -> None:
        for row in rows[batch.counts[rows] <= math.log2(self._budget.exhaustive) + 1e-9]:
            self._enumerate(batch, int(row), self._budget.seconds)

    def _enumerate(self, batch: "_CellBatch", row: int, seconds: float) -> None:
        reach = batch.reach
        method = "exhaustive"
        found = enumerate_cells(
            self._deployed,
            Part(reach.lowest[row], reach.highest[row], int(batch.labels[row]), seconds),
            lambda cells: batch.refute(row, cells, method),
        )
        if not batch.is_open[row]:
            return
        batch.margin[row] = found.margin
        if found.failure:
            batch.end([row], Verdict.UNKNOWN, found.failure, method)
        else:
            reason = "every reachable combination of cells was run"
            batch.end([row], Verdict.CERTIFIED, reason, method)

    def _attack(self, batch: "_CellBatch", rows: Int64[np.ndarray, "some"]) -> None:
        reach, labels, index = batch.reach.take(rows), batch.labels[rows], batch.index[rows]
        found: Candidates
        if self._white_box is not None:
            found, method = (
                gradient_attack(self._white_box.network, reach, labels, index, self._budget.restarts),
                "gradient attack",
            )
        else:
            found, method = score_attack(self._deployed, reach, labels, index, self._budget.queries), "score attack"
        for place in np.flatnonzero(found.margins < 0):
            batch.refute(int(rows[place]), found.cells[place], method)

    def _search(self, batch: "_CellBatch", rows: Int64[np.ndarray, "some"]) -> None:
        if self._white_box is None:
            for row in rows:
                self._enumerate(batch, int(row), self._budget.seconds - batch.seconds[row])
            return
        method = "branch and bound"
        search = BranchAndBound(
            self._white_box.bounder,
            self._deployed,
            self.bound_floor,
            lambda row, cells: batch.refute(row, cells, method),
        )
        reach = batch.reach
        parts = {
            int(row): Part(
                reach.lowest[row], reach.highest[row], int(batch.labels[row]), self._budget.seconds - batch.seconds[row]
            )
            for row in rows
        }
        # the tighter of the two; intervals alone are tighter still on networks that were trained by them
        methods = {row: max(_LINEAR, key=lambda kind: batch.bounds.get((row, kind), -math.inf)) for row in parts}
        for row, result in search.run(parts, methods).items():
            if batch.is_open[row] and result.is_unbounded:  # what cannot be bounded can still be run
                self._enumerate(batch, row, parts[row].seconds - result.seconds)
            if batch.is_open[row]:
                batch.margin[row] = result.margin
                verdict = Verdict.CERTIFIED if result.certified else Verdict.UNKNOWN
                reason = result.failure or "every branch was bounded or run"
                batch.end([row], verdict, reason, method)


@final
class _CellBatch(Batch):
    """A batch of balls and the cells that they reach."""

    def __init__(
        self,
        deployed: DeployedCells,
        reach: Reach,
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> None:
        counts = reach.log2_counts
        super().__init__(deployed.run, deployed.floor, reach.ball, reach.images, labels, index, counts, counts == 0)
        self.reach = reach
        self.counts = counts

    def refute(self, row: int, cells: UInt8[np.ndarray, "channels height width"], method: str) -> bool:
        """Replay an image of the ball in these cells through the deployed file; return whether it is mislabelled."""
        image = self.reach.image_in(row, cells)
        return image is not None and self.replay(row, image, method)
