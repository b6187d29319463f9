"""Branch and bound on ReLU: fix what enters a ReLU to one sign, bound both halves by CROWN, until none is left."""

import heapq
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMemoryError, SplitMargins
from abscert_plugin.errors import VerifierError
from abscert_plugin.lirpa.bounds import Bounder

_AT_ONCE: Final = 64  # branches in one call
_MOST_OPEN: Final = 5_000  # branches of one image that are kept before it is given up
_LOWER_LINE: Final = 0.1  # how much the lower line of a ReLU counts beside the upper one in choosing a split
Hidden: TypeAlias = dict[str, tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """A box of which it is to be decided whether all of it has one label.

    Args:
        lower, upper: its ends.
        label: the class that all of it should get.
        seconds: the time that it may take.
    """

    lower: Float32[np.ndarray, "channels height width"]
    upper: Float32[np.ndarray, "channels height width"]
    label: int
    seconds: float


@final
@dataclass(slots=True)
class Outcome:
    """How the search for one box ended, or how far it is.

    Args:
        certified: whether every branch was bounded above the floor.
        margin: the least bound that was relied on.
        branches: how many were bounded.
        seconds: its share of the time.
        failure: why it ended undecided.
        stuck: why a branch that was set aside keeps the box from being certified; empty where none was.
    """

    certified: bool = False
    margin: float = float("inf")
    branches: int = 0
    seconds: float = 0.0
    failure: str = ""
    stuck: str = ""
    is_done: bool = False

    def end(self, certified: bool, failure: str = "") -> None:
        """Take notice of the end."""
        self.certified, self.failure, self.is_done = certified, failure, True


@final
@dataclass(order=True, slots=True)
class _Branch:
    bound: float
    number: int
    hidden: Hidden = field(compare=False)
    split: tuple[str, int] = field(compare=False)


@final
class ReluSearch:
    """A search over several boxes at once.

    Sound: a ReLU's input is at least 0 or at most 0, and both halves are bounded; a half is left only where its bound
    is above the floor. The signs that were fixed narrow the lines of their ReLUs and are not handed to the bound as
    constraints (as beta-CROWN does), so a box may end with no ReLU left to split and no decision.

    Args:
        bounder: bounds of the network.
        floor: what a bound must exceed.
        refutes: told of a box's number and a corner of it that may be mislabelled; returns whether that was
            confirmed, which ends the box's search.

    Source: Bunel et al. 2020 (branch and bound, and the score of a split); bounds by Zhang et al. 2018.
    """

    def __init__(
        self,
        bounder: Bounder,
        floor: float,
        refutes: Callable[[int, Float32[np.ndarray, "channels height width"]], bool],
    ) -> None:
        self._bounder = bounder
        self._floor = floor
        self._refutes = refutes
        self._at_once = _AT_ONCE
        self._numbers = itertools.count()

    def run(self, problems: Mapping[int, Problem]) -> dict[int, Outcome]:
        """Return how the search ended for each box, by its number; one that was refuted is not certified."""
        outcomes = {number: Outcome() for number in problems}
        opened: dict[int, list[_Branch]] = {number: [] for number in problems}
        todo: list[tuple[int, Hidden]] = [(number, {}) for number in problems]
        while todo:
            # the roots have no bounds of hidden layers yet, and no call mixes them with others
            size = self._at_once  # which running out of memory makes smaller meanwhile
            for start in range(0, len(todo), size):
                self._bound(problems, outcomes, opened, todo[start : start + size])
            for number, outcome in outcomes.items():
                self._close(outcome, opened[number], problems[number].seconds)
            todo = self._children(outcomes, opened)
        return outcomes

    def _close(self, outcome: Outcome, branches: list[_Branch], seconds: float) -> None:
        if outcome.is_done:
            branches.clear()
        elif outcome.stuck:  # nothing can certify the box any more; what could refute it was tried in this round
            outcome.end(certified=False, failure=outcome.stuck)
            branches.clear()
        elif not branches:
            # never without a bound, whatever went wrong on the way here
            is_bounded = outcome.branches > 0
            outcome.end(certified=is_bounded, failure="" if is_bounded else "no branch was bounded")
        elif outcome.seconds >= seconds:
            outcome.end(certified=False, failure="time-out of the branch and bound")
        elif len(branches) > _MOST_OPEN:
            outcome.end(certified=False, failure=f"more than {_MOST_OPEN} open branches")

    def _children(
        self, outcomes: Mapping[int, Outcome], opened: Mapping[int, list[_Branch]]
    ) -> list[tuple[int, Hidden]]:
        active = [number for number, outcome in outcomes.items() if not outcome.is_done]
        share = max(1, self._at_once // (2 * max(1, len(active))))
        halves = []
        for number in active[: max(1, self._at_once // 2)]:
            for _ in range(min(share, len(opened[number]))):
                branch = heapq.heappop(opened[number])
                halves += [(number, half) for half in _split(branch)]
        return halves

    def _bound(
        self,
        problems: Mapping[int, Problem],
        outcomes: Mapping[int, Outcome],
        opened: Mapping[int, list[_Branch]],
        items: list[tuple[int, Hidden]],
    ) -> None:
        items = [item for item in items if not outcomes[item[0]].is_done]
        if not items:
            return
        began = time.perf_counter()
        lower = torch.from_numpy(np.stack([problems[number].lower for number, _ in items]))
        upper = torch.from_numpy(np.stack([problems[number].upper for number, _ in items]))
        labels = torch.tensor([problems[number].label for number, _ in items])
        hidden = {
            name: (
                torch.stack([bounds[name][0] for _, bounds in items]),
                torch.stack([bounds[name][1] for _, bounds in items]),
            )
            for name in items[0][1]
        }
        try:
            found = self._bounder.split_margins(lower, upper, labels, hidden)
        except BoundMemoryError as error:
            if len(items) == 1:
                outcomes[items[0][0]].end(certified=False, failure=str(error))
                return
            self._at_once = max(2, len(items) // 2)
            half = len(items) // 2
            self._bound(problems, outcomes, opened, items[:half])
            self._bound(problems, outcomes, opened, items[half:])
            return
        except VerifierError as error:
            for number, _ in items:
                outcomes[number].end(certified=False, failure=str(error))
            return
        self._keep(problems, outcomes, opened, items, found)
        for number, _ in items:
            outcomes[number].branches += 1
            outcomes[number].seconds += (time.perf_counter() - began) / len(items)

    def _keep(
        self,
        problems: Mapping[int, Problem],
        outcomes: Mapping[int, Outcome],
        opened: Mapping[int, list[_Branch]],
        items: list[tuple[int, Hidden]],
        found: SplitMargins,
    ) -> None:
        """Leave branches whose bound is above the floor; try the worst corner of the others, and keep them."""
        bounds, worst = found.bounds.min(dim=1)
        rows = torch.arange(len(items))
        slopes = found.coefficients[rows, worst].numpy()
        for row, (number, _) in enumerate(items):
            outcome, problem = outcomes[number], problems[number]
            if outcome.is_done:
                continue
            bound = float(bounds[row])
            if bound > self._floor:
                outcome.margin = min(outcome.margin, bound)
                continue
            if self._refutes(number, np.where(slopes[row] > 0, problem.lower, problem.upper)):
                outcome.end(certified=False)
                continue
            hidden = {name: (ends[0][row].clone(), ends[1][row].clone()) for name, ends in found.hidden.items()}
            pulls = {name: slope[row, worst[row]] for name, slope in found.relu_coefficients.items()}
            split = _best_split(hidden, pulls)
            if split is None:
                outcome.stuck = "no ReLU is left to split, and the bounds do not decide it"
                continue
            heapq.heappush(opened[number], _Branch(bound, next(self._numbers), hidden, split))


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


def _split(branch: _Branch) -> tuple[Hidden, Hidden]:
    """Return the bounds of hidden layers with the chosen ReLU's input at most 0, and at least 0."""
    name, place = branch.split
    low, high = branch.hidden[name]
    below, above = high.clone(), low.clone()
    below.view(-1)[place] = 0.0
    above.view(-1)[place] = 0.0
    return {**branch.hidden, name: (low, below)}, {**branch.hidden, name: (above, high)}
