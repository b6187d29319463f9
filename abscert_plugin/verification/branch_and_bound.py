"""Branch and bound over reachable cells: split a pixel's cells, bound the parts, enumerate those that are small."""

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMemoryError, BoundMethod
from abscert_plugin.errors import VerifierError
from abscert_plugin.grid import Grid, log2_count
from abscert_plugin.lirpa.bounds import Bounder
from abscert_plugin.verification.deployed import DeployedCells, Part, combinations, undecided

_LEAF_LOG2: Final = 6.0  # a branch of 64 combinations is cheaper to run than to bound
_BRANCHES_AT_ONCE: Final = 64
_MOST_OPEN: Final = 20_000  # branches of one image that are kept before it is given up
_Item: TypeAlias = tuple[int, np.ndarray, np.ndarray, float]
"""A branch that is to be decided: its image, the ends of its cells, and the best bound known."""


@final
@dataclass(order=True, slots=True)
class _Branch:
    """Combinations of cells between two ends; those with the least bound are split first."""

    bound: float
    number: int
    lowest: np.ndarray = field(compare=False)
    highest: np.ndarray = field(compare=False)
    pixel: int = field(compare=False)


@final
@dataclass(frozen=True, slots=True)
class SearchResult:
    """How the search for one image ended.

    Args:
        certified: whether every combination has the label.
        margin: the least margin or bound met.
        branches: how many branches were bounded or run.
        seconds: its share of the time.
        failure: why it ended undecided; empty where it did not.
        is_unbounded: whether it ended because the network cannot be bounded at all.
    """

    certified: bool
    margin: float
    branches: int
    seconds: float
    failure: str = ""
    is_unbounded: bool = False


@final
class _Search:
    """The state of one image."""

    def __init__(self, part: Part, method: BoundMethod) -> None:
        self.part = part
        self.method = method
        self.open: list[_Branch] = []
        self.margin = float("inf")
        self.branches = 0
        self.seconds = 0.0
        self.blemish = ""  # why a combination that was run keeps the image from being certified
        self.result: SearchResult | None = None

    def saw(self, margin: float) -> None:
        """Take notice of a margin or a bound."""
        self.margin = min(self.margin, margin)

    def end(self, certified: bool, failure: str = "", *, is_unbounded: bool = False) -> None:
        self.result = SearchResult(certified, self.margin, self.branches, self.seconds, failure, is_unbounded)
        self.open.clear()


@final
class BranchAndBound:
    """A search over several images at once.

    Sound: a branch is left only when a bound is above the floor or every combination in it was run. Complete: each
    split makes branches smaller, and there are finitely many combinations.

    Args:
        bounder: bounds of the interval network.
        deployed: the classifier, for the combinations that are run.
        floor: what a bound must exceed.
        refutes: told of an image's number and a combination that looks mislabelled; returns whether that was
            confirmed, which ends the image's search.
    """

    def __init__(
        self,
        bounder: Bounder,
        deployed: DeployedCells,
        floor: float,
        refutes: Callable[[int, UInt8[np.ndarray, "channels height width"]], bool],
    ) -> None:
        self._bounder = bounder
        self._deployed = deployed
        self._grid: Grid = deployed.metadata.grid
        self._floor = floor
        self._refutes = refutes
        self._numbers = itertools.count()
        self._at_once = _BRANCHES_AT_ONCE

    def run(self, parts: Mapping[int, Part], methods: Mapping[int, BoundMethod]) -> dict[int, SearchResult]:
        """Return how the search ended for each image, by its number; one that was refuted is not certified.

        Args:
            parts: what is searched for each image.
            methods: the linear bounds that suit each image, CROWN-IBP or CROWN; intervals are tried before them.
        """
        searches = {number: _Search(part, methods[number]) for number, part in parts.items()}
        self._step(searches, [(number, part.lowest, part.highest, -np.inf) for number, part in parts.items()])
        while any(search.result is None for search in searches.values()):
            self._step(searches, list(self._children(searches)))
        return {number: search.result for number, search in searches.items() if search.result is not None}

    def _children(self, searches: Mapping[int, _Search]) -> Iterator[_Item]:
        """Split the worst branches of the images that are still open, the same number of each."""
        active = [(number, search) for number, search in searches.items() if search.result is None]
        share = max(1, self._at_once // (2 * len(active)))
        for number, search in active[: max(1, self._at_once // 2)]:
            for _ in range(min(share, len(search.open))):
                branch = heapq.heappop(search.open)
                place = np.unravel_index(branch.pixel, branch.lowest.shape)
                middle = (int(branch.lowest[place]) + int(branch.highest[place])) // 2
                below, above = branch.highest.copy(), branch.lowest.copy()
                below[place], above[place] = middle, middle + 1
                yield number, branch.lowest, below, branch.bound
                yield number, above, branch.highest, branch.bound

    def _step(self, searches: Mapping[int, _Search], branches: list[_Item]) -> None:
        """Decide or keep each branch, then close the images that are decided or out of time."""
        start = time.perf_counter()
        small = log2_count(np.stack([item[1] for item in branches]), np.stack([item[2] for item in branches]))
        leaves = [item for item, size in zip(branches, small, strict=True) if size <= _LEAF_LOG2]
        rest = [item for item, size in zip(branches, small, strict=True) if size > _LEAF_LOG2]
        if leaves:
            self._run_leaves(searches, leaves)
        size = self._at_once  # which running out of memory makes smaller meanwhile
        for first in range(0, len(rest), size):
            self._bound(searches, rest[first : first + size])
        elapsed = (time.perf_counter() - start) / len(branches)
        for number, _, _, _ in branches:
            searches[number].branches += 1
            searches[number].seconds += elapsed
        for search in searches.values():
            if search.result is None:
                self._close(search)

    def _close(self, search: _Search) -> None:
        if not search.open:
            search.end(certified=not search.blemish, failure=search.blemish)
        elif search.seconds >= search.part.seconds:
            search.end(certified=False, failure="time-out of the branch and bound")
        elif len(search.open) > _MOST_OPEN:
            search.end(certified=False, failure=f"more than {_MOST_OPEN} open branches")

    def _run_leaves(self, searches: Mapping[int, _Search], leaves: list[_Item]) -> None:
        groups = [(number, np.concatenate(list(combinations(low, high, 1024)))) for number, low, high, _ in leaves]
        cells = np.concatenate([group for _, group in groups])
        owners = np.repeat([number for number, _ in groups], [len(group) for _, group in groups])
        labels = np.array([searches[int(number)].part.label for number in owners], dtype=np.int64)
        margins = self._deployed.margins(cells, labels)
        for row in np.flatnonzero(~(margins > self._deployed.floor)):
            search = searches[int(owners[row])]
            if search.result is not None:
                continue
            search.saw(float(margins[row]))
            if margins[row] < -self._deployed.floor and self._refutes(int(owners[row]), cells[row]):
                search.end(certified=False)
            else:
                search.blemish = undecided(float(margins[row]), self._deployed.floor)
        for number, search in searches.items():
            own = margins[owners == number]
            if len(own) and search.result is None:
                search.saw(float(own.min()))

    def _bound(self, searches: Mapping[int, _Search], branches: list[_Item]) -> None:
        """Bound branches by intervals, and what these leave open by the linear bounds that suit its image."""
        branches = [item for item in branches if searches[item[0]].result is None]
        rest = self._left_by_intervals(searches, branches)
        for method in (BoundMethod.CROWN_IBP, BoundMethod.CROWN):
            self._bound_linearly(searches, [item for item in rest if searches[item[0]].method is method], method)

    def _left_by_intervals(self, searches: Mapping[int, _Search], branches: list[_Item]) -> list[_Item]:
        """Leave the branches that interval bounds decide; return the others with their bounds."""
        if not branches:
            return []
        lower, upper, labels = self._boxes(searches, branches)
        try:
            bounds = self._bounder.margins(lower, upper, labels, BoundMethod.IBP).amin(dim=1).cpu().numpy()
        except VerifierError:  # the linear bounds may still work, and say why if they do not
            return branches
        for row in np.flatnonzero(bounds > self._floor):
            searches[branches[row][0]].saw(float(bounds[row]))
        return [
            (number, low, high, max(former, float(bound)))
            for (number, low, high, former), bound in zip(branches, bounds, strict=True)
            if not bound > self._floor
        ]

    def _bound_linearly(self, searches: Mapping[int, _Search], branches: list[_Item], method: BoundMethod) -> None:
        branches = [item for item in branches if searches[item[0]].result is None]
        if not branches:
            return
        lower, upper, labels = self._boxes(searches, branches)
        try:
            linear = self._bounder.linear_margins(lower, upper, labels, method)
        except BoundMemoryError as error:
            if len(branches) == 1:
                searches[branches[0][0]].end(certified=False, failure=str(error))
                return
            half = len(branches) // 2
            self._at_once = max(2, half)
            self._bound_linearly(searches, branches[:half], method)
            self._bound_linearly(searches, branches[half:], method)
            return
        except VerifierError as error:
            for number in {item[0] for item in branches}:
                searches[number].end(certified=False, failure=str(error), is_unbounded=True)
            return
        bounds, worst = (value.cpu().numpy() for value in linear.bounds.min(dim=1))
        slopes = linear.coefficients.cpu().numpy()[np.arange(len(branches)), worst]
        move = slopes * (upper - lower).numpy()
        channels = move.shape[1] // 2
        # how the linear bound changes when a pixel goes from its lowest to its highest cell
        self._keep(searches, branches, bounds, move[:, :channels] + move[:, channels:])

    def _boxes(self, searches: Mapping[int, _Search], branches: list[_Item]) -> tuple[Tensor, Tensor, Tensor]:
        lower = self._grid.ends(np.stack([item[1] for item in branches]))
        upper = self._grid.ends(np.stack([item[2] for item in branches]))
        labels = torch.tensor([searches[item[0]].part.label for item in branches])
        return torch.from_numpy(lower), torch.from_numpy(upper), labels

    def _keep(
        self,
        searches: Mapping[int, _Search],
        branches: list[_Item],
        bounds: Float32[np.ndarray, "batch"],
        move: Float32[np.ndarray, "batch channels height width"],
    ) -> None:
        """Leave branches whose bound is above the floor; try the worst corner of the others, and keep them."""
        corners = np.where(move < 0, [item[2] for item in branches], [item[1] for item in branches]).astype(np.uint8)
        labels = np.array([searches[item[0]].part.label for item in branches], dtype=np.int64)
        margins = self._deployed.margins(corners, labels)
        for row, (number, lowest, highest, former) in enumerate(branches):
            search = searches[number]
            if search.result is not None:
                continue
            bound = max(float(bounds[row]), former)
            if bounds[row] > self._floor:
                search.saw(float(bounds[row]))
                continue
            if margins[row] < -self._deployed.floor and self._refutes(number, corners[row]):
                search.saw(float(margins[row]))
                search.end(certified=False)
                continue
            gain = np.where(lowest < highest, np.abs(move[row]), -1.0)
            pixel = int(gain.argmax())
            heapq.heappush(search.open, _Branch(bound, next(self._numbers), lowest, highest, pixel))
