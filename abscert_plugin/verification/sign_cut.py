"""Cutting by the sign of what enters a ReLU: at most 0, or at least 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.bounder import Bounder, HiddenBounds, SplitMargins
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.front import Points
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.proving import Prover, Signs, joined
from abscert_plugin.verification.search import Bounded, Branch, Problem

_LOWER_LINE: Final = 0.1  # how much the lower line of a ReLU counts beside the upper one in choosing a cut
_NONE_LEFT: Final = "no ReLU is left to split, and the bounds do not decide it"
_OTHER_LAYERS: Final = "the ReLUs of the opened network are not those of the file, one by one"
Hidden: TypeAlias = dict[str, tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A branch's state.

    Args:
        hidden: float32 bounds of what enters each ReLU, by its name in the opened network; empty for the root, whose
            are not computed yet.
        signs: the signs that were fixed.
    """

    hidden: Hidden
    signs: Signs


@final
class SignCut:
    """Cuts by signs of hidden values; the box of inputs stays whole.

    Sound: a ReLU's input is at most 0 or at least 0. The signs that were fixed narrow the lines of their ReLUs and are
    not handed to the bound as constraints (as beta-CROWN does), so a problem may end with no ReLU left and undecided.

    Args:
        bounder: bounds of the network in float32.
        prover: proves what they say.
        deployed: the classifier, for the corners that may be mislabelled.

    Source: Bunel et al. 2020 (branch and bound, and the score of a split); bounds by Zhang et al. 2018.
    """

    def __init__(self, bounder: Bounder, prover: Prover, deployed: Deployed) -> None:
        self._bounder = bounder
        self._prover = prover
        self._deployed = deployed
        self._enclosed: dict[int, dict[str, Enclosure]] = {}  # by the number of the problem

    @property
    def is_complete(self) -> bool:
        """Return False: corners are tried on the way, and other parts have the same ones."""
        return False

    def root(self, problem: Problem) -> Part:
        """Return no bounds: they are computed with the first bound."""
        del problem
        return Part({}, {})

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
                torch.stack([branch.state.hidden[name][0] for branch in branches]),
                torch.stack([branch.state.hidden[name][1] for branch in branches]),
            )
            for name in branches[0].state.hidden
        }
        lower, upper = (torch.from_numpy(front.network_input(end)) for end in (lowest, highest))
        found = self._bounder.split_margins(lower, upper, torch.from_numpy(labels), hidden)
        bounds, worst = found.bounds.min(dim=1)
        starts = self._starts(found.hidden)
        likely = np.flatnonzero(bounds.numpy() > 0) if starts is not None else np.array([], dtype=np.int64)
        bounds[likely] = torch.from_numpy(self._proven([branches[row] for row in likely])).to(bounds.dtype)
        slopes = found.coefficients[torch.arange(len(branches)), worst].numpy()
        corners = np.where(front.change(slopes, lowest, highest) < 0, highest, lowest)
        margins = self._deployed.margins(corners, labels)
        suspects = [
            corners[row : row + 1] if margin < -self._deployed.floor else () for row, margin in enumerate(margins)
        ]
        return [
            Bounded(float(bounds[row]), "crown", suspects[row])
            if row in likely and bounds[row] > 0
            else self._cut(found, row, branches[row].state.signs, int(worst[row]), suspects[row], starts)
            for row in range(len(branches))
        ]

    def _proven(self, branches: Sequence[Branch]) -> np.ndarray:
        """Return proven bounds of branches."""
        if not branches:
            return np.zeros(0)
        for number, problem in {branch.number: branch.problem for branch in branches}.items():
            if number not in self._enclosed:
                self._enclosed[number] = self._prover.hidden(problem.lowest[None], problem.highest[None])
        hidden = joined([self._enclosed[branch.number] for branch in branches])
        labels = np.array([branch.problem.label for branch in branches], dtype=np.int64)
        return self._prover.part_margins(hidden, labels, [branch.state.signs for branch in branches])

    def _starts(self, hidden: HiddenBounds) -> dict[str, int] | None:
        """Return the place among all of the file's ReLUs at which each of these layers starts.

        None where the layers are not as large as the file's, one by one: then nothing is proven by them.
        """
        sizes, of_file = tuple(ends[0][0].numel() for ends in hidden.values()), self._prover.sizes
        first = len(of_file) - len(sizes)  # a ReLU of the input itself has no bounds
        if first < 0 or sizes != of_file[first:]:
            return None
        starts = np.cumsum([0, *of_file])[first:-1]
        return dict(zip(hidden, starts.tolist(), strict=True))

    def _cut(
        self,
        found: SplitMargins,
        row: int,
        signs: Signs,
        worst: int,
        suspects: Points | tuple[()],
        starts: Mapping[str, int] | None,
    ) -> Bounded:
        hidden = {name: (ends[0][row].clone(), ends[1][row].clone()) for name, ends in found.hidden.items()}
        pulls = {name: slope[row, worst] for name, slope in found.relu_coefficients.items()}
        split = None if starts is None else _best_split(hidden, pulls)
        bound = float(found.bounds[row].min())
        if split is None or starts is None:
            return Bounded(bound, suspects=suspects, reason=_NONE_LEFT if starts is not None else _OTHER_LAYERS)
        place = starts[split[0]] + split[1]
        return Bounded(bound, "", suspects, place, partial(_halves, Part(hidden, signs), *split, place))


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


def _halves(part: Part, name: str, entry: int, place: int) -> tuple[Part, Part]:
    """Return the parts in which the chosen ReLU's input is at most 0, and at least 0."""
    low, high = part.hidden[name]
    below, above = high.clone(), low.clone()
    below.view(-1)[entry] = 0.0
    above.view(-1)[entry] = 0.0
    return (
        Part({**part.hidden, name: (low, below)}, {**part.signs, place: False}),
        Part({**part.hidden, name: (above, high)}, {**part.signs, place: True}),
    )
