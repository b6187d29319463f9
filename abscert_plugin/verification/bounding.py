"""The step that bounds balls, from fast and loose to slow and tight."""

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.bounder import Bounder, BoundMemoryError, BoundMethod
from abscert_plugin.claim import Verdict
from abscert_plugin.errors import VerifierError
from abscert_plugin.front import Reach
from abscert_plugin.verification.batch import BallBatch, Rows
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.evidence import Evidence, storable
from abscert_plugin.verification.guarding import GuardRun
from abscert_plugin.verification.proving import Prover

_CERTIFIES: Final = "a proof bounds every margin above 0"


@final
class Bounding:
    """Proofs of the margins of balls, over boxes that hold all they reach.

    Soundness: a row is certified by a proof alone. What a bounder says in float32 finds slopes, and saves proofs that
    would fail.

    Args:
        prover: proves bounds of the file's margins.
        bounder: bounds its network in float32, where optimised bounds or CROWN-LBP are asked for; None where it is not
            open.
        budget: what may be spent on an image.
        guard: bounds by intervals; None where the prover does.
    """

    def __init__(self, prover: Prover, bounder: Bounder | None, budget: Budget, guard: GuardRun | None = None) -> None:
        self._prover = prover
        self._guard = guard
        self._bounder = bounder
        self._budget = budget

    def bound(self, batch: BallBatch, rows: Rows, method: BoundMethod) -> None:
        """Certify the rows of which a proof bounds all margins above 0.

        A method that fails leaves a row to the next one.

        Raises:
            BoundDefectError: if the file contradicts a proof.
        """
        self._bound(batch, rows, method, self._budget.bounds_at_once)

    def alone(self, batch: BallBatch, rows: Rows, method: BoundMethod) -> None:
        """Decide rows by one bound: what it does not certify is unknown.

        Raises:
            BoundDefectError: if the file contradicts a proof.
        """
        # CROWN-LBP has planes in all pixels for every neuron: more boxes at once take longer, for memory alone
        size = 1 if method is BoundMethod.CROWN_LBP else self._budget.bounds_at_once
        # slopes begin with those of CROWN, whose own proof may be tighter than what float32 finds
        tried = (method, BoundMethod.CROWN) if method is BoundMethod.OPTIMISED else (method,)
        for one in tried:
            self._bound(batch, rows[batch.is_open[rows]], one, size)
        for row in rows[batch.is_open[rows]].tolist():
            found = [batch.bounds[row, one] for one in tried if (row, one) in batch.bounds]
            batch.margin[row] = max(found, default=batch.margin[row])
        reason = f"no lower bound by {method} is above 0"
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
        reach, labels = batch.reach.take(part), batch.labels[part]
        try:
            seen, slopes = self._seen(reach, labels, method)
            likely = np.flatnonzero(seen > 0)
            reach, labels, slopes = reach.take(likely), labels[likely], [slope[likely] for slope in slopes]
            if method is BoundMethod.IBP and self._guard is not None:
                proven = self._guard.margins(reach.images, labels)
            else:
                is_open = all((row, BoundMethod.IBP) in batch.bounds for row in part.tolist())
                seconds = (self._budget.seconds - batch.seconds[part[likely]]).tolist()
                proven = self._prover.least_margins(
                    reach.lowest, reach.highest, labels, method, slopes, is_open, seconds=seconds
                )
        except BoundMemoryError:
            return False
        except VerifierError:
            return True
        seen[likely] = proven
        batch.bounds |= {(row, method): bound for row, bound in zip(part.tolist(), seen.tolist(), strict=True)}
        certified = {int(part[place]): float(seen[place]) for place in likely if seen[place] > 0}
        for place, row in enumerate(part[likely].tolist()):
            if slopes and row in certified:
                batch.evidence[row] = Evidence.of_slopes([slope[place] for slope in slopes])
        # without slopes to follow, the lines that proved it were those of CROWN: a check finds them by this name
        by = BoundMethod.CROWN if method is BoundMethod.OPTIMISED and not slopes else method
        batch.certify(certified, _CERTIFIES, str(by), self._prover.arithmetic)
        return True

    def _seen(self, reach: Reach, labels: np.ndarray, method: BoundMethod) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return what float32 bounds say of each row, and the slopes they found; infinite where nothing is known.

        Raises:
            VerifierError: if there are none, and a proof alone will not do.
        """
        if method not in (BoundMethod.OPTIMISED, BoundMethod.CROWN_LBP):
            # proofs take less time: they are of open margins alone, and CROWN's over windows
            return np.full(len(labels), np.inf), []
        if self._bounder is None:
            raise VerifierError(f"expected a network that can be opened, for bounds by {method}")
        lower, upper = map(torch.from_numpy, reach.box())
        if method is BoundMethod.OPTIMISED:
            found = self._bounder.optimised_margins(lower, upper, torch.from_numpy(labels))
            return found.bounds.amin(dim=1).numpy(), self._of_file(found.slopes)
        return self._bounder.margins(lower, upper, torch.from_numpy(labels), method).amin(dim=1).numpy(), []

    def _of_file(self, slopes: Sequence[Tensor]) -> list[np.ndarray]:
        """Return slopes as they are kept, [batch, others, size] each; none where they are of other ReLUs."""
        found = [storable(slope.cpu().flatten(2).numpy()) for slope in slopes]
        return found if tuple(slope.shape[2] for slope in found) == self._prover.sizes else []
