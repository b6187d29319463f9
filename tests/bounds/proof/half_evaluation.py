"""Small nets on float16: as ONNX graphs, and evaluated as runtimes may, in float16, in float32, or in some of each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.graph.nodes import Graph, read_graph

SOURCE: Final = "interval"
CLASSES: Final = 2
_TINY: Final = 2.0**-14
CLIP: Final = np.array(-0.5, np.float16), np.array(2, np.float16)
_OPERATORS: Final = {"dense": "Gemm", "scale": "Mul", "shift": "Add", "relu": "Relu", "clip": "Clip", "join": "Add"}


@dataclass(frozen=True)
class Layer:
    """An operator on features and its float16 constants: dense (W [in, out], b), scale, shift, relu, clip (ends), join.

    A join adds what the layer `back` layers before it was given.
    """

    kind: str
    constants: tuple[np.ndarray, ...] = ()
    back: int = 0


@dataclass
class Runtime:
    """A runtime whose choices are drawn by chance, for each node and each reader of a value.

    Args:
        choices: where they come from.
        flushes: whether subnormal numbers of float16 are 0, as operands and as results.
        has_half_sums: whether sums of products may be held in float16.
        folds: whether a scale behind a dense layer is multiplied into it.
    """

    choices: random.Random
    flushes: bool
    has_half_sums: bool
    folds: bool
    found: dict[str, list[float]] = field(default_factory=dict)

    def half(self, value: float) -> float:
        """Return a value rounded to float16."""
        with np.errstate(over="ignore"):
            near = float(np.float16(value))
        return 0.0 if self.flushes and abs(near) < _TINY else near

    def may_half(self, value: float) -> float:
        """Return a value rounded to float16, or as it is."""
        return self.half(value) if self.choices.random() < 0.5 else value

    def dot(self, pairs: Sequence[tuple[float, float]], bias: float) -> float:
        """Return a sum of products and a bias, in any order."""
        in_half = self.has_half_sums and self.choices.random() < 0.7
        rounded = self.half if in_half else lambda value: float(np.float32(value))
        if in_half:
            pairs = [(self.half(a), self.half(b)) for a, b in pairs]
        terms = [rounded(a * b) for a, b in pairs]
        has_bias_in_sum = self.choices.random() < 0.5
        if has_bias_in_sum:
            terms.append(bias)
        self.choices.shuffle(terms)
        in_a_row = self.choices.random() < 0.5
        while len(terms) > 1:
            first = terms.pop(0 if in_a_row else self.choices.randrange(len(terms)))
            second = terms.pop(0 if in_a_row else self.choices.randrange(len(terms)))
            terms.insert(0, rounded(first + second))
        total = self.may_half(terms[0])
        return total if has_bias_in_sum else rounded(total + bias)

    def apply(self, layer: Layer, values: Sequence[float], others: Sequence[float]) -> list[float]:
        """Return what a layer gives for what it reads."""
        values = [self.may_half(value) for value in values]
        constants = [[self.half(one) for one in array.ravel().tolist()] for array in layer.constants]
        if layer.kind == "relu":
            return [max(value, 0.0) for value in values]
        if layer.kind == "clip":
            return [min(max(value, constants[0][0]), constants[1][0]) for value in values]
        if layer.kind == "scale":
            return [self.may_half(float(np.float32(a * b))) for a, b in zip(values, constants[0], strict=True)]
        if layer.kind == "shift":
            return [self.may_half(float(np.float32(a + b))) for a, b in zip(values, constants[0], strict=True)]
        if layer.kind == "join":
            pairs = zip(values, map(self.may_half, others), strict=True)
            return [self.may_half(float(np.float32(a + b))) for a, b in pairs]
        weight = np.array(constants[0]).reshape(len(values), -1)
        return [
            self.dot(list(zip(weight[:, column].tolist(), values, strict=True)), constants[1][column])
            for column in range(weight.shape[1])
        ]

    def run(self, layers: Sequence[Layer], point: np.ndarray) -> dict[str, list[float]]:
        """Return what is computed behind each layer, by name, rounded to float16 or not yet."""
        given, values, found = [], point.tolist(), {}
        skipped = False
        for place, layer in enumerate(layers):
            given.append(values)
            following = layers[place + 1] if place + 1 < len(layers) else None
            if skipped:
                skipped = False
            else:
                if self.folds and layer.kind == "dense" and following is not None and following.kind == "scale":
                    layer, skipped = self._folded(layer, following), True
                values = self.apply(layer, values, given[place - layer.back])
            if not skipped:
                found[name_of(layers, place)] = values
        found["logits"] = [self.half(value) for value in values]
        return found

    def _folded(self, dense: Layer, scale: Layer) -> Layer:
        weight, bias = (np.vectorize(self.half)(constant.astype(float)) for constant in dense.constants)
        factor = np.vectorize(self.half)(scale.constants[0].astype(float))
        made = tuple(np.vectorize(self.half)(one * factor.reshape(1, -1)) for one in (weight, bias.reshape(1, -1)))
        return Layer("dense", (made[0], made[1].ravel()))


def name_of(layers: Sequence[Layer], place: int) -> str:
    """Return the name of what a layer gives."""
    return "half" if place == len(layers) - 1 else f"v{place}"


def random_layers(chance: np.random.Generator, inputs: int, size: float = 1.0) -> list[Layer]:
    """Return layers, with constants of many sizes."""

    def halves(*shape: int) -> np.ndarray:
        spread = size * 10.0 ** chance.uniform(-2, 0.5, shape)
        return (chance.standard_normal(shape) * spread).astype(np.float16)

    def dense(width: int, outputs: int) -> Layer:
        return Layer("dense", (halves(width, outputs), halves(outputs)))

    layers, width = [], inputs
    for _ in range(int(chance.integers(1, 3))):
        outputs = int(chance.integers(2, 6))
        layers.append(dense(width, outputs))
        width = outputs
        if chance.random() < 0.5:
            layers.append(Layer("scale", (halves(1, width),)))
        if chance.random() < 0.5:
            layers.append(Layer("shift", (halves(1, width),)))
        layers.append(Layer("relu") if chance.random() < 0.7 else Layer("clip", CLIP))
        if chance.random() < 0.5:
            layers += [dense(width, width), Layer("relu"), dense(width, width), Layer("join", back=3)]
    return [*layers, dense(width, CLASSES)]


def graph_of(layers: Sequence[Layer], inputs: int) -> Graph:
    """Return the net as a graph between casts: of `interval` in float32, and to `logits`."""
    nodes = [helper.make_node("Cast", [SOURCE], ["given"], "given", to=TensorProto.FLOAT16)]
    tensors, last, given = [], "given", []
    for place, layer in enumerate(layers):
        given.append(last)
        names = [f"c{place}_{k}" for k in range(len(layer.constants))]
        tensors += [
            numpy_helper.from_array(np.asarray(array), name) for name, array in zip(names, layer.constants, strict=True)
        ]
        others = [given[place - layer.back]] if layer.kind == "join" else []
        output = name_of(layers, place)
        nodes.append(helper.make_node(_OPERATORS[layer.kind], [last, *names, *others], [output], output))
        last = output
    nodes.append(helper.make_node("Cast", [last], ["logits"], "logits", to=TensorProto.FLOAT))
    return read_graph(model_of(nodes, tensors, inputs), Path("net.onnx"))


def model_of(nodes: Sequence[Any], tensors: Sequence[Any], inputs: int) -> onnx.ModelProto:
    """Return a model of features to `logits`."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in (SOURCE, "logits")]
    ends[0] = helper.make_tensor_value_info(SOURCE, TensorProto.FLOAT, ["batch", inputs])
    made = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
