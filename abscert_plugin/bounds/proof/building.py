"""What a rule reads of a node: constants that are known exactly, those that are computed, and values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Weights
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.graph.nodes import Node


class UnsupportedStepError(Exception):
    """A node that the proof does not know; says why."""


def need(holds: bool, reason: str) -> None:
    """Raise unless something holds."""
    if not holds:
        raise UnsupportedStepError(reason)


def point(array: np.ndarray) -> Enclosure:
    """Return a float32 constant as an enclosure."""
    need(array.dtype == np.float32, f"expected a constant of float32, got {array.dtype}")
    need(bool(np.isfinite(array).all()), "a constant is infinite or NaN")
    values = torch.from_numpy(array.astype(np.float64))
    return held(values, values, is_constant=True)


@final
@dataclass(slots=True)
class Build:
    """A plan in the making.

    Args:
        values: enclosures of a single zero image, for shapes: of all that depends on the input.
        arrays: constants that are known exactly, of any type; -1 stands for the size of the batch.
        constants: those that are computed with roundings.
        steps: the plan so far.
        with_batch: names of integer constants in which -1 stands for the batch.
    """

    values: dict[str, Enclosure]
    arrays: dict[str, np.ndarray]
    constants: dict[str, Enclosure] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    with_batch: set[str] = field(default_factory=set)

    def append(self, step: Step) -> str:
        """Append a step and return the name of its output."""
        self.values[step.output] = step.forward(self.values)
        need(self.values[step.output].lower.shape[:1] == (1,), "expected the batch to stay first")
        self.steps.append(step)
        return step.output

    def view(self, node: Node) -> "View":
        """Return what a rule sees of a node."""
        return View(self, node)


@final
@dataclass(slots=True)
class View:
    """A node and what its inputs are."""

    build: Build
    node: Node
    parts: int = 0

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the node's attributes."""
        return self.node.attributes

    def has(self, place: int) -> bool:
        """Return whether there is an input at a place."""
        return place < len(self.node.inputs) and bool(self.node.inputs[place])

    def is_constant(self, place: int) -> bool:
        """Return whether the input at a place is a constant."""
        return self.node.inputs[place] in self.build.arrays or self.node.inputs[place] in self.build.constants

    def value(self, place: int = 0) -> str:
        """Return the name of the input at a place, which depends on the image."""
        name = self.node.inputs[place] if self.has(place) else ""
        need(name in self.build.values, f"expected input {place} to depend on the image")
        return name

    def shape(self, place: int = 0) -> tuple[int, ...]:
        """Return the shape of an input that depends on the image, without the batch."""
        return tuple(self.build.values[self.value(place)].lower.shape[1:])

    def constant(self, place: int) -> Enclosure:
        """Return a float constant."""
        need(self.has(place) and self.is_constant(place), f"expected input {place} to be a constant")
        name = self.node.inputs[place]
        return self.build.constants[name] if name in self.build.constants else point(self.build.arrays[name])

    def array(self, place: int) -> np.ndarray:
        """Return a constant that is known exactly."""
        name = self.node.inputs[place] if self.has(place) else ""
        need(name in self.build.arrays, f"expected input {place} to be a constant")
        return self.build.arrays[name]

    def integers(self, attribute: str, place: int) -> list[int] | None:
        """Return an attribute, or the constant that later versions read instead; None where left out."""
        if attribute in self.attributes:
            found = self.attributes[attribute]
            return [found] if isinstance(found, int) else list(found)
        return self.array(place).reshape(-1).tolist() if self.has(place) else None

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute `axis`, counted from the front."""
        axis = int(self.attributes.get("axis", default))
        need(-rank <= axis < rank, f"expected an axis of {rank}, got {axis}")
        return axis % rank

    def require(self, **expected: Any) -> None:
        """Raise unless every attribute that is there has the expected value."""
        for name, value in expected.items():
            need(self.attributes.get(name, value) == value, f"expected {name} = {value}")

    def part(self) -> str:
        """Return a name for a tensor inside the node; NUL is in no name of a file that was checked."""
        self.parts += 1
        return f"{self.node.outputs[0]}\0{self.parts}"

    def move(self, source: str, change: Callable[[Tensor], Tensor], output: str | None = None) -> str:
        """Append a move of entries and return the name of its output."""
        return self.build.append(Move(output or self.part(), source, change))


def zeros_padded(values: Tensor, pads: list[int]) -> Tensor:
    """Return values with zeros around them; `pads` as torch takes them, the last axis first."""
    return torch.nn.functional.pad(values, pads)


def weights(constant: Enclosure, change: Callable[[Tensor], Tensor] = lambda values: values) -> Weights:
    """Return a constant as weights, none of which may have overflowed."""
    made = Weights.of(constant, change)
    need(bool(made.absolute.isfinite().all()), "a computed constant is infinite or NaN")
    return made
