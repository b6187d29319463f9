"""A file taken up node by node, and its guard written beside it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np
from typing_extensions import override

from abscert_plugin.bounds.proof.constants import exact
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.operands import Operands
from abscert_plugin.graph.walk import Walk, need
from abscert_plugin.guards import layers
from abscert_plugin.guards.bends import Rising
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.front import pixel_ends
from abscert_plugin.guards.values import Chain, Ends, Fact, Line, Pixels

Value: TypeAlias = Ends | Line | Chain | Pixels


@final
class GuardWalk(Walk):
    """A guard in the making.

    Args:
        graph: the file, up to its logits.
        source: the tensor whose ends the guard begins with.
        ends: of that tensor, or what makes them.
        emitter: takes up the nodes.
        facts: of each tensor of the file.
        shapes: of each tensor, without the batch.
        rules: from an operator to what writes the guard of a node.
        is_backward: whether a backward pass will ask for the ends of what a ReLU reads.
        rising: sums that are closer than by their terms, by the names of what gives them.
    """

    def __init__(
        self,
        graph: Graph,
        source: str,
        ends: Ends | Pixels,
        emitter: Emitter,
        facts: Mapping[str, Fact],
        shapes: Mapping[str, tuple[int, ...]],
        rules: Mapping[str, Callable[["View"], None]],
        is_backward: bool = False,
        rising: Mapping[str, Rising] | None = None,
    ) -> None:
        super().__init__(graph, source)
        self.emitter = emitter
        self.facts = facts
        self.values: dict[str, Value] = {source: ends}
        self._ends: dict[str, Ends] = {}
        self._chains: dict[str, Chain] = {}
        self._shapes = shapes
        self._rules = rules
        self.is_backward = is_backward
        self.rising = rising or {}

    @override
    def shape_of(self, name: str) -> tuple[int, ...] | None:
        return self._shapes[name] if name in self.values else None

    def shape_after(self, name: str) -> tuple[int, ...]:
        """Return the shape, without the batch, of a tensor that a node is about to give."""
        return self._shapes[name]

    @override
    def fold(self, node: Node) -> None:
        found = exact(node, {name: self.constant(name) for name in node.inputs if name}, self.graph.opset)
        need(found is not None, "expected constants that are not computed with roundings")
        assert found is not None
        self.take(node, found)

    @override
    def repeat(self, node: Node) -> None:
        need(False, "expected no constants that are repeated for each image")

    @override
    def apply(self, node: Node) -> None:
        view = View(node, self)
        self._rules[node.operator](view)
        view.need_all_read()

    def ends(self, name: str) -> Ends:
        """Return the ends of what the file may compute for a tensor; they are written once."""
        if name not in self._ends:
            value = self.values[name]
            if isinstance(value, Line):
                value = layers.line_ends(self.emitter, value)
            elif isinstance(value, Chain):
                value = layers.chain_ends(self.emitter, value)
            elif isinstance(value, Pixels):
                value = pixel_ends(self.emitter, value)
            self._ends[name] = value
        return self._ends[name]

    def chain(self, name: str) -> Chain:
        """Return a tensor as a chain that goes on; it is written once."""
        if name not in self._chains:
            value = self.values[name]
            if isinstance(value, Line):
                value = layers.line_chain(self.emitter, value)
            elif not isinstance(value, Chain):
                value = layers.as_chain(self.emitter, self.ends(name))
            self._chains[name] = value
        return self._chains[name]


@final
@dataclass(slots=True)
class View(Operands[GuardWalk]):
    """A node whose guard is to be written."""

    @property
    def emitter(self) -> Emitter:
        """What takes up nodes."""
        return self.walk.emitter

    @property
    def fact(self) -> Fact:
        """What is known of what it gives: that something is, since the theorems of guards begin there."""
        fact = self.walk.facts[self.output]
        need(math.isfinite(fact.top), "its values may be too large, or no numbers")
        return fact

    @property
    def shape_after(self) -> tuple[int, ...]:
        """Return the shape, without the batch, of what it gives."""
        return self.walk.shape_after(self.output)

    @property
    def rising(self) -> Rising | None:
        """What is known of the sum that it gives; None where that is any other."""
        return self.walk.rising.get(self.output)

    def is_constant(self, place: int) -> bool:
        """Return whether the input at a place is a constant."""
        return self.node.inputs[place] in self.walk.arrays

    def numbers(self, place: int) -> np.ndarray:
        """Return a constant of float32, in float64."""
        array = self.array(place)
        need(array.dtype == np.float32 and bool(np.isfinite(array).all()), "expected finite constants of float32")
        return array.astype(np.float64)

    def stored(self, place: int) -> str | None:
        """Return the name under which the file itself holds a constant; None where it is computed."""
        name = self.node.inputs[place]
        return name if name in self.walk.graph.tensors else None

    def value(self, place: int = 0) -> Ends | Line | Chain:
        """Return what is kept of the input at a place."""
        name = self.name(place)
        found = self.walk.values[name]
        return self.walk.ends(name) if isinstance(found, Pixels) else found

    def pixels(self, place: int = 0) -> Pixels | None:
        """Return what the network is fed, where that is what the node reads at a place, but for its scale."""
        found = self.walk.values[self.name(place)]
        return found if isinstance(found, Pixels) else None

    def ends(self, place: int = 0) -> Ends:
        """Return the ends of what the file may compute at a place."""
        return self.walk.ends(self.name(place))

    def chain(self, place: int = 0) -> Chain:
        """Return the input at a place as a chain that goes on."""
        return self.walk.chain(self.name(place))

    def once_more(self, source: str, place: int) -> str:
        """Append the node on another tensor at a place, and return the name of what it gives."""
        self.read.update(self.node.attributes)
        inputs = [
            source
            if other == place
            else (name and (self.stored(other) or self.emitter.constant(self.walk.arrays[name])))
            for other, name in enumerate(self.node.inputs)
        ]
        return self.emitter.copy(self.node.operator, self.node.attributes, inputs)

    def give(self, value: Value) -> None:
        """Give what is kept of the first output."""
        self.walk.values[self.output] = value

    def moved(self, move: Callable[[Emitter, str], str], keeps_order: bool = False) -> None:
        """Give what the node reads first with its entries moved, or in another shape alone."""
        self.give(moved(self.emitter, self.value(), move, keeps_order))


def moved(
    emitter: Emitter, value: Ends | Line | Chain, move: Callable[[Emitter, str], str], keeps_order: bool = False
) -> Value:
    """Return a value with its entries moved, or, where they keep their order, in another shape."""
    if isinstance(value, Line):
        return replace(value, moves=(*value.moves, move))
    if isinstance(value, Chain):
        return layers.moved_chain(emitter, value, (move,))
    origin = value.origin if keeps_order else None
    return replace(layers.moved_ends(emitter, value, move), origin=origin)
