"""What is known of a part of a case, and what a way to cut cases into parts has to offer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import numpy as np

from abscert_plugin.bounds.part import Part

State: TypeAlias = Any
"""What a way to cut keeps of a part."""


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """How a part is cut.

    Args:
        kind: of the node of the tree.
        place: the input, or the ReLU among all.
        value: the largest value of the lower half, of an input.
        halves: return the two halves.
        bytes: how much memory it takes until then.
    """

    kind: str
    place: int
    value: float
    halves: Callable[[], tuple[State, State]]
    bytes: int


@final
@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a part.

    Args:
        closed_by: what refutes it; empty where nothing does.
        bound: by how much the nearest constraint fails to be refuted, below 0; -inf where nothing is known.
        corner: [entries], where bounds are least.
        sides: [entries], of its box.
        weights: of the constraints whose sum refutes it, where that is what does.
        lines: those that refute it, where a check needs them.
        cut: how it is to be cut; None where it cannot be.
    """

    closed_by: str = ""
    bound: float = float("-inf")
    corner: np.ndarray | None = None
    sides: np.ndarray | None = None
    weights: tuple[float, ...] = ()
    lines: Part | None = None
    cut: Cut | None = None


@runtime_checkable
class Cutter(Protocol):
    """A way to cut a case into parts and to bound these."""

    @property
    def stuck(self) -> str:
        """Why a part stays open that cannot be cut."""
        ...

    @property
    def tried(self) -> int:
        """How many corners of parts are tried at each step."""
        ...

    @property
    def followed(self) -> int:
        """From how many of these gradients are followed."""
        ...

    def whole(self) -> State:
        """Return the whole case."""
        ...

    def look(self, states: Sequence[State]) -> list[Look]:
        """Bound parts, in order.

        Soundness: what is closed is refuted, and every point of a part lies in one of the halves of its cut.
        """
        ...
