"""A solver for abscert: interval bounds of the file's network, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Arithmetic
from abscert_plugin.data import DataSet
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.reading.network import largest_difference
from abscert_plugin.verification.batch import BallBatch
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.solvers import SolverEntry


@dataclass(frozen=True)
class Intervals:
    """Decides images by interval bounds, for a file that is opened."""

    deployed: Deployed
    network: WhiteBox
    difference: float
    ball: Ball
    budget: Budget

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What its verdicts depend on, besides the claim."""
        return {"bounds": str(BoundMethod.IBP)}

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of its libraries."""
        return {"torch": torch.__version__}

    def decide(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Sequence[Decided]:
        """Return the verdicts, in order; what no step decides is `unknown`."""
        reach = self.deployed.front.reach(self.ball, images)
        batch = BallBatch(self.deployed, reach, labels, index, self.budget.seconds)
        return batch.run([batch.forward, lambda rows: self._bound(batch, rows)])

    def _bound(self, batch: BallBatch, rows: np.ndarray) -> None:
        """Certify the images whose bound is above the floor and twice what the file and the network differ by."""
        lower, upper = (torch.from_numpy(end) for end in batch.reach.take(rows).box())
        labels = torch.from_numpy(batch.labels[rows])
        with batch.timed(rows):
            margins = self.network.bounder.margins(lower, upper, labels, BoundMethod.IBP).amin(dim=1)
        floor = self.deployed.floor + 2 * self.difference
        bounds = dict(zip(rows.tolist(), margins.tolist(), strict=True))
        certified = {row: bound for row, bound in bounds.items() if bound > floor}
        batch.certify(certified, "interval bounds", "ibp", Arithmetic.REAL)  # of real numbers, in float32


def open_intervals(artifact: Artifact, data: DataSet, ball: Ball, budget: Budget) -> Intervals:  # noqa: ARG001
    """Return the solver of a file."""
    white_box = open_white_box(artifact)
    return Intervals(Deployed(artifact), white_box, largest_difference(white_box.network, artifact), ball, budget)


INTERVALS = SolverEntry("intervals", "interval bounds alone", open_intervals)
