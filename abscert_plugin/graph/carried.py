"""What can be known of a tensor and the batch: it is fixed, carries the batch along one axis, or holds sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias, final

from onnx import TensorProto, numpy_helper

from abscert_plugin.graph.nodes import Node


class NotShownError(Exception):
    """Nothing shows that a node keeps the images of a batch apart."""


@final
@dataclass(frozen=True, slots=True)
class Fixed:
    """Depends on no image; `values` of a small constant in one row, None where they are not known."""

    values: tuple[int | float, ...] | None = None


@final
@dataclass(frozen=True, slots=True)
class Carried:
    """Holds the batch along `axis`: entry k depends on image k alone, in the same way for every k and batch size."""

    axis: int


BATCH: Final = "batch"
LARGE: Final = 1024
"""Entries of a constant, beyond which it is no shape."""


@final
@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a tensor in one row: numbers, None for one that is fixed but not known, `BATCH` for the batch's."""

    entries: tuple[int | str | None, ...]

    @property
    def with_batch(self) -> bool:
        """Whether the size of the batch is among them."""
        return BATCH in self.entries


@final
@dataclass(frozen=True, slots=True)
class Unknown:
    """Images may have met in it; says at which node."""

    reason: str


Value: TypeAlias = Fixed | Carried | Sizes | Unknown


@final
@dataclass(frozen=True, slots=True)
class Scope:
    """A node and what is known of its inputs, none of which is `Unknown`.

    Args:
        node: the node.
        values: by name, what it reads.
        shapes: by name, the shapes that are known.
        batch: the size of the batch, None where it is free.
    """

    node: Node
    values: Mapping[str, Value]
    shapes: Mapping[str, tuple[int | None, ...]]
    batch: int | None

    def value(self, place: int) -> Value:
        """Return the input at `place`."""
        if not self.node.has(place):
            raise NotShownError
        return self.values[self.node.inputs[place]]

    def carried(self, place: int = 0) -> int:
        """Return the axis along which the input at `place` carries the batch."""
        value = self.value(place)
        if not isinstance(value, Carried):
            raise NotShownError
        return value.axis

    def is_carried(self, place: int) -> bool:
        """Return whether there is an input at `place` that carries the batch."""
        return self.node.has(place) and isinstance(self.value(place), Carried)

    def shape(self, place: int = 0) -> tuple[int | None, ...]:
        """Return the shape of the input at `place`."""
        name = self.node.inputs[place]
        if name not in self.shapes:
            raise NotShownError
        return self.shapes[name]

    def rank(self, place: int = 0) -> int:
        """Return the rank of the input at `place`."""
        return len(self.shape(place))

    def entries(self, place: int) -> tuple[int | str | None, ...]:
        """Return the input at `place` as sizes."""
        value = self.value(place)
        if isinstance(value, Sizes):
            return value.entries
        if not isinstance(value, Fixed) or value.values is None:
            raise NotShownError
        whole = [number for number in value.values if isinstance(number, int)]
        if len(whole) != len(value.values):
            raise NotShownError
        return tuple(whole)

    def integers(self, attribute: str, place: int) -> list[int] | None:
        """Return an attribute, or the constant at `place` that later versions read instead; None where left out."""
        if (found := self.node.integers(attribute)) is not None or not self.node.has(place):
            return found
        entries = self.entries(place)
        numbers = [entry for entry in entries if isinstance(entry, int)]
        if len(numbers) != len(entries):
            raise NotShownError
        return numbers

    def fixed_from(self, place: int) -> None:
        """Raise if an input from `place` on depends on the batch."""
        for name in filter(None, self.node.inputs[place:]):
            value = self.values[name]
            if isinstance(value, Carried) or (isinstance(value, Sizes) and value.with_batch):
                raise NotShownError

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute `axis`, counted from the front."""
        return int(self.node.attributes.get("axis", default)) % rank


Rule: TypeAlias = Callable[[Scope], list[Value]]
"""Returns what the outputs of a node are, or raises where the images of a batch might meet."""


def small(tensor: TensorProto) -> tuple[int | float, ...] | None:
    """Return the values of a constant that may be a shape, axes or the like, None of another."""
    if prod(tensor.dims) > LARGE or tensor.data_location == TensorProto.EXTERNAL:
        return None
    return tuple(numpy_helper.to_array(tensor).ravel().tolist())
