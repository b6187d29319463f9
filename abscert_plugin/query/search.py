"""Branch and bound of one conjunction: parts are cut at inputs, or at hidden values, until each is refuted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

import numpy as np
import torch

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part_lines import KeptLines
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.waiting import Waiting
from abscert_plugin.query.attack import Attack, Witness
from abscert_plugin.query.by_hidden import ByHidden
from abscert_plugin.query.by_inputs import ByInputs, ends_of
from abscert_plugin.query.look import Cut, Cutter, Look, State
from abscert_plugin.query.query import Case
from abscert_plugin.query.refuting import METHODS, Refuter
from abscert_plugin.query.tree import INPUTS, QueryNode, Region

_MOST_FREE: Final = 20  # inputs that are cut; where more are free, hidden values are
_MOST_AT_ONCE: Final = 128  # parts
_STEPS: Final = 8
_FOLLOW_EVERY: Final = 4  # rounds of cutting
_WORTH_FOLLOWING: Final = 8  # corners: with fewer, parts are still large and soon cut
_ENTRIES: Final = 2**23  # of all tensors, over the parts that are cut at once
_MOST_BYTES: Final = 2**30  # of the parts that wait


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Conjunctions of a case that one tree refutes.

    Args:
        case: the place of the case in its query.
        conjunctions: their places in the case.
        root: the tree.
        bent: the activations whose lines its parts choose.
    """

    case: int
    conjunctions: tuple[int, ...]
    root: QueryNode
    bent: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def bounded(proof: Proof, number: int, case: Case, is_real: bool) -> tuple[list[Group], dict[str, Enclosure]]:
    """Return which conjunctions of a case are refuted over its whole box by a bound, and enclosures of the box.

    Args:
        proof: of the network.
        number: the place of the case in its query.
        case: the case.
        is_real: whether inputs are real numbers, not float32 alone.
    """
    refuter = Refuter(proof, case, is_real)
    lower, upper = ends_of([Region(case.lower, case.upper)])
    everything = tuple(range(len(case.outputs)))
    if bool(refuter.refuted_inputs(lower, upper)[0]):
        return [Group(number, everything, QueryNode(INPUTS))], {}
    groups: list[Group] = []
    left = torch.ones(len(everything), dtype=torch.bool)
    values: dict[str, Enclosure] = {}
    for method in METHODS:
        if method is not BoundMethod.CROWN_IBP:
            values = refuter.intervals(lower, upper, refined=method is BoundMethod.CROWN)
        refuted = refuter.refuted(values, refuter.bounds(values, method))[0] & left
        if bool(refuted.any()):
            groups.append(Group(number, tuple(refuted.nonzero().flatten().tolist()), QueryNode(str(method))))
            left &= ~refuted
        if not bool(left.any()):
            break
    return groups, values


@final
class QuerySearch:
    """What is left open of one conjunction of a case.

    Args:
        proof: of the network.
        group: which it is, and the tree that is to be grown.
        case: the case with this conjunction alone.
        is_real: whether inputs are real numbers, not float32 alone.
        attack: tries points on the way.
        values: enclosures over the whole box, by refined intervals.
    """

    def __init__(
        self, proof: Proof, group: Group, case: Case, is_real: bool, attack: Attack, values: Mapping[str, Enclosure]
    ) -> None:
        self.group = group
        self.case = case
        self.reason = ""
        self._attack = attack
        self._waiting: Waiting[tuple[QueryNode, Cut]] = Waiting(_MOST_BYTES)
        self._lines = KeptLines(group.root)
        self._at_once, self._most_at_once = 2, min(_MOST_AT_ONCE, max(1, _ENTRIES // proof.entries))
        self._rounds = 0
        refuter = Refuter(proof, case, is_real)
        free = int((case.lower < case.upper).sum())
        by_hidden = free > _MOST_FREE and bool(proof.free) and refuter.is_linear and not case.inputs
        self._cutter: Cutter
        if by_hidden:
            self._cutter = cutter = ByHidden(proof, refuter, case, values)
            self.group = replace(group, bent=cutter.bounds.bent)
        else:
            self._cutter = ByInputs(proof, refuter, case, is_real)

    @property
    def is_open(self) -> bool:
        """Whether a part is left that can be cut further."""
        return bool(self._waiting)

    @property
    def share(self) -> float:
        """How much of the tree is left open."""
        return self._waiting.share

    def start(self, until: float) -> Witness | None:
        """Look at the whole box; return an answer where a point that is tried on the way is one."""
        return self._look([self._cutter.whole()], [self.group.root], [1.0], until)

    def step(self, until: float) -> Witness | None:
        """Cut the parts that are furthest from being refuted; return an answer where a point on the way is one."""
        states: list[State] = []
        nodes: list[QueryNode] = []
        shares: list[float] = []
        while self._waiting and len(states) < 2 * self._at_once:
            (node, cut), share = self._waiting.take()
            states += cut.halves()
            nodes += node.split(cut.kind, cut.place, cut.value)
            shares += [share / 2] * 2
        self._at_once = min(2 * self._at_once, self._most_at_once)
        return self._look(states, nodes, shares, until)

    def _look(
        self, states: Sequence[State], nodes: Sequence[QueryNode], shares: Sequence[float], until: float
    ) -> Witness | None:
        looks = self._cutter.look(states)
        for node, look in zip(nodes, looks, strict=True):
            node.kind, node.weights = look.closed_by, look.weights
            self._lines.add(node, look.lines)
        still = [row for row, look in enumerate(looks) if not look.closed_by]
        answer = self._tried(sorted((looks[row] for row in still), key=lambda look: look.bound), until)
        if answer is not None:
            return answer
        for row in still:
            cut = looks[row].cut
            if cut is None:
                self.reason = self._cutter.stuck
            else:
                self._waiting.add((nodes[row], cut), looks[row].bound, shares[row], cut.bytes)
        return None

    def _tried(self, looks: Sequence[Look], until: float) -> Witness | None:
        """Try the corners of parts at which bounds are least, and follow gradients from the first of them.

        Args:
            looks: at open parts, the worst one first.
            until: when to stop.
        """
        cornered = [(look.corner, look.sides) for look in looks if look.corner is not None and look.sides is not None]
        if not cornered:
            return None
        corners, sides = (np.stack(some) for some in zip(*cornered, strict=True))
        tried, followed = self._cutter.tried, self._cutter.followed
        points = self._attack.into(self.case, corners[:tried])
        answer = self._attack.first(points, until)
        is_worth = self._rounds == 0 or (len(points) >= _WORTH_FOLLOWING and self._rounds % _FOLLOW_EVERY == 0)
        self._rounds += 1
        if answer is None and is_worth:
            answer = self._attack.follow(self.case, 0, points[:followed], sides[:followed] / 4, _STEPS, until)
        return answer
