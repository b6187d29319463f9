"""A plan in the making: what is known of its tensors, and what a rule sees of a node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.constants import need_one_meaning, point, rounded
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import LinearMap
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.operands import Operands
from abscert_plugin.graph.walk import MOVES, Walk, need


@final
class Build(Walk):
    """A plan in the making.

    Args:
        graph: what it is of.
        source: the tensor that boxes are of.
        shape: of that tensor, without the batch.
        rules: from an operator to what appends the steps of a node.
    """

    def __init__(
        self, graph: Graph, source: str, shape: tuple[int, ...], rules: Mapping[str, Callable[["View"], None]]
    ) -> None:
        super().__init__(graph, source)
        zero = torch.zeros((1, *shape), dtype=torch.float64)
        self.values = {source: held(zero, zero)}  # enclosures of a single zero image, for shapes
        self.constants: dict[str, Enclosure] = {}  # those that are computed with roundings
        self.steps: list[Step] = []
        self._rules = rules

    @override
    def shape_of(self, name: str) -> tuple[int, ...] | None:
        return tuple(self.values[name].lower.shape[1:]) if name in self.values else None

    @override
    def fold(self, node: Node) -> None:
        names = [name for name in node.inputs if name]
        arrays = {
            name: self.constants[name].lower.numpy() if name in self.constants else self.constant(name)
            for name in names
        }
        need_one_meaning(node, arrays)
        if all(name not in self.constants for name in names):
            is_whole = all(array.dtype.kind in "iub" for array in arrays.values())
            if node.operator in MOVES or (is_whole and node.operator != "Sqrt"):
                self.compute(node)
                return
        given = {name: self.enclosure(name) for name in names if name in self.constants or self._is_float(name)}
        others = {name: self.constant(name) for name in names if name not in given}
        self.constants.update(rounded(node, given, others, self.graph.opset))

    def _is_float(self, name: str) -> bool:
        return self.constant(name).dtype == np.float32

    @override
    def apply(self, node: Node) -> None:
        self._rules[node.operator](View(node, self))

    def enclosure(self, name: str) -> Enclosure:
        """Return a float constant."""
        return self.constants[name] if name in self.constants else point(self.constant(name))

    def append(self, step: Step) -> str:
        """Append a step and return the name of its output."""
        self.values[step.output] = step.forward(self.values)
        shape = self.values[step.output].lower.shape
        need(shape[:1] == (1,) and len(shape) > 1, "expected the batch to stay first, and another axis behind it")
        self.steps.append(step)
        return step.output


@final
@dataclass(slots=True)
class View(Operands[Build]):
    """A node whose steps are to be appended."""

    parts_count: int = 0

    def is_constant(self, place: int) -> bool:
        """Return whether the input at a place is a constant."""
        name = self.node.inputs[place]
        return name in self.walk.arrays or name in self.walk.constants

    def constant(self, place: int) -> Enclosure:
        """Return a float constant."""
        need(self.has(place) and self.is_constant(place), f"expected input {place} to be a constant")
        return self.walk.enclosure(self.node.inputs[place])

    def part(self) -> str:
        """Return a name for a tensor inside the node; NUL is in no name of a file that was checked."""
        self.parts_count += 1
        return f"{self.output}\0{self.parts_count}"

    def move(self, source: str, change: Callable[[Tensor], Tensor], output: str | None = None) -> str:
        """Append a move of entries and return the name of its output."""
        return self.walk.append(Move(output or self.part(), source, change))

    def moved(self, change: Callable[[Tensor], Tensor]) -> None:
        """Give what the node reads first with its entries moved."""
        self.move(self.name(), change, self.output)

    def affine(self, source: str, linear: LinearMap, bias: Enclosure | None = None, **more: float) -> None:
        """Give W x + b; `more` as `Affine` takes it."""
        self.walk.append(Affine(self.output, source, linear, bias, **more))
