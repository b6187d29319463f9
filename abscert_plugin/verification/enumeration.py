"""Enumeration: run every reachable combination of cells. Sound and complete, for any black box."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from abscert_plugin.front import Point, combinations
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.search import Problem

_TIME_OUT: Final = "time-out of the enumeration"


@final
@dataclass(frozen=True, slots=True)
class Enumerated:
    """What running combinations of cells has shown.

    Args:
        margin: the least margin seen, NaN if a logit was not a finite number.
        failure: why they do not show that all have the label; empty where they do.
    """

    margin: float
    failure: str


def enumerate_cells(deployed: Deployed, problem: Problem, refutes: Callable[[Point], bool]) -> Enumerated:
    """Run every combination of cells, until one is refuted or time is up.

    Args:
        deployed: the classifier.
        problem: the combinations, their label, and the time.
        refutes: told of a combination that is mislabelled; returns whether an image of the ball confirms it.

    Raises:
        VerifierError: if the backend fails.
    """
    end = time.perf_counter() + problem.seconds
    least, failure, begun = float("inf"), "", False
    for cells in combinations(problem.lowest, problem.highest, deployed.batch_size):
        if begun and time.perf_counter() > end:
            return Enumerated(least, _TIME_OUT)
        labels = np.full(len(cells), problem.label, dtype=np.int64)
        margins = deployed.margins(cells, labels)
        begun = True
        least = float(np.minimum(least, margins.min()))  # NaN stays NaN
        for row in np.flatnonzero(~deployed.shown(cells, labels, margins, end - time.perf_counter())):
            failure = deployed.undecided(float(margins[row]))
            if margins[row] < -deployed.floor and refutes(cells[row]):
                return Enumerated(least, failure)
    # what is not shown once the time is up might have been
    return Enumerated(least, _TIME_OUT if failure and time.perf_counter() > end else failure)
