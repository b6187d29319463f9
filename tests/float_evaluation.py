"""Small nets of layers in a row: as ONNX graphs, in exact rationals, and in float32 in any order that is asked for."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.graph.nodes import Graph, read_graph

SOURCE = "scaled"
CLASSES = 2
TINY = np.float32(2.0**-126)
ZERO = np.float32(0)


@dataclass(frozen=True)
class Layer:
    """An operator on features and its constants: dense (W [in, out], b), scale, shift, norm (scale, shift, mean,
    variance), divide, relu, leaky (alpha)."""

    kind: str
    constants: tuple[np.ndarray, ...] = ()
    alpha: float = 0.0


OPERATORS = {
    "dense": "Gemm",
    "scale": "Mul",
    "shift": "Add",
    "divide": "Div",
    "norm": "BatchNormalization",
    "relu": "Relu",
    "leaky": "LeakyRelu",
}
HELD = ("relu", "leaky")
EPSILON = float(np.float32(1e-5))


def random_layers(chance: np.random.Generator, scale: float, inputs: int) -> list[Layer]:
    """Return layers of which several affine ones follow one another, with constants of many sizes."""

    def floats(*shape: int) -> np.ndarray:
        spread = 10.0 ** chance.uniform(-scale, scale, shape)
        return (chance.standard_normal(shape) * spread).astype(np.float32)

    def entrywise(width: int) -> Layer:
        kind = str(chance.choice(["scale", "shift", "divide", "norm"]))
        if kind == "norm":
            variance = chance.uniform(0.01, 4, width).astype(np.float32)
            return Layer(kind, (floats(width), floats(width), floats(width), variance))
        constant = floats(width)
        return Layer(kind, (np.where(constant == 0, np.float32(1), constant).reshape(1, -1),))

    layers, width = [], inputs
    for _ in range(int(chance.integers(1, 4))):
        layers += [entrywise(width) for _ in range(int(chance.integers(0, 3)))]
        outputs = int(chance.integers(2, 5))
        layers.append(Layer("dense", (floats(width, outputs), floats(outputs))))
        width = outputs
        layers += [entrywise(width) for _ in range(int(chance.integers(0, 2)))]
        layers.append(
            Layer("relu") if chance.random() < 0.7 else Layer("leaky", (), float(np.float32(chance.normal())))
        )
    layers.append(Layer("dense", (floats(width, CLASSES), floats(CLASSES))))
    return layers


def graph_of(layers: Sequence[Layer], inputs: int) -> Graph:
    """Return the net as a graph; layer k gives `v{k}`, the last one `logits`."""
    nodes, tensors, last = [], [], SOURCE
    for place, layer in enumerate(layers):
        names = [f"c{place}_{k}" for k in range(len(layer.constants))]
        tensors += [numpy_helper.from_array(array, name) for name, array in zip(names, layer.constants, strict=True)]
        output = "logits" if place == len(layers) - 1 else f"v{place}"
        attributes: dict[str, Any] = {"leaky": {"alpha": layer.alpha}, "norm": {"epsilon": EPSILON}}.get(layer.kind, {})
        nodes.append(helper.make_node(OPERATORS[layer.kind], [last, *names], [output], output, **attributes))
        last = output
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in (SOURCE, "logits")]
    ends[0] = helper.make_tensor_value_info(SOURCE, TensorProto.FLOAT, ["batch", inputs])
    made = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return read_graph(model, Path("net.onnx"))


def rounded(value: Fraction) -> np.float32:
    """Return the nearest float32, ties to even."""
    with np.errstate(over="ignore", under="ignore"):
        near = np.float32(float(value))
    if not np.isfinite(near):
        return near
    ends = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    ends = [end for end in ends if np.isfinite(end)]
    return min(ends, key=lambda end: (abs(Fraction(float(end)) - value), int(end.view(np.int32)) & 1))


@dataclass
class Exact:
    """Real arithmetic, as rationals; a root is one to 200 bits."""

    def number(self, value: Any) -> Fraction:
        return Fraction(float(value))

    def add(self, a: Fraction, b: Fraction) -> Fraction:
        return a + b

    def multiply(self, a: Fraction, b: Fraction) -> Fraction:
        return a * b

    def divide(self, a: Fraction, b: Fraction) -> Fraction:
        return a / b

    def root(self, a: Fraction) -> Fraction:
        return Fraction(math.isqrt(int(a * (1 << 400))), 1 << 200)

    def dot(self, bias: Any, pairs: Sequence[tuple[Any, Any]]) -> Fraction:
        return sum((a * b for a, b in pairs), Fraction(0) if bias is None else bias)

    def largest(self, a: Fraction, b: Fraction) -> Fraction:
        return max(a, b)


class Single:
    """float32 with choices drawn by chance: order and tree of sums, fused multiply-add, flushing.

    Args:
        choices: where they come from.
        flushes: whether subnormal numbers are zero, as operands and as results.
        fuses: whether products are fused with sums.
    """

    def __init__(self, choices: random.Random, flushes: bool, fuses: bool) -> None:
        self._choices, self._flushes, self._fuses = choices, flushes, fuses

    def _kept(self, value: np.float32) -> np.float32:
        return ZERO if self._flushes and abs(value) < TINY else value

    def number(self, value: Any) -> np.float32:
        return np.float32(value)

    def add(self, a: np.float32, b: np.float32) -> np.float32:
        return self._kept(self._kept(a) + self._kept(b))

    def multiply(self, a: np.float32, b: np.float32) -> np.float32:
        return self._kept(self._kept(a) * self._kept(b))

    def divide(self, a: np.float32, b: np.float32) -> np.float32:
        if self._choices.random() < 0.5:
            return self.multiply(a, self._kept(np.float32(1) / self._kept(b)))
        return self._kept(self._kept(a) / self._kept(b))

    def root(self, a: np.float32) -> np.float32:
        return self._kept(np.sqrt(self._kept(a)))

    def largest(self, a: np.float32, b: np.float32) -> np.float32:
        return max(self._kept(a), self._kept(b))

    def fused(self, a: np.float32, b: np.float32, c: np.float32) -> np.float32:
        a, b, c = self._kept(a), self._kept(b), self._kept(c)
        if not np.isfinite([a, b, c]).all():
            return a * b + c
        return self._kept(rounded(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))))

    def dot(self, bias: Any, pairs: Sequence[tuple[Any, Any]]) -> np.float32:
        pairs = list(pairs)
        self._choices.shuffle(pairs)
        if self._fuses:
            starts = 0 if bias is None else bias
            kept = bias is not None and self._choices.random() < 0.5
            total = self.number(starts if kept or bias is None else 0)
            for a, b in pairs:
                total = self.fused(a, b, total)
            return self.add(total, bias) if bias is not None and not kept else total
        terms = [self.multiply(a, b) for a, b in pairs] + ([] if bias is None else [bias])
        in_a_row = self._choices.random() < 0.5
        self._choices.shuffle(terms)
        while len(terms) > 1:
            first = terms.pop(0 if in_a_row else self._choices.randrange(len(terms)))
            second = terms.pop(0 if in_a_row else self._choices.randrange(len(terms)))
            terms.insert(0, self.add(first, second))
        return terms[0]


def affine_form(layer: Layer, arithmetic: Any, width: int) -> tuple[list[Any], list[Any]]:
    """Return factor and offset of each feature of a layer that acts entry by entry."""
    number = arithmetic.number
    constants = [[number(value) for value in np.broadcast_to(array.ravel(), width)] for array in layer.constants]
    ones, zeros = [number(1)] * width, [None] * width
    if layer.kind == "scale":
        return constants[0], zeros
    if layer.kind == "divide":
        return [arithmetic.divide(number(1), value) for value in constants[0]], zeros
    if layer.kind == "shift":
        return ones, constants[0]
    scale, shift, mean, variance = constants
    inverse = [
        arithmetic.divide(number(1), arithmetic.root(arithmetic.add(value, number(EPSILON)))) for value in variance
    ]
    factors = [arithmetic.multiply(a, b) for a, b in zip(scale, inverse, strict=True)]
    taken = [arithmetic.multiply(a, b) for a, b in zip(mean, factors, strict=True)]
    return factors, [arithmetic.add(a, -b) for a, b in zip(shift, taken, strict=True)]


def apply(layer: Layer, values: list[Any], arithmetic: Any) -> list[Any]:
    """Return what a layer gives, evaluated as it stands."""
    number = arithmetic.number
    if layer.kind == "dense":
        weight, bias = layer.constants
        return [
            arithmetic.dot(number(bias[j]), [(number(weight[i, j]), value) for i, value in enumerate(values)])
            for j in range(weight.shape[1])
        ]
    if layer.kind == "relu":
        return [arithmetic.largest(value, number(0)) for value in values]
    if layer.kind == "leaky":
        alpha = number(np.float32(layer.alpha))
        return [value if value > 0 else arithmetic.multiply(alpha, value) for value in values]
    if layer.kind == "divide":
        return [
            arithmetic.divide(value, number(by))
            for value, by in zip(values, np.broadcast_to(layer.constants[0].ravel(), len(values)), strict=True)
        ]
    factors, offsets = affine_form(layer, arithmetic, len(values))
    scaled = (
        values if layer.kind == "shift" else [arithmetic.multiply(a, b) for a, b in zip(factors, values, strict=True)]
    )
    return [a if b is None else arithmetic.add(a, b) for a, b in zip(scaled, offsets, strict=True)]


def evaluate(
    layers: Sequence[Layer], point: np.ndarray, arithmetic: Any, folds: Sequence[bool] = ()
) -> dict[str, list[Any]]:
    """Return all values that a net's evaluation holds, by name; a folded layer's input has no value of its own.

    Args:
        layers: the net.
        point: the input.
        arithmetic: `Exact` or `Single`.
        folds: for each layer, whether it is folded into the dense layer beside it, the one before it first.
    """
    folds = [*folds] or [False] * len(layers)
    values, found = [arithmetic.number(value) for value in point], {}
    place = 0
    while place < len(layers):
        group = [layers[place]]
        while (
            place + len(group) < len(layers)
            and folds[place + len(group) - 1]
            and _can_join(group, layers[place + len(group)])
        ):
            group.append(layers[place + len(group)])
        place += len(group)
        values = apply(group[0], values, arithmetic) if len(group) == 1 else _folded(group, values, arithmetic)
        found["logits" if place == len(layers) else f"v{place - 1}"] = values
    return found


def _can_join(group: Sequence[Layer], layer: Layer) -> bool:
    kinds = [one.kind for one in group] + [layer.kind]
    return not set(kinds) & set(HELD) and kinds.count("dense") <= 1


def _folded(group: Sequence[Layer], values: list[Any], arithmetic: Any) -> list[Any]:
    """Evaluate layers as one, with weights that are multiplied beforehand."""
    number, dense = arithmetic.number, [layer.kind for layer in group].count("dense")
    width = len(values)
    factors, offsets = [number(1)] * width, [None] * width
    weight: list[list[Any]] | None = None
    for layer in group:
        if layer.kind == "dense":
            matrix, bias = layer.constants
            weight = [
                [arithmetic.multiply(number(matrix[i, j]), factors[i]) for i in range(width)]
                for j in range(matrix.shape[1])
            ]
            moved = [(i, offset) for i, offset in enumerate(offsets) if offset is not None]
            offsets = [
                arithmetic.dot(number(bias[j]), [(number(matrix[i, j]), offset) for i, offset in moved])
                if moved
                else number(bias[j])
                for j in range(matrix.shape[1])
            ]
            continue
        by, plus = affine_form(layer, arithmetic, len(offsets))
        if layer.kind != "shift":
            offsets = [None if a is None else arithmetic.multiply(a, b) for a, b in zip(offsets, by, strict=True)]
            if weight is None:
                factors = [arithmetic.multiply(a, b) for a, b in zip(factors, by, strict=True)]
            else:
                weight = [[arithmetic.multiply(w, b) for w in row] for row, b in zip(weight, by, strict=True)]
        offsets = [
            b if a is None else a if b is None else arithmetic.add(a, b) for a, b in zip(offsets, plus, strict=True)
        ]
    if not dense:
        scaled = [arithmetic.multiply(a, b) for a, b in zip(factors, values, strict=True)]
        return [a if b is None else arithmetic.add(a, b) for a, b in zip(scaled, offsets, strict=True)]
    assert weight is not None
    return [
        arithmetic.dot(offset, list(zip(row, values, strict=True))) for row, offset in zip(weight, offsets, strict=True)
    ]
