"""Branch and bound: cut what is open into two parts, bound both, until none is left, one is refuted, or time is up."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

from abscert_plugin.bounds.bounder import BoundMemoryError
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.part_lines import KeptLines
from abscert_plugin.bounds.waiting import Waiting
from abscert_plugin.errors import VerifierError
from abscert_plugin.front import Point, Points
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.evidence import Evidence, TreeNode

State: TypeAlias = Any
"""What a cut keeps of a branch."""


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """All points between two, of which it is to be decided whether they have one label.

    Args:
        lowest, highest: the ends.
        label: the class that all should get.
        seconds: the time that it may take.
    """

    lowest: Point
    highest: Point
    label: int
    seconds: float


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """A part of a problem that is to be bounded.

    Args:
        number: the problem's.
        problem: the problem.
        state: what tells this part from the others.
        node: its node in the problem's tree.
        bound: the best bound known, of a branch that it is cut out of.
        share: of the problem's tree: each cut halves it.
    """

    number: int
    problem: Problem
    state: State
    node: TreeNode = field(default_factory=TreeNode)
    bound: float = float("-inf")
    share: float = 1.0


@final
@dataclass(frozen=True, slots=True)
class Bounded:
    """What is known of a branch after it was bounded.

    Args:
        bound: a lower bound of the label's margin on it, or a float32 one; its least margin where all of it was run.
        closed_by: what shows that all of it has the label, one of `evidence.CLOSING`; empty where nothing does.
        suspects: points of it that were seen to be mislabelled.
        place: where it is cut: a pixel, or a ReLU among all.
        halves: the states of the two parts that it is cut into, computed when it is their turn; None where it cannot be
            cut.
        reason: why it stays open where it cannot be cut.
        part: the lines that show it, where a check needs them.
        bytes: how much memory keeping it takes.
    """

    bound: float
    closed_by: str = ""
    suspects: Points | tuple[()] = ()
    place: int = -1
    halves: Callable[[], tuple[State, State]] | None = None
    reason: str = ""
    part: Part | None = None
    bytes: int = 0


@runtime_checkable
class Cut(Protocol):
    """A way to cut problems into parts and to bound these."""

    @property
    def is_complete(self) -> bool:
        """Whether a problem with a part that stays open may still be refuted by its other parts."""
        ...

    def root(self, problem: Problem) -> State:
        """Return the state of the whole problem."""
        ...

    def evidence(self, number: int, tree: TreeNode) -> Evidence | None:
        """Return what proves a problem again whose tree is closed; None where it is too long to keep."""
        ...

    def bound(self, branches: Sequence[Branch], seconds: Sequence[float]) -> list[Bounded]:
        """Bound branches, in order.

        Args:
            branches: the branches.
            seconds: for each, its share of the time that its problem has left, for what takes long.

        Soundness: what is closed is proven, or was run; every point of a problem lies in one of the two halves of each
        branch that holds it.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
            VerifierError: if they cannot be bounded.
        """
        ...


@final
@dataclass(slots=True)
class Outcome:
    """How the search for one problem ended, or how far it is.

    Args:
        certified: whether every branch was closed.
        tree: the branches.
        lines: those that close branches, while they are few enough to be kept.
        margin: the least bound or margin that was met and relied on.
        branches: how many were bounded.
        seconds: its share of the time.
        failure: why it ended undecided; empty where it did not.
        stuck: why a branch that was set aside keeps it from being certified; empty where none was.
        is_unbounded: whether it ended because its branches cannot be bounded at all.
        is_done: whether it ended.
    """

    certified: bool = False
    tree: TreeNode = field(default_factory=TreeNode)
    lines: KeptLines = field(init=False)
    margin: float = float("inf")
    branches: int = 0
    seconds: float = 0.0
    failure: str = ""
    stuck: str = ""
    is_unbounded: bool = False
    is_done: bool = False

    def __post_init__(self) -> None:
        self.lines = KeptLines(self.tree)

    def saw(self, margin: float) -> None:
        """Take notice of a margin or a bound."""
        self.margin = min(self.margin, margin)

    def end(self, *, certified: bool = False, failure: str = "", is_unbounded: bool = False) -> None:
        """Take notice of the end."""
        self.certified, self.failure, self.is_unbounded, self.is_done = certified, failure, is_unbounded, True


@final
@dataclass(frozen=True, slots=True)
class _Open:
    """A branch that waits to be cut."""

    bound: float
    place: int
    halves: Callable[[], tuple[State, State]]
    node: TreeNode


_Waiting: TypeAlias = Waiting[_Open]


@final
class Search:
    """A search over several problems at once.

    Sound: a branch is left only when it is closed, and its two halves hold all of it.

    Args:
        cut: how branches are cut and bounded.
        refutes: told of a problem's number and a point that looks mislabelled; returns whether an image of the ball
            confirms it, which ends the problem's search.
        budget: how many branches are bounded at once, and how much memory those that wait may take.
    """

    def __init__(self, cut: Cut, refutes: Callable[[int, Point], bool], budget: Budget) -> None:
        self._cut = cut
        self._refutes = refutes
        self._most_bytes = budget.search_bytes
        self._at_once = budget.branches_at_once

    def run(self, problems: Mapping[int, Problem]) -> dict[int, Outcome]:
        """Return how the search ended for each problem, by its number; one that was refuted is not certified."""
        outcomes = {number: Outcome() for number in problems}
        waiting = {number: _Waiting(self._most_bytes // max(1, len(problems))) for number in problems}
        todo = [
            Branch(number, problem, self._cut.root(problem), outcomes[number].tree)
            for number, problem in problems.items()
        ]
        while todo:
            size = self._at_once  # which running out of memory makes smaller meanwhile
            for start in range(0, len(todo), size):
                self._bound(outcomes, waiting, todo[start : start + size])
            for number, outcome in outcomes.items():
                self._close(outcome, waiting[number], problems[number].seconds)
            todo = self._children(problems, outcomes, waiting)
        return outcomes

    def _close(self, outcome: Outcome, waiting: _Waiting, seconds: float) -> None:
        if outcome.is_done:
            pass
        elif outcome.stuck and not (self._cut.is_complete and waiting):
            outcome.end(failure=outcome.stuck)
        elif not waiting:
            # never without a bound, whatever went wrong on the way here
            is_bounded = outcome.branches > 0
            outcome.end(certified=is_bounded, failure="" if is_bounded else "no branch was bounded")
        elif outcome.seconds >= seconds:
            outcome.end(failure=f"time-out of the branch and bound, with {waiting.share:.2g} of its tree open")
        if outcome.is_done:
            waiting.clear()

    def _children(
        self, problems: Mapping[int, Problem], outcomes: Mapping[int, Outcome], waiting: Mapping[int, _Waiting]
    ) -> list[Branch]:
        """Cut the worst branches of the problems that are still open, the same number of each."""
        active = [number for number, outcome in outcomes.items() if not outcome.is_done]
        share = max(1, self._at_once // (2 * max(1, len(active))))
        children = []
        for number in active[: max(1, self._at_once // 2)]:
            for _ in range(min(share, len(waiting[number]))):
                branch, share_of_branch = waiting[number].take()
                pairs = zip(branch.halves(), branch.node.cut(branch.place), strict=True)
                problem, share_of_half = problems[number], share_of_branch / 2
                children += [Branch(number, problem, half, node, branch.bound, share_of_half) for half, node in pairs]
        return children

    def _bound(self, outcomes: Mapping[int, Outcome], waiting: Mapping[int, _Waiting], branches: list[Branch]) -> None:
        branches = [branch for branch in branches if not outcomes[branch.number].is_done]
        if not branches:
            return
        start, counts = time.perf_counter(), Counter(branch.number for branch in branches)
        seconds = [
            max(0.0, branch.problem.seconds - outcomes[branch.number].seconds) / counts[branch.number]
            for branch in branches
        ]
        try:
            found = self._cut.bound(branches, seconds)
        except BoundMemoryError as error:
            self._charge(outcomes, branches, start)
            if len(branches) == 1:
                outcomes[branches[0].number].end(failure=str(error))
                return
            half = len(branches) // 2
            self._at_once = max(2, half)
            self._bound(outcomes, waiting, branches[:half])
            self._bound(outcomes, waiting, branches[half:])
            return
        except VerifierError as error:
            self._charge(outcomes, branches, start)
            for branch in branches:
                outcomes[branch.number].end(failure=str(error), is_unbounded=True)
            return
        for branch, bounded in zip(branches, found, strict=True):
            outcomes[branch.number].branches += 1
            self._keep(outcomes[branch.number], waiting[branch.number], branch, bounded)
        self._charge(outcomes, branches, start)

    def _charge(self, outcomes: Mapping[int, Outcome], branches: Sequence[Branch], start: float) -> None:
        """Share the time since `start` among the problems of some branches, whether they were bounded or not."""
        elapsed = (time.perf_counter() - start) / len(branches)
        for branch in branches:
            outcomes[branch.number].seconds += elapsed

    def _keep(self, outcome: Outcome, waiting: _Waiting, branch: Branch, bounded: Bounded) -> None:
        """Leave a branch that is closed; look into what is suspect in another, and keep it."""
        if outcome.is_done:
            return
        if bounded.closed_by:
            branch.node.closed_by = bounded.closed_by
            outcome.lines.add(branch.node, bounded.part)
            outcome.saw(bounded.bound)
        elif any(self._refutes(branch.number, suspect) for suspect in bounded.suspects):
            outcome.end()
        elif bounded.halves is None:
            outcome.saw(bounded.bound)
            outcome.stuck = bounded.reason
        else:
            bound = max(bounded.bound, branch.bound)
            waiting.add(_Open(bound, bounded.place, bounded.halves, branch.node), bound, branch.share, bounded.bytes)
