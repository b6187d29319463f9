"""The parts of a tree: all of them in order, and those that wait to be cut."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar, final

Item = TypeVar("Item")


class Halved(Protocol):
    """A part of a tree, which may be cut in two."""

    @property
    def halves(self) -> tuple[Self, Self] | None:
        """The lower and the upper half, where it is cut."""


Tree = TypeVar("Tree", bound=Halved)


def nodes_of(root: Tree) -> Iterator[Tree]:
    """Yield the nodes of a tree: each before its lower and then its upper half."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.halves or ())


@final
@dataclass(order=True, slots=True)
class _Waits(Generic[Item]):
    bound: float
    order: int
    item: Item = field(compare=False)
    share: float = field(compare=False)
    bytes: int = field(compare=False)


@final
class Waiting(Generic[Item]):
    """The parts that wait: the one with the least bound comes first, and the last one where memory ends.

    Args:
        most_bytes: how much memory they may take before the search goes on depth-first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._order = itertools.count()
        self._worst_first: list[_Waits[Item]] = []
        self._last_first: list[_Waits[Item]] = []

    def __len__(self) -> int:
        return len(self._worst_first) + len(self._last_first)

    @property
    def share(self) -> float:
        """How much of the tree they are."""
        return sum(one.share for one in (*self._worst_first, *self._last_first))

    def add(self, item: Item, bound: float, share: float, size: int) -> None:
        """Keep a part.

        Args:
            item: the part.
            bound: the best one known of it.
            share: how much of the tree it is.
            size: how many bytes it takes.
        """
        one = _Waits(bound, next(self._order), item, share, size)
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._last_first.append(one)
        else:
            heapq.heappush(self._worst_first, one)

    def take(self) -> tuple[Item, float]:
        """Return the part that is next, which waits no more, and its share of the tree."""
        one = self._last_first.pop() if self._last_first else heapq.heappop(self._worst_first)
        self._bytes -= one.bytes
        return one.item, one.share

    def clear(self) -> None:
        """Forget all of them."""
        self._worst_first.clear()
        self._last_first.clear()
        self._bytes = 0
