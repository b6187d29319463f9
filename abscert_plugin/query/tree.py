"""The tree of a proof that nothing satisfies a case: boxes that are cut, signs that are fixed, what closes parts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import numpy as np

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part import Cuts, Part
from abscert_plugin.bounds.part import cut as cut_hidden
from abscert_plugin.bounds.waiting import nodes_of
from abscert_plugin.errors import RecordError

INPUTS: Final = "inputs"
"""What closes a part in which no input satisfies the constraints on inputs."""

OPTIMISED: Final = str(BoundMethod.OPTIMISED)
"""What closes a part by lines and multipliers that are kept beside the tree."""

_METHODS: Final = BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN, BoundMethod.OPTIMISED
CLOSING: Final = (INPUTS, *(str(name) for name in _METHODS))
COMBINED: Final = "combined"
"""What closes a part in which a sum of constraints on outputs is not satisfied; their weights are told beside it."""

CUT: Final = "cut"
SIGN: Final = "sign"
VALUE: Final = "value"
"""Cuts of what an activation reads: at 0, and at another value."""

MOST_NODES: Final = 2**22
_LARGEST_SINGLE: Final = float(np.finfo(np.float32).max)
_LARGEST: Final = 2**1023  # near the largest float64: JSON has whole numbers of any size


@final
@dataclass(slots=True)
class QueryNode:
    """A part: cut in two, closed, or still open.

    Args:
        kind: `cut`, `sign`, `value`, `combined`, one of `CLOSING`, or empty while it is open.
        place: the input that is cut, or the activation among all, ReLUs first.
        value: the largest value of the lower half.
        halves: the lower and the upper half.
        weights: of the constraints whose sum closes it.
        lines: those that close it, where it is closed by optimised ones.
    """

    kind: str = ""
    place: int = 0
    value: float = 0.0
    halves: "tuple[QueryNode, QueryNode] | None" = None
    weights: tuple[float, ...] = ()
    lines: Part | None = None

    def split(self, kind: str, place: int, value: float = 0.0) -> "tuple[QueryNode, QueryNode]":
        """Cut it, and return its halves."""
        self.kind, self.place, self.value, self.halves = kind, place, value, (QueryNode(), QueryNode())
        return self.halves


@final
@dataclass(frozen=True, slots=True)
class Region:
    """A part of a case.

    Args:
        lower, upper: its box.
        cuts: what is known in it of what activations read.
        weights: of the constraints whose sum closes it, where one does.
    """

    lower: np.ndarray
    upper: np.ndarray
    cuts: Cuts = field(default_factory=dict)
    weights: tuple[float, ...] = ()

    def cut(self, place: int, value: float, in_float32: bool) -> "tuple[Region, Region]":
        """Return its halves: values of an input up to one, and those above it.

        The upper half begins at the value itself where inputs are real, and else at the next float32.
        """
        below, above = self.upper.copy(), self.lower.copy()
        below[place] = value
        above[place] = float(np.nextafter(np.float32(value), np.float32(np.inf))) if in_float32 else value
        return Region(self.lower, below, self.cuts), Region(above, self.upper, self.cuts)

    def cut_hidden(self, place: int, value: float) -> "tuple[Region, Region]":
        """Return the parts in which an activation reads at most a value, and at least it."""
        below, above = cut_hidden(self.cuts, place, value)
        return Region(self.lower, self.upper, below), Region(self.lower, self.upper, above)


def listed(root: QueryNode) -> list[list[Any]]:
    """Return a tree as a list: a node before its lower and then its upper half."""
    found: list[list[Any]] = []
    for node in nodes_of(root):
        if node.halves is None:
            found.append([node.kind, list(node.weights)] if node.kind == COMBINED else [node.kind])
        else:
            found.append([node.kind, node.place] if node.kind == SIGN else [node.kind, node.place, node.value])
    return found


def closed_parts(nodes: Sequence[Any], whole: Region, in_float32: bool, activations: int) -> dict[str, list[Region]]:
    """Return the parts of a tree by what closes them.

    Raises:
        RecordError: if the list is no tree of closed parts that cover the whole.
    """
    found: dict[str, list[Region]] = {}
    waiting = [whole]
    for node in nodes:
        if not isinstance(node, list) or not node or not waiting:
            raise RecordError("its tree has more nodes than parts, or one that is no list")
        part = waiting.pop()
        kind, *rest = node
        if kind in CLOSING and not rest:
            found.setdefault(kind, []).append(part)
        elif kind == COMBINED and len(rest) == 1 and _are_weights(rest[0]):
            found.setdefault(kind, []).append(replace(part, weights=tuple(map(float, rest[0]))))
        elif kind == CUT and len(rest) == 2:
            place, value = rest
            _check_cut(part, place, value, in_float32)
            waiting += reversed(part.cut(place, float(value), in_float32))
        elif kind == SIGN and len(rest) == 1 and _is_place(rest[0], activations):
            if rest[0] in part.cuts:
                raise RecordError("its tree fixes a sign twice")
            waiting += reversed(part.cut_hidden(rest[0], 0.0))
        elif kind == VALUE and len(rest) == 2 and _is_place(rest[0], activations) and _is_single(rest[1]):
            waiting += reversed(part.cut_hidden(rest[0], float(rest[1])))
        else:
            raise RecordError(f"its tree has a node {str(node)[:60]!r}, which is none")
    if waiting:
        raise RecordError("its tree leaves parts open")
    return found


def _are_weights(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) and 0 <= value <= 1 for value in values)


def _is_place(value: Any, count: int) -> bool:
    return type(value) is int and 0 <= value < count


def _is_single(value: Any) -> bool:
    """Return whether a value is a finite number of float32, as ends of hidden values are."""
    if type(value) not in (int, float) or not abs(value) <= _LARGEST_SINGLE:
        return False
    return float(np.float32(value)) == value


def _check_cut(part: Region, place: Any, value: Any, in_float32: bool) -> None:
    if type(place) is not int or not 0 <= place < len(part.lower) or type(value) not in (int, float):
        raise RecordError("its tree cuts at what is no input")
    if part.cuts:
        raise RecordError("its tree cuts inputs below a hidden value")
    is_inside = abs(value) <= _LARGEST and part.lower[place] <= value < part.upper[place]
    if not is_inside or (in_float32 and float(np.float32(value)) != value):
        raise RecordError(f"its tree cuts input {place} at {str(value)[:30]}, which is not inside its part")
