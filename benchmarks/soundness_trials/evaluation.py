"""A graph in float32, at many points at once, in one of the ways that `enclosure` speaks of, drawn by chance."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from abscert_plugin.bounds.proof.s_shaped import SIGMOID_ERROR, TANH_ERROR
from abscert_plugin.graph.nodes import Graph, Node

Array: TypeAlias = np.ndarray[Any, Any]

TINY = np.float32(2.0**-126)
ASSUMED = 0.8  # of the assumed error of sigmoid and tanh: the rest is left for their last rounding
LARGE = 2**20  # products in a layer
PRODUCTS = ("Conv", "Gemm", "MatMul")
ENTRYWISE = ("Add", "Sub", "Mul", "Div", "BatchNormalization")


class Way:
    """One way to compute: order and tree of every sum, fused multiply-add, flushing, folding.

    Args:
        chance: where the choices come from.
    """

    def __init__(self, chance: np.random.Generator) -> None:
        self.chance = chance
        self._flushes_operands, self._flushes_results = chance.random(2) < 0.4
        self._share_fused = float(chance.choice([0.0, 0.5, 1.0]))
        self._share_folded = float(chance.choice([0.0, 0.5, 1.0]))

    def folds(self) -> bool:
        return bool(self.chance.random() < self._share_folded)

    def taken(self, values: Array) -> Array:
        return np.where(np.abs(values) < TINY, np.float32(0), values) if self._flushes_operands else values

    def given(self, values: Array) -> Array:
        return np.where(np.abs(values) < TINY, np.float32(0), values) if self._flushes_results else values

    def add(self, first: Array, second: Array) -> Array:
        return self.given(self.taken(first) + self.taken(second))

    def multiply(self, first: Array, second: Array) -> Array:
        return self.given(self.taken(first) * self.taken(second))

    def divide(self, first: Array, second: Array) -> Array:
        return self.given(self.taken(first) / self.taken(second))

    def fused(self, first: Array, second: Array, start: Array) -> Array:
        """Return first * second + start, rounded once: by a float64 sum that is rounded to odd."""
        product = self.taken(first).astype(np.float64) * self.taken(second).astype(np.float64)  # exact
        other = self.taken(start).astype(np.float64)
        total = product + other
        part = total - product
        lost = (product - (total - part)) + (other - part)
        is_even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
        moved = np.nextafter(total, np.copysign(np.inf, lost))
        odd = np.where(np.isfinite(lost) & (lost != 0) & is_even, moved, total)
        return self.given(odd.astype(np.float32))

    def total(self, terms: Sequence[Array]) -> Array:
        """Return the sum of terms by a tree drawn by chance."""
        parts = list(terms)
        while len(parts) > 1:
            first, second = (parts.pop(int(self.chance.integers(len(parts)))) for _ in range(2))
            parts.insert(0 if self.chance.random() < 0.5 else len(parts), self.add(first, second))
        return parts[0]

    def products(self, weight: Array, values: Array, others: Sequence[Array]) -> Array:
        """Return weight @ values + others: [points, out] of [out, terms] and [points, terms].

        Each sum goes in an order of its own, but those of large layers in that of numpy.
        """
        count, size = weight.shape[1], (len(values), len(weight))
        if weight.size * len(values) > LARGE:
            return self.total([self.given(self.taken(values) @ self.taken(weight).T), *others])
        order = np.argsort(self.chance.random(weight.shape), axis=1)
        weight = np.take_along_axis(weight, order, axis=1)
        values = np.ascontiguousarray(values[:, order].transpose(2, 0, 1))
        lanes = int(self.chance.choice([1, 2, 4, count]))
        is_fused, waiting, done = self.chance.random() < self._share_fused, list(others), []
        for lane in range(min(lanes, count)):
            begins = waiting and self.chance.random() < 0.5
            sums = np.broadcast_to(waiting.pop(), size) if begins else None
            for place in range(lane, count, lanes):
                factor, value = weight[:, place], values[place]
                if sums is None:
                    sums = self.multiply(factor, value)
                elif is_fused:
                    sums = self.fused(factor, value, sums)
                else:
                    sums = self.add(sums, self.multiply(factor, value))
            assert sums is not None
            done.append(sums)
        return self.total([*done, *waiting])

    def function(self, operator: str, values: Array) -> Array:
        """Return a sigmoid or tanh with any error that is assumed of it."""
        exact = values.astype(np.float64)
        found, error = np.tanh(exact), TANH_ERROR
        if operator == "Sigmoid":
            found, error = 0.5 + np.tanh(exact / 2) / 2, SIGMOID_ERROR
        noise = self.chance.uniform(-1, 1, values.shape) * ASSUMED * error
        return self.given((found + noise).astype(np.float32))


class Evaluation:
    """A graph evaluated in one way; affine nodes may be folded into their neighbours.

    Args:
        graph: the graph.
        way: how.
    """

    def __init__(self, graph: Graph, way: Way) -> None:
        self._way = way
        self._graph = graph
        self.values: dict[str, Array] = {}
        self._constants = {name: graph.array(name) for name in graph.tensors}
        self._folded: set[str] = set()
        self._waiting: dict[str, tuple[str, Array | None, Array | None]] = {}
        self._readers: dict[str, list[Node]] = {}

    def run(self, source: str, points: Array) -> dict[str, Array]:
        """Return every value that is held, by its name; one that is folded away has none."""
        self.values[source] = points
        nodes = self._graph.between(source)
        for node in nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        with np.errstate(all="ignore"):
            for node in nodes:
                if node.outputs[0] not in self._folded:
                    self._take(node)
        return self.values

    def _take(self, node: Node) -> None:
        if node.operator in PRODUCTS:
            self._product(node)
        elif node.operator in ENTRYWISE:
            self._entrywise(node)
        else:
            self._other(node)

    # --- products, with what is folded into them ----------------------------------------------------------------------

    def _product(self, node: Node) -> None:
        weight, bias = self._constants[node.inputs[1]], None
        source, way = node.inputs[0], self._way
        if len(node.inputs) > 2:
            bias = self._constants[node.inputs[2]].reshape(-1)
        shape = weight.shape[2:]
        if node.operator == "Conv":
            weight = weight.reshape(len(weight), -1)
        elif not node.attributes.get("transB", 0):
            weight = weight.T
        if source in self._waiting:
            source, factor, offset = self._waiting[source]
            if offset is not None:
                others = [] if bias is None else [bias[None]]
                bias = way.products(weight, np.broadcast_to(offset, (1, weight.shape[1])), others)[0]
            if factor is not None:
                weight = way.multiply(weight, np.broadcast_to(factor, weight.shape[1]))
        name = node.outputs[0]
        while (after := self._only_reader(name)) is not None and self._is_constant_step(after) and way.folds():
            factor, offset = self._affine(after)
            if factor is not None:
                weight = way.multiply(weight, factor.reshape(-1, 1))
                bias = None if bias is None else way.multiply(bias, factor)
            if offset is not None:
                offset = np.broadcast_to(offset, len(weight))
                bias = offset if bias is None else way.add(bias, offset)
            self._folded.add(after.outputs[0])
            name = after.outputs[0]
        others, name = ([] if bias is None else [bias]), name
        join = self._only_reader(name)
        extra = None
        if join is not None and join.operator == "Add" and way.folds():
            other = join.inputs[1] if join.inputs[0] == name else join.inputs[0]
            if other in self.values and other != name:
                extra, name = self.values[other], join.outputs[0]
                self._folded.add(name)
        values = self.values[source]
        if node.operator == "Conv":
            self.values[name] = self._convolved(node, weight, shape, values, others, extra)
        else:
            self.values[name] = way.products(weight, values, [*others, *([] if extra is None else [extra])])

    def _convolved(
        self, node: Node, weight: Array, kernel: Sequence[int], values: Array, others: list[Array], extra: Array | None
    ) -> Array:
        pads, stride = node.attributes.get("pads", [0] * 4), node.attributes.get("strides", [1, 1])
        padded = np.pad(values, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
        windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel), axis=(2, 3))
        windows = windows[:, :, :: stride[0], :: stride[1]].transpose(0, 2, 3, 1, 4, 5)
        points, height, width = windows.shape[:3]
        rows = windows.reshape(points * height * width, -1)
        if extra is not None:
            others = [*others, extra.transpose(0, 2, 3, 1).reshape(len(rows), -1)]
        made = self._way.products(weight, rows, others)
        return made.reshape(points, height, width, -1).transpose(0, 3, 1, 2)

    def _only_reader(self, name: str) -> Node | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name != self._graph.output else None

    def _is_constant_step(self, node: Node) -> bool:
        """Return whether a node acts entry by entry with one number a channel, after its first input."""
        if node.operator not in ENTRYWISE or node.inputs[0] in self._constants:
            return False
        return all(name in self._constants for name in node.inputs[1:])

    def _affine(self, node: Node) -> tuple[Array | None, Array | None]:
        """Return factor and offset of each channel, computed beforehand."""
        constants, way = [self._constants[name].reshape(-1) for name in node.inputs[1:]], self._way
        if node.operator == "Mul":
            return constants[0], None
        if node.operator == "Div":
            return way.divide(np.ones_like(constants[0]), constants[0]), None
        if node.operator in ("Add", "Sub"):
            return None, constants[0] if node.operator == "Add" else -constants[0]
        scale, shift, mean, _ = constants
        factor = way.multiply(scale, self._inverse(node))
        return factor, way.add(shift, -way.multiply(mean, factor))

    def _inverse(self, node: Node) -> Array:
        epsilon = np.float32(node.attributes.get("epsilon", 1e-5))
        return np.float32(1) / np.sqrt(self._constants[node.inputs[4]] + epsilon)

    # --- entry by entry -----------------------------------------------------------------------------------------------

    def _entrywise(self, node: Node) -> None:
        first, output, way = node.inputs[0], node.outputs[0], self._way
        if not self._is_constant_step(node):
            left, right = (self._operand(name) for name in node.inputs)
            right = -right if node.operator == "Sub" else right
            self.values[output] = way.multiply(left, right) if node.operator == "Mul" else way.add(left, right)
            return
        after = self._only_reader(output)
        if after is not None and after.operator in ("Gemm", "MatMul") and first in self.values and way.folds():
            factor, offset = self._affine(node)
            self._waiting[output] = (first, factor, offset)
            return
        values = self._operand(first)
        if node.operator == "BatchNormalization":
            self.values[output] = self._normalised(node, values)
        elif node.operator == "Div":
            self.values[output] = self._divided(values, self._constants[node.inputs[1]])
        else:
            constant = self._constants[node.inputs[1]]
            constant = -constant if node.operator == "Sub" else constant
            self.values[output] = (
                way.multiply(values, constant) if node.operator == "Mul" else way.add(values, constant)
            )

    def _divided(self, values: Array, by: Array) -> Array:
        way = self._way
        if way.chance.random() < 0.5:
            return way.divide(values, by)
        return way.multiply(values, way.divide(np.ones_like(by), by))

    def _pooled(self, node: Node, values: Array) -> Array:
        """Return the largest or the mean of each window."""
        kernel = tuple(node.attributes["kernel_shape"])
        windows = np.lib.stride_tricks.sliding_window_view(values, kernel, axis=(2, 3))
        windows = windows.reshape(*windows.shape[:4], -1)
        if node.operator == "MaxPool":
            return self._way.given(self._way.taken(windows).max(axis=4))
        count = windows.shape[4]
        if self._way.chance.random() < 0.3:  # as a convolution
            share = np.full((1, count), np.float32(1) / np.float32(count), dtype=np.float32)
            return self._way.products(share, windows.reshape(-1, count), []).reshape(windows.shape[:4])
        total = self._way.total([windows[..., place] for place in range(count)])
        return self._divided(total, np.array(count, dtype=np.float32))

    def _normalised(self, node: Node, values: Array) -> Array:
        way, full = self._way, (1, -1, *(1 for _ in values.shape[2:]))
        kind = int(way.chance.integers(3))
        if kind == 0:
            factor, offset = (part.reshape(full) for part in self._affine(node) if part is not None)
            if way.chance.random() < 0.5:
                shape = values.shape
                return way.fused(np.broadcast_to(factor, shape), values, np.broadcast_to(offset, shape))
            return way.add(way.multiply(values, factor), offset)
        scale, shift, mean, _ = (self._constants[name].reshape(full) for name in node.inputs[1:])
        inverse, centred = self._inverse(node).reshape(full), way.add(values, -mean)
        if kind == 1:
            return way.add(way.multiply(centred, way.multiply(scale, inverse)), shift)
        return way.add(way.multiply(way.multiply(centred, inverse), scale), shift)

    def _operand(self, name: str) -> Array:
        return self._constants[name] if name in self._constants else self.values[name]

    def _other(self, node: Node) -> None:
        values, way = self.values[node.inputs[0]], self._way
        if node.operator == "Split":
            cuts = np.cumsum(self._constants[node.inputs[1]])[:-1]
            parts = np.split(values, cuts, axis=node.attributes.get("axis", 0))
            self.values |= dict(zip(node.outputs, parts, strict=True))
            return
        if node.operator == "Relu":
            found = way.given(np.maximum(way.taken(values), np.float32(0)))
        elif node.operator == "LeakyRelu":
            slope = np.float32(node.attributes["alpha"])
            found = np.where(values >= 0, way.taken(values), way.multiply(values, np.asarray(slope)))
        elif node.operator == "Clip":
            found = way.given(np.clip(way.taken(values), *(self._constants[name] for name in node.inputs[1:])))
        elif node.operator == "Neg":
            found = -values
        elif node.operator in ("MaxPool", "AveragePool"):
            found = self._pooled(node, values)
        elif node.operator in ("Sigmoid", "Tanh"):
            found = way.function(node.operator, values)
        elif node.operator in ("Flatten", "Identity"):
            found = values.reshape(len(values), -1) if node.operator == "Flatten" else values
        else:
            raise NotImplementedError(node.operator)
        self.values[node.outputs[0]] = found
