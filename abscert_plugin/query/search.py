"""Branch and bound of one conjunction: parts are cut at inputs, or by signs of hidden values, until each is refuted."""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.query.attack import Answer, Attack
from abscert_plugin.query.combining import combination
from abscert_plugin.query.query import Case
from abscert_plugin.query.refuting import METHODS, Refuter
from abscert_plugin.query.tree import COMBINED, CUT, INPUTS, SIGN, Node, Part

_MOST_FREE: Final = 20  # inputs that are cut; where more are free, signs are
_MOST_AT_ONCE: Final = 128  # parts
_TRIED: Final = (64, 16)  # corners of parts, at each step: where inputs are cut, and where signs are
_FOLLOWED: Final = (16, 2)  # of these, from which gradients are followed
_STEPS: Final = 8
_FOLLOW_EVERY: Final = 4  # rounds of cutting
_WORTH_FOLLOWING: Final = 8  # corners: with fewer, parts are still large and soon cut
_ENTRIES: Final = 2**23  # of all tensors, over the parts that are cut at once
_LOWER_LINE: Final = 0.1  # how much the lower line of a ReLU counts beside the upper one in choosing a sign
_STUCK_POINT: Final = "an input is left of which rounding decides whether it satisfies the query"
_STUCK_SIGNS: Final = "no sign is left to be fixed, and the bounds do not decide it"


@final
@dataclass(frozen=True, slots=True)
class _Cut:
    """How a part is to be cut: the kind of a node, its place, and its value."""

    kind: str
    place: int
    value: float


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Conjunctions of a case that one tree refutes.

    Args:
        case: the place of the case in its query.
        conjunctions: their places in the case.
        root: the tree.
    """

    case: int
    conjunctions: tuple[int, ...]
    root: Node


def bounded(proof: Proof, number: int, case: Case, is_real: bool) -> tuple[list[Group], dict[str, Enclosure]]:
    """Return which conjunctions of a case are refuted over its whole box by a bound, and enclosures of the box.

    Args:
        proof: of the network.
        number: the place of the case in its query.
        case: the case.
        is_real: whether inputs are real numbers, not float32 alone.
    """
    refuter = Refuter(proof, case, is_real)
    lower, upper = _ends([Part(case.lower, case.upper)])
    everything = tuple(range(len(case.outputs)))
    if bool(refuter.refuted_inputs(lower, upper)[0]):
        return [Group(number, everything, Node(INPUTS))], {}
    groups: list[Group] = []
    left = torch.ones(len(everything), dtype=torch.bool)
    values: dict[str, Enclosure] = {}
    for method in METHODS:
        if method is not BoundMethod.CROWN_IBP:
            values = refuter.intervals(lower, upper, refined=method is BoundMethod.CROWN)
        refuted = refuter.refuted(values, refuter.bounds(values, method))[0] & left
        if bool(refuted.any()):
            groups.append(Group(number, tuple(refuted.nonzero().flatten().tolist()), Node(str(method))))
            left &= ~refuted
        if not bool(left.any()):
            break
    return groups, values


@final
class Search:
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
        self, proof: Proof, group: Group, case: Case, is_real: bool, attack: Attack, values: dict[str, Enclosure]
    ) -> None:
        self.group = group
        self.case = case
        self.reason = ""
        self.refuter = Refuter(proof, case, is_real)
        self._proof = proof
        self._is_real = is_real
        self._attack = attack
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Part, Node, _Cut]] = []
        self._at_once = 2
        self._rounds = 0
        free = int((case.lower < case.upper).sum())
        self._by_signs = free > _MOST_FREE and bool(proof.relus) and self.refuter.is_linear and not case.inputs
        self._whole = values if self._by_signs else {}

    @property
    def is_open(self) -> bool:
        """Whether a part is left that can be cut further."""
        return bool(self._waiting)

    def start(self, until: float) -> Answer | None:
        """Look at the whole box; return an answer where a point that is tried on the way is one."""
        return self._bound([Part(self.case.lower, self.case.upper)], [self.group.root], until)

    def step(self, until: float) -> Answer | None:
        """Cut the parts that are furthest from being refuted; return an answer where a point on the way is one."""
        parts: list[Part] = []
        nodes: list[Node] = []
        while self._waiting and len(parts) < 2 * self._at_once:
            _, _, part, node, cut = heapq.heappop(self._waiting)
            nodes += node.split(cut.kind, cut.place, cut.value)
            parts += part.sign(cut.place) if cut.kind == SIGN else part.cut(cut.place, cut.value, not self._is_real)
        self._at_once = min(2 * self._at_once, _MOST_AT_ONCE, max(1, _ENTRIES // self._proof.entries))
        return self._bound(parts, nodes, until)

    def _bound(self, parts: Sequence[Part], nodes: Sequence[Node], until: float) -> Answer | None:
        lower, upper = _ends(parts)
        closed = self.refuter.refuted_inputs(lower, upper)
        for row in closed.nonzero().flatten().tolist():
            nodes[row].kind = INPUTS
        rest = (~closed).nonzero().flatten()
        if not len(rest):
            return None
        parts, nodes = [parts[row] for row in rest], [nodes[row] for row in rest]
        values, bounds, seen = self._bounds(parts, lower[rest], upper[rest])
        refuted = self.refuter.refuted(values, bounds)
        room = self.refuter.room(values, bounds)
        limits, least = self.refuter.worst(room, refuted)
        rows = self.refuter.row_of(limits)
        slopes = self._slopes(seen, room, lower[rest])
        is_open = ~refuted.all(dim=1)
        for row in (~is_open).nonzero().flatten().tolist():
            nodes[row].kind = str(BoundMethod.CROWN)
        if self.refuter.combinable:
            weights, sums = combination(slopes, room, (upper[rest] - lower[rest]) / 2)
            is_open &= ~self._combined(parts, nodes, values, weights, is_open & (sums > 0))
        still = is_open.nonzero().flatten().tolist()
        nearest = slopes[torch.arange(len(parts)), limits]
        corners = torch.where(nearest < 0, upper[rest], lower[rest]).numpy()
        worst = sorted(still, key=lambda row: float(least[row]))
        answer = self._tried(corners[worst], (upper - lower)[rest].numpy()[worst], until)
        if answer is not None:
            return answer
        for row in still:
            cut = (
                self._best_sign(values, seen, row, int(rows[row]), parts[row])
                if self._by_signs
                else self._best_cut(parts[row], slopes[row].abs().sum(0).numpy())
            )
            if cut is None:
                self.reason = _STUCK_SIGNS if self._by_signs else _STUCK_POINT
                continue
            bound = float(least[row]) if np.isfinite(float(least[row])) else -np.inf
            heapq.heappush(self._waiting, (bound, next(self._order), parts[row], nodes[row], cut))
        return None

    def _tried(self, corners: np.ndarray, sides: np.ndarray, until: float) -> Answer | None:
        """Try the corners of parts at which bounds are least, and follow gradients from the first of them.

        Args:
            corners: [parts, entries], the worst part first.
            sides: of these parts.
            until: when to stop.
        """
        tried, followed = _TRIED[self._by_signs], _FOLLOWED[self._by_signs]
        points = self._attack.into(self.case, corners[:tried])
        answer = self._attack.first(points, until)
        self._rounds += 1
        if answer is None and len(points) >= _WORTH_FOLLOWING and self._rounds % _FOLLOW_EVERY == 0:
            answer = self._attack.follow(self.case, 0, points[:followed], sides[:followed] / 4, _STEPS, until)
        return answer

    def _slopes(self, seen: dict[str, Tensor], room: Tensor, like: Tensor) -> Tensor:
        """Return how the bound of each limit depends on the input, [part, limit, entries]; zeros if nothing tells."""
        found = seen.get(self._proof.source)
        if found is None:
            return like.new_zeros((len(like), max(1, room.shape[1]), like.shape[1]))
        return found.flatten(2)[:, self.refuter.row_of(torch.arange(room.shape[1]))]

    def _combined(
        self,
        parts: Sequence[Part],
        nodes: Sequence[Node],
        values: dict[str, Enclosure],
        weights: Tensor,
        promising: Tensor,
    ) -> Tensor:
        """Close the parts that a sum of constraints refutes, and return which."""
        chosen = promising.nonzero().flatten()
        if not len(chosen):
            return promising
        ends = sign_ends(self._proof, [parts[row] for row in chosen]) if self._by_signs else None
        taken = {name: value.take(chosen) for name, value in values.items()}
        found = torch.zeros_like(promising)
        found[chosen] = self.refuter.combined(taken, weights[chosen], ends)
        for row in found.nonzero().flatten().tolist():
            nodes[row].kind, nodes[row].weights = COMBINED, tuple(weights[row].tolist())
        return found

    def _bounds(
        self, parts: Sequence[Part], lower: Tensor, upper: Tensor
    ) -> tuple[dict[str, Enclosure], Tensor, dict[str, Tensor]]:
        """Return enclosures over parts, bounds of the rows, and what these depend on."""
        if self._by_signs:
            values = {
                name: value.take(torch.zeros(len(parts), dtype=torch.int64)) for name, value in self._whole.items()
            }
            ends = sign_ends(self._proof, parts)
        else:
            values, ends = self.refuter.intervals(lower, upper, refined=True), None
        if not self.refuter.is_linear:
            return values, self.refuter.bounds(values, BoundMethod.IBP), {}
        linear, seen = self.refuter.explained(values, ends)
        return values, torch.maximum(self.refuter.bounds(values, BoundMethod.IBP), linear), seen

    def _best_cut(self, part: Part, slopes: np.ndarray) -> _Cut | None:
        """Return the cut of the input on which the bounds depend most; None where the part is a point."""
        width = part.upper - part.lower
        if self._is_real:
            middle = part.lower / 2 + part.upper / 2
            can = (part.lower < middle) & (middle < part.upper)
        else:
            below = np.nextafter(part.upper.astype(np.float32), np.float32(-np.inf))
            middle = np.minimum((part.lower / 2 + part.upper / 2).astype(np.float32), below).astype(np.float64)
            can = part.lower < part.upper
        if not bool(can.any()):
            return None
        score = np.where(can, np.nan_to_num(slopes) * width + 1e-9 * width / max(float(width.max()), 1e-300), -1)
        place = int(score.argmax())
        return _Cut(CUT, place, float(middle[place]))

    def _best_sign(
        self, values: dict[str, Enclosure], seen: dict[str, Tensor], row: int, chosen: int, part: Part
    ) -> _Cut | None:
        """Return the ReLU whose lines cost the bound most; None where every sign is known."""
        best, place, start = 0.0, None, 0
        for name, shape in self._proof.relus.items():
            low, high = (end[row].flatten() for end in values[name].computed())
            size = int(np.prod(shape))
            pulls = seen.get(self._proof.relu_outputs[name])
            if pulls is not None:
                pull = pulls[row, chosen].flatten()
                is_open = (low < 0) & (high > 0)
                for other in part.signs:
                    if start <= other < start + size:
                        is_open[other - start] = False
                above = (-pull).clamp(min=0) * (-low * high / (high - low).clamp(min=1e-300))
                below = pull.clamp(min=0) * torch.minimum(-low, high)
                score = torch.where(is_open, above + _LOWER_LINE * below + 1e-30, 0.0)
                if float(score.max()) > best:
                    best, place = float(score.max()), start + int(score.argmax())
            start += size
        return None if place is None else _Cut(SIGN, place, 0.0)


def sign_ends(proof: Proof, parts: Sequence[Part]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ends of what ReLUs read in parts with given signs, for a proof."""
    sizes = [int(np.prod(shape)) for shape in proof.relus.values()]
    known = torch.full((2, len(parts), sum(sizes)), torch.inf, dtype=torch.float64)
    known[0] = -torch.inf
    for row, part in enumerate(parts):
        for place, is_positive in part.signs.items():
            known[0 if is_positive else 1, row, place] = 0.0
    layers = zip(proof.relus.items(), known.split(sizes, dim=2), strict=True)
    ends = {}
    for (name, shape), of_layer in layers:
        least, most = of_layer.reshape(2, len(parts), *shape)
        ends[name] = (least, most)
    return ends


def _ends(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([part.lower for part in parts])),
        torch.from_numpy(np.stack([part.upper for part in parts])),
    )
