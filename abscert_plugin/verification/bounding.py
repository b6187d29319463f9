"""The step that bounds balls, from fast and loose to slow and tight."""

import math
import time
from typing import Final, final

import torch

from abscert_plugin.bounds.bounder import Bounder, BoundMemoryError, BoundMethod
from abscert_plugin.claim import Verdict
from abscert_plugin.errors import VerifierError
from abscert_plugin.verification.batch import BallBatch, Rows
from abscert_plugin.verification.budget import Budget

_OPTIMISED_COST: Final = 60  # of one CROWN bound: 20 steps forth and back
_CERTIFIES: Final = "a lower bound of every margin is above the floor"


@final
class Bounding:
    """Bounds of the margins of balls, over boxes that hold all they reach.

    Args:
        bounder: bounds the network.
        floor: what a bound must exceed.
        budget: what may be spent on an image.
    """

    def __init__(self, bounder: Bounder, floor: float, budget: Budget) -> None:
        self._bounder = bounder
        self._floor = floor
        self._budget = budget
        self._pace: dict[BoundMethod, float] = {}  # seconds a box that each method last took

    def bound(self, batch: BallBatch, rows: Rows, method: BoundMethod) -> None:
        """Certify the rows whose bounds of all margins are above the floor.

        A method that fails leaves a row to the next one.

        Raises:
            BoundDefectError: if the file contradicts a bound.
        """
        if method is BoundMethod.OPTIMISED:
            # its steps each cost about three of CROWN: only where half of the time left suffices, the search is better
            likely = self._pace.get(method, _OPTIMISED_COST * self._pace.get(BoundMethod.CROWN, math.inf))
            rows = rows[likely <= (self._budget.seconds - batch.seconds[rows]) / 2]
        self._bound(batch, rows, method, self._budget.bounds_at_once)

    def alone(self, batch: BallBatch, rows: Rows, method: BoundMethod) -> None:
        """Decide rows by one bound: what it does not certify is unknown.

        Raises:
            BoundDefectError: if the file contradicts a bound.
        """
        # CROWN-LBP has planes in all pixels for every neuron: more boxes at once take longer, for memory alone
        size = 1 if method is BoundMethod.CROWN_LBP else self._budget.bounds_at_once
        self._bound(batch, rows, method, size)
        for row in rows[batch.is_open[rows]].tolist():
            batch.margin[row] = batch.bounds.get((row, method), batch.margin[row])
        reason = f"no lower bound by {method} is above the floor"
        batch.end(batch.in_time(rows), Verdict.UNKNOWN, reason, str(method))

    def _bound(self, batch: BallBatch, rows: Rows, method: BoundMethod, size: int) -> None:
        for start in range(0, len(rows), size):
            part = batch.in_time(rows[start : start + size])
            if not len(part):
                continue
            with batch.timed(part):
                fits = self._bound_part(batch, part, method)
            if not fits and size > 1:  # else the next method, or the search, may still decide it
                self._bound(batch, part, method, max(1, size // 2))

    def _bound_part(self, batch: BallBatch, part: Rows, method: BoundMethod) -> bool:
        """Bound rows in one call; return whether memory sufficed for it."""
        began = time.perf_counter()
        lower, upper = batch.reach.take(part).box()
        labels = torch.from_numpy(batch.labels[part])
        try:
            margins = self._bounder.margins(torch.from_numpy(lower), torch.from_numpy(upper), labels, method)
        except BoundMemoryError:
            return False
        except VerifierError:
            return True
        self._pace[method] = (time.perf_counter() - began) / len(part)
        found = dict(zip(part.tolist(), margins.amin(dim=1).tolist(), strict=True))
        batch.bounds |= {(row, method): bound for row, bound in found.items()}
        batch.certify({row: bound for row, bound in found.items() if bound > self._floor}, _CERTIFIES, str(method))
        return True
