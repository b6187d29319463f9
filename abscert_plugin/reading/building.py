"""A network in the making: what each tensor of the graph is, and what a rule sees of a node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.operands import Operands
from abscert_plugin.graph.walk import ONLY_SHAPES, UnsupportedNodeError, Walk, need
from abscert_plugin.reading.layers import Permuted, with_parameters


@final
@dataclass(frozen=True, slots=True)
class Activation:
    """What a layer gives out.

    Args:
        slot: its place in the network: 0 is the input, k + 1 is what layer k gives out.
        shape: its shape without the batch.
    """

    slot: int
    shape: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Affine:
    """weight @ source + bias over the channels (or features), not yet a layer, so that steps after it fall together.

    Args:
        source: what it reads.
        weight: float64 [out, in].
        bias: float64 [out].
    """

    source: Activation
    weight: np.ndarray
    bias: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape without the batch."""
        return (len(self.bias), *self.source.shape[1:])

    def layer(self) -> nn.Module:
        """Return it as a layer: a convolution of one pixel, or a linear layer."""
        outputs, inputs = self.weight.shape
        made = nn.Conv2d(inputs, outputs, 1) if len(self.shape) == 3 else nn.Linear(inputs, outputs)
        return with_parameters(made, self.weight.reshape(made.weight.shape), self.bias)


Value: TypeAlias = Activation | Affine
Rule: TypeAlias = Callable[["View"], Value | list[Value]]


@final
class Build(Walk):
    """A network in the making. A tensor is a constant, an affine function that is not yet a layer, or an activation.

    Args:
        graph: the graph.
        source: the tensor that the network reads.
        shape: of that tensor, without the batch.
        rules: from an operator to what its outputs are.
    """

    def __init__(self, graph: Graph, source: str, shape: tuple[int, ...], rules: Mapping[str, Rule]) -> None:
        super().__init__(graph, source)
        self.values: dict[str, Value] = {source: Activation(0, shape)}
        self.layers: list[nn.Module] = []
        self.slots: list[tuple[int, ...]] = []  # for each layer the activations that it reads
        self._rules = rules

    @override
    def shape_of(self, name: str) -> tuple[int, ...] | None:
        return self.values[name].shape if name in self.values else None

    @override
    def fold(self, node: Node) -> None:
        self.compute(node)

    @override
    def repeat(self, node: Node) -> None:
        raise UnsupportedNodeError(ONLY_SHAPES)

    @override
    def apply(self, node: Node) -> None:
        made = self._rules[node.qualified](View(node, self))
        self.values.update(zip(node.outputs, made if isinstance(made, list) else [made], strict=False))

    def append(self, layer: nn.Module, *inputs: Activation) -> Activation:
        """Append a layer and return what it gives out."""
        before = self.layers[inputs[0].slot - 1] if inputs[0].slot else None
        if isinstance(layer, Permuted) and isinstance(before, Permuted):
            source = self.slots[inputs[0].slot - 1][0]
            order = tuple(before.order[axis] for axis in layer.order)
            if order == tuple(range(len(order))):  # as in a model of NHWC images behind our transposition
                return Activation(source, tuple(inputs[0].shape[axis - 1] for axis in layer.order[1:]))
        with torch.no_grad():
            shape = layer.eval()(*(torch.zeros(1, *value.shape) for value in inputs)).shape
        self.layers.append(layer)
        self.slots.append(tuple(value.slot for value in inputs))
        return Activation(len(self.layers), tuple(shape[1:]))

    def activation(self, name: str) -> Activation:
        """Return a value as what a layer gives out; an affine function becomes a layer."""
        value = self.values[name]
        if isinstance(value, Affine):
            value = self.values[name] = self.append(value.layer(), value.source)
        return value


@final
@dataclass(slots=True)
class View(Operands[Build]):
    """A node whose layers are to be appended."""

    def value(self, place: int = 0) -> Value:
        """Return the input at a place, which has to depend on the image."""
        return self.walk.values[self.name(place)]

    def activation(self, place: int = 0) -> Activation:
        """Return the input at a place as what a layer gives out."""
        return self.walk.activation(self.name(place))

    def is_constant(self, place: int) -> bool:
        """Return whether the input at a place is a constant."""
        return self.node.inputs[place] in self.walk.arrays

    def layer(self, layer: nn.Module) -> Activation:
        """Append a layer that reads the first input, and return what it gives out."""
        return self.walk.append(layer, self.activation())

    def join(self, layer: nn.Module) -> Activation:
        """Append a layer that reads both inputs, and return what it gives out."""
        first, second = self.activation(0), self.activation(1)
        need(first.shape == second.shape, f"expected two of one shape, got {first.shape} and {second.shape}")
        return self.walk.append(layer, first, second)
