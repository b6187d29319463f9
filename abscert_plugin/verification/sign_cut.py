"""Cutting by the sign of what enters a ReLU: at most 0, or at least 0."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.bounder import Bounder, SplitMargins
from abscert_plugin.front import Points
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.search import Bounded, Branch, Problem

_LOWER_LINE: Final = 0.1  # how much the lower line of a ReLU counts beside the upper one in choosing a cut
_NONE_LEFT: Final = "no ReLU is left to split, and the bounds do not decide it"
Hidden: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Bounds of what enters each ReLU, by its name: a branch's state; empty for the root, whose are not computed yet."""


@final
class SignCut:
    """Cuts by signs of hidden values; the box of inputs stays whole.

    Sound: a ReLU's input is at most 0 or at least 0. The signs that were fixed narrow the lines of their ReLUs and are
    not handed to the bound as constraints (as beta-CROWN does), so a problem may end with no ReLU left and undecided.

    Args:
        bounder: bounds of the network.
        deployed: the classifier, for the corners that may be mislabelled.

    Source: Bunel et al. 2020 (branch and bound, and the score of a split); bounds by Zhang et al. 2018.
    """

    def __init__(self, bounder: Bounder, deployed: Deployed) -> None:
        self._bounder = bounder
        self._deployed = deployed

    @property
    def is_complete(self) -> bool:
        """Return False: corners are tried on the way, and other parts have the same ones."""
        return False

    def root(self, problem: Problem) -> Hidden:
        """Return no bounds: they are computed with the first bound."""
        del problem
        return {}

    def bound(self, branches: Sequence[Branch]) -> list[Bounded]:
        """Bound branches by CROWN, all of them roots or none.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
            VerifierError: if they cannot be bounded, or the backend fails.
        """
        front = self._deployed.front
        lowest = np.stack([branch.problem.lowest for branch in branches])
        highest = np.stack([branch.problem.highest for branch in branches])
        labels = np.array([branch.problem.label for branch in branches], dtype=np.int64)
        hidden = {
            name: (
                torch.stack([branch.state[name][0] for branch in branches]),
                torch.stack([branch.state[name][1] for branch in branches]),
            )
            for name in branches[0].state
        }
        lower, upper = (torch.from_numpy(front.network_input(end)) for end in (lowest, highest))
        found = self._bounder.split_margins(lower, upper, torch.from_numpy(labels), hidden)
        bounds, worst = found.bounds.min(dim=1)
        slopes = found.coefficients[torch.arange(len(branches)), worst].numpy()
        corners = np.where(front.change(slopes, lowest, highest) < 0, highest, lowest)
        margins = self._deployed.margins(corners, labels)
        return [
            self._bounded(found, row, float(bounds[row]), int(worst[row]), corners[row : row + 1] if is_wrong else ())
            for row, is_wrong in enumerate(margins < -self._deployed.floor)
        ]

    def _bounded(
        self, found: SplitMargins, row: int, bound: float, worst: int, suspects: Points | tuple[()]
    ) -> Bounded:
        hidden = {name: (ends[0][row].clone(), ends[1][row].clone()) for name, ends in found.hidden.items()}
        pulls = {name: slope[row, worst] for name, slope in found.relu_coefficients.items()}
        split = _best_split(hidden, pulls)
        halves: Callable[[], tuple[Hidden, Hidden]] | None = None if split is None else partial(_halves, hidden, *split)
        return Bounded(bound, suspects, halves, _NONE_LEFT)


def _best_split(hidden: Hidden, pulls: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Return the ReLU whose relaxation costs the bound most, or None where every sign is known."""
    best, chosen = 0.0, None
    for name, pull in pulls.items():
        if name not in hidden:  # of the input itself no bounds are kept
            continue
        low, high = hidden[name]
        unstable = (low < 0) & (high > 0)
        if not bool(unstable.any()):
            continue
        upper_line = (-pull).clamp(min=0) * (-low * high / (high - low).clamp(min=1e-12))
        lower_line = pull.clamp(min=0) * torch.minimum(-low, high)
        score = torch.where(unstable, upper_line + _LOWER_LINE * lower_line + 1e-12, 0.0).reshape(-1)
        place = int(score.argmax())
        if float(score[place]) > best:
            best, chosen = float(score[place]), (name, place)
    return chosen


def _halves(hidden: Hidden, name: str, place: int) -> tuple[Hidden, Hidden]:
    """Return the bounds of hidden layers with the chosen ReLU's input at most 0, and at least 0."""
    low, high = hidden[name]
    below, above = high.clone(), low.clone()
    below.view(-1)[place] = 0.0
    above.view(-1)[place] = 0.0
    return {**hidden, name: (low, below)}, {**hidden, name: (above, high)}
