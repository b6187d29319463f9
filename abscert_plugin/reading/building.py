"""A network in the making: what each tensor of the graph is, and what a rule sees of a node."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.operands import Operands
from abscert_plugin.graph.walk import Walk, evaluate, need
from abscert_plugin.reading.layers import Applied, Permuted, Reshaped, with_parameters


@final
@dataclass(frozen=True, slots=True)
class LayerOutput:
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

    source: LayerOutput
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


_IMAGES: Final = 2  # of a batch that tells shapes: with one image, it would not show that another axis became the first
_MOST_WEIGHTS: Final = 2**24  # of a matrix that stands for an affine function: 64 MiB
_UNITS_AT_ONCE: Final = 256
_DEQUANTIZED: Final = 19  # the first set of operators whose DequantizeLinear onnx's reference computes

Value: TypeAlias = LayerOutput | Affine
Rule: TypeAlias = Callable[["View"], Value | list[Value]]
Function: TypeAlias = Callable[..., Tensor]


@final
@dataclass(frozen=True, slots=True)
class Computed:
    """What torch computes for a node.

    Args:
        functions: for each output what it is of the inputs at `places`, images of a batch first.
        places: of those inputs, constants or not, where they are there; None for all.
    """

    functions: tuple[Function, ...]
    places: tuple[int, ...] | None = None


@final
class Build(Walk):
    """A network in the making. A tensor is a constant, an affine function that is not yet a layer, or an activation.

    Args:
        graph: the graph.
        source: the tensor that the network reads.
        shape: of that tensor, without the batch.
        rule: says what the outputs of a node are.
    """

    def __init__(self, graph: Graph, source: str, shape: tuple[int, ...], rule: Rule) -> None:
        super().__init__(graph, source)
        self.values: dict[str, Value] = {source: LayerOutput(0, shape)}
        self.layers: list[nn.Module] = []
        self.slots: list[tuple[int, ...]] = []  # for each layer the activations that it reads
        self.unbounded: list[str] = []  # which nodes have gradients alone, and why
        self._rule = rule

    @override
    def shape_of(self, name: str) -> tuple[int, ...] | None:
        return self.values[name].shape if name in self.values else None

    @override
    def fold(self, node: Node) -> None:
        if node.operator == "DequantizeLinear":  # which the reference does not know of older sets of operators
            newer = max(self.graph.opset, _DEQUANTIZED)
            self.take(node, evaluate(node, {name: self.constant(name) for name in node.inputs if name}, newer))
        else:
            self.compute(node)

    @override
    def repeat(self, node: Node) -> None:
        self.compute(self.once(node))
        one = self.arrays.pop(node.outputs[0])
        need(len(one) == 1, "expected a constant for each image")
        layer, source = Applied(_for_each, {1: one}), self.activation(self.source)
        found = self.append_dense(layer, source)
        if found is None:
            self.unbounded.append(f"{node}: it is repeated for each image")
            found = self.append(layer, source)
        self.values[node.outputs[0]] = found

    @override
    def apply(self, node: Node) -> None:
        made = self._rule(View(node, self))
        self.values.update(zip(node.outputs, made if isinstance(made, list) else [made], strict=False))

    def append(self, layer: nn.Module, *inputs: LayerOutput) -> LayerOutput:
        """Append a layer and return what it gives out."""
        before = self.layers[inputs[0].slot - 1] if inputs[0].slot else None
        if isinstance(layer, Permuted) and isinstance(before, Permuted):
            source = self.slots[inputs[0].slot - 1][0]
            order = tuple(before.order[axis] for axis in layer.order)
            if order == tuple(range(len(order))):  # as in a model of NHWC images behind our transposition
                return LayerOutput(source, tuple(inputs[0].shape[axis - 1] for axis in layer.order[1:]))
        with torch.no_grad():
            shape = layer.eval()(*(torch.zeros(_IMAGES, *value.shape) for value in inputs)).shape
        need(shape[:1] == (_IMAGES,), "expected the images of a batch to stay apart")
        self.layers.append(layer)
        self.slots.append(tuple(value.slot for value in inputs))
        return LayerOutput(len(self.layers), tuple(shape[1:]))

    def append_dense(self, layer: nn.Module, source: LayerOutput) -> LayerOutput | None:
        """Append an affine function of each image as a dense layer, which is bounded; None where that is too large."""
        with torch.no_grad():
            bias = layer(torch.zeros(1, *source.shape))
        inputs, shape = prod(source.shape), tuple(bias.shape[1:])
        if inputs * prod(shape) > _MOST_WEIGHTS:
            return None
        with torch.no_grad():
            units = torch.eye(inputs).split(_UNITS_AT_ONCE)
            rows = [(layer(part.reshape(-1, *source.shape)) - bias).flatten(1) for part in units]
        dense = with_parameters(nn.Linear(inputs, prod(shape)), torch.cat(rows).T.numpy(), bias.reshape(-1).numpy())
        found = self.append(dense, source if len(source.shape) == 1 else self.append(nn.Flatten(), source))
        return found if len(shape) == 1 else self.append(Reshaped(shape), found)

    def activation(self, name: str) -> LayerOutput:
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

    def activation(self, place: int = 0) -> LayerOutput:
        """Return the input at a place as what a layer gives out."""
        return self.walk.activation(self.name(place))

    def is_constant(self, place: int) -> bool:
        """Return whether the input at a place is a constant."""
        return self.node.inputs[place] in self.walk.arrays

    def layer(self, layer: nn.Module) -> LayerOutput:
        """Append a layer that reads the first input, and return what it gives out."""
        return self.walk.append(layer, self.activation())

    def join(self, function: Callable[[Tensor, Tensor], Tensor]) -> LayerOutput:
        """Append a function of both inputs, which have one shape, and return what it gives out."""
        first, second = self.activation(0), self.activation(1)
        need(first.shape == second.shape, f"expected two of one shape, got {first.shape} and {second.shape}")
        return self.walk.append(Applied(function), first, second)

    def computed(self, made: Computed) -> list[tuple[Applied, list[LayerOutput]]]:
        """Return for each output the layer that computes it, and what that reads."""
        asked = range(len(self.node.inputs)) if made.places is None else made.places
        taken = [place for place in asked if self.has(place)]
        constants = {order: self.array(place) for order, place in enumerate(taken) if self.is_constant(place)}
        read = [self.activation(place) for place in taken if not self.is_constant(place)]
        return [(Applied(function, constants), read) for function in made.functions]


def _for_each(images: Tensor, given: Tensor) -> Tensor:
    """Return a constant of one image for each of them."""
    return given.expand(len(images), *given.shape[1:])
