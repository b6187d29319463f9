"""The steps that look for counterexamples: a cheap one, one from corners of bounds, a strong one for what is left."""

import time
from functools import partial
from typing import Final, final

import numpy as np

from abscert_plugin.front import Point
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.verification.attack import gradient_attack, score_attack
from abscert_plugin.verification.batch import BallBatch, Rows
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.guide import Guide, guides
from abscert_plugin.verification.strong_attack import StrongAttack

_CORNER_SHARE: Final = 0.25  # of the time that an image has left
_STRONG_SHARE: Final = 0.05  # the first start finds nearly all, and the branch and bound may be done soon


@final
class Refuting:
    """Attacks on the balls of a batch. What they find is replayed through the deployed file before it is believed.

    Args:
        deployed: the deployed classifier.
        white_box: its network; None leaves an attack on scores alone.
        budget: what may be spent on an image.
        batch: the balls.
    """

    def __init__(self, deployed: Deployed, white_box: WhiteBox | None, budget: Budget, batch: BallBatch) -> None:
        self._deployed = deployed
        self._white_box = white_box
        self._budget = budget
        self._batch = batch
        self._guides: dict[int, Guide] = {}

    def cheaply(self, rows: Rows) -> None:
        """Refute what few starts refute, before linear bounds are computed; without a network, by scores."""
        batch, until = self._batch, 0.0
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

    def from_corners(self, rows: Rows) -> None:
        """Refute what one start towards each open class does: most of what is found, and less time than CROWN."""
        self._walk(rows, range(1), _CORNER_SHARE)

    def strongly(self, rows: Rows) -> None:
        """Refute what many starts do, of what no bound decided, in a part of the time that is left."""
        self._walk(rows, range(1, self._budget.strong_restarts), _STRONG_SHARE)

    def _walk(self, rows: Rows, numbers: range, share: float) -> None:
        batch = self._batch
        if self._white_box is None or not len(numbers):
            return
        reach, labels = batch.reach.take(rows), batch.labels[rows]
        unknown = np.flatnonzero([row not in self._guides for row in rows.tolist()])
        if len(unknown):
            with batch.timed(rows[unknown]):
                found = guides(self._white_box.network, self._white_box.bounder, reach.take(unknown), labels[unknown])
                self._guides |= dict(zip(rows[unknown].tolist(), found, strict=True))
        attack = StrongAttack(
            self._white_box.network,
            reach,
            labels,
            batch.index[rows],
            [self._guides[row] for row in rows.tolist()],
            self._deployed.floor,
        )
        left = (self._budget.seconds - batch.seconds[rows]).clip(min=0)
        try:
            attack.run(numbers, share * left, partial(self._refutes, rows))
        finally:
            batch.seconds[rows] += attack.spent

    def _refutes(self, rows: Rows, place: int, point: Point) -> bool:
        return self._batch.refute(int(rows[place]), point, "gradient attack")
