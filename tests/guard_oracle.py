"""Guards of small graphs on boxes that they are fed, computed by runtimes and by float32 sums in orders of chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sampled_graphs import session
from soundness_trials.evaluation import Way

from abscert_plugin.bounds.proof import Proof, arithmetic
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph
from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.guards.answers import answer
from abscert_plugin.guards.bends import facts_and_sums
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.rules import RULES
from abscert_plugin.guards.values import Ends, Pixels
from abscert_plugin.guards.walk import GuardWalk

Array: TypeAlias = np.ndarray[Any, Any]
LOWER, UPPER, GIVEN, CENTER = "box_lower", "box_upper", "given_logits", "box_center"
FLUSHED = 8 * arithmetic.TINY  # by which the ends of a held value may be off


@dataclass(frozen=True)
class Seen:
    """What one run of a guard gives: ends of every value, and margins of each label, [box, label]."""

    ends: Mapping[str, tuple[Array, Array]]
    margins: Array


class InOrder(Way):
    """Sums from left to right: products first, then what else there is; nothing is fused, nothing flushed."""

    def __init__(self, flushes: bool = False) -> None:
        super().__init__(np.random.default_rng(0))
        self._flushes_operands = self._flushes_results = np.bool_(flushes)

    def products(self, weight: Array, values: Array, others: Sequence[Array]) -> Array:
        first, *more = (
            self.multiply(values[:, None, place], weight[None, :, place]) for place in range(weight.shape[1])
        )
        for term in (*more, *others):
            first = self.add(first, term)
        return first


class Flushing(InOrder):
    """The same where subnormal numbers are zero."""

    def __init__(self) -> None:
        super().__init__(flushes=True)


class WrittenGuard:
    """The guard of a graph, of boxes in place of balls.

    Args:
        graph: the graph.
        shape: of its input, without the batch.
        classes: number of logits.
        low, high: ends of boxes, [box, *shape].
        is_backward: whether margins are bounded by a backward pass too.
        ball: images, [box, *shape], and a radius, where boxes are what of a ball lies in [0, 1].

    Raises:
        UnsupportedModelError, UnsupportedNodeError: if it has none.
    """

    def __init__(
        self,
        graph: Graph,
        shape: tuple[int, ...],
        classes: int,
        low: Array,
        high: Array,
        is_backward: bool = False,
        ball: tuple[Array, float] | None = None,
    ) -> None:
        self._boxes, self._classes = {LOWER: low, UPPER: high}, classes
        lowest, highest = (torch.from_numpy(end[None]) for end in (low.min(axis=0), high.max(axis=0)))
        ends: Ends | Pixels = Ends(LOWER, UPPER, 0, top_of(low, high), bool((low >= 0).all()))
        if ball is not None:
            self._boxes[CENTER] = ball[0]
            zero, one = np.zeros(1), np.ones(1)
            lowest, highest = torch.zeros_like(lowest), torch.ones_like(lowest)
            ends = Pixels(CENTER, (one * ball[1],), zero, one, one, zero)
        proof = Proof(graph, graph.input, shape, classes)
        self._facts, sums = facts_and_sums(proof, lowest, highest)
        emitter = Emitter({*self._boxes, GIVEN, *proof.shapes, *graph.tensors}, graph.opset)
        self.walk = GuardWalk(graph, graph.input, ends, emitter, self._facts, proof.shapes, RULES, is_backward, sums)
        self.walk.run(RULES, classes, "no guard")
        self.ends = {name: self.walk.ends(name) for name in self.walk.values}
        self._margin = answer(self.walk, GIVEN, graph.output, classes, 1, is_backward).margin
        names = {name for end in self.ends.values() for name in (end.lower, end.upper)} - set(self._boxes)
        value = helper.make_tensor_value_info
        inputs = [value(name, TensorProto.FLOAT, ["batch", *shape]) for name in self._boxes]
        inputs.append(value(GIVEN, TensorProto.FLOAT, ["batch", classes]))
        kept = [numpy_helper.from_array(graph.array(name), name) for name in graph.tensors]
        outputs = [onnx.ValueInfoProto(name=name) for name in (self._margin, *sorted(names))]
        made = helper.make_graph(emitter.nodes, "guard", inputs, outputs, [*kept, *emitter.initializers])
        self.model = helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=10)

    @property
    def feed(self) -> dict[str, Array]:
        """Each box with each label."""
        boxes = {name: np.repeat(end, self._classes, axis=0) for name, end in self._boxes.items()}
        labels = np.tile(np.eye(self._classes, dtype=np.float32), (len(self._boxes[LOWER]), 1))
        return {**boxes, GIVEN: labels}

    def by_runtimes(self, has_reference: bool = True) -> Iterator[Seen]:
        """Yield what onnxruntime gives, without and with its optimisations, and onnx's reference evaluator if asked."""
        names = [output.name for output in self.model.graph.output]
        for optimises in (False, True):
            found = session(self.model, optimises).run(names, self.feed)
            yield self._seen(dict(zip(names, found, strict=True)))
        if not has_reference:
            return
        with np.errstate(all="ignore"):
            given = list(ReferenceEvaluator(self.model).run(names, self.feed))
        yield self._seen(dict(zip(names, given, strict=True)))

    def by_chance(self, way: Way) -> Seen:
        """Return what sums give in an order of chance, with or without fused multiply-add and flushing."""
        with np.errstate(all="ignore"):
            return self._seen(evaluated(self.model, self.feed, way))

    def _seen(self, found: Mapping[str, Array]) -> Seen:
        values = {**found, **self.feed}

        def end(name: str, power: int) -> Array:
            array: Array = values[name][:: self._classes].astype(np.float64) * 2.0**-power
            return array

        ends = {name: (end(one.lower, one.power), end(one.upper, one.power)) for name, one in self.ends.items()}
        assert all((ends[name][0] >= 0).all() for name, one in self.ends.items() if one.is_positive)
        for name, pair in ends.items():  # nor is any NaN
            assert all((np.abs(one) <= self._facts[name].top).all() for one in pair), f"{name} is beyond its fact"
        return Seen(ends, found[self._margin].reshape(-1, self._classes))


def top_of(low: Array, high: Array) -> float:
    """Return the largest absolute value in boxes."""
    return float(np.maximum(np.abs(low), np.abs(high)).max())


def evaluated(model: onnx.ModelProto, feed: Mapping[str, Array], way: Way) -> dict[str, Array]:
    """Return all tensors of a model whose sums and products are computed in a way of chance."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | dict(feed)
    for node in model.graph.node:
        inputs = [values[name] if name else None for name in node.input]
        found = _by_way(node, inputs, way)
        if found is None:
            version = model.opset_import[0].version
            one = ReferenceEvaluator(node, opsets={"": version})
            given = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
            found = np.asarray(next(iter(one.run(None, given))))
            found = way.given(found) if found.dtype == np.float32 else found
        values[node.output[0]] = found
    return values


def _by_way(node: onnx.NodeProto, inputs: list[Any], way: Way) -> Array | None:
    """Return what a node with sums or products gives; None of any other."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type in ("Add", "Sub", "Mul") and inputs[0].dtype == np.float32:
        first, second = np.broadcast_arrays(*inputs)
        return way.multiply(first, second) if node.op_type == "Mul" else _sum(way, first, second, node.op_type)
    if node.op_type in ("Gemm", "MatMul") and inputs[1].ndim == 2:
        weight = inputs[1] if attributes.get("transB", 0) else inputs[1].T
        rows = inputs[0].reshape(-1, weight.shape[1])
        others = [np.broadcast_to(one, (len(rows), len(weight))) for one in inputs[2:]]
        return way.products(weight, rows, others).reshape(*inputs[0].shape[:-1], len(weight))
    if node.op_type == "MatMul" and inputs[1].ndim == 3:
        return np.stack([way.products(second.T, first, []) for first, second in zip(*inputs, strict=True)])
    if node.op_type == "Conv" and inputs[1].shape[1:] == (1, 1, 1) and set(attributes) == {"group", "kernel_shape"}:
        return way.multiply(inputs[0], np.broadcast_to(inputs[1].reshape(1, -1, 1, 1), inputs[0].shape))
    if node.op_type == "Conv" and attributes.get("group", 1) == 1 and set(attributes) <= {"pads", "strides", "group"}:
        return _convolved(attributes, inputs, way) if inputs[0].ndim == 4 else None
    if node.op_type in ("Sigmoid", "Tanh"):
        return way.function(node.op_type, inputs[0])
    if node.op_type == "ConvTranspose":  # onnx's reference evaluator refuses groups
        return way.given(_by_onnxruntime(node, inputs))
    return None


def _by_onnxruntime(node: onnx.NodeProto, inputs: list[Any]) -> Array:
    value = helper.make_tensor_value_info
    given = [value(name, TensorProto.FLOAT, array.shape) for name, array in zip(node.input, inputs, strict=True)]
    graph = helper.make_graph([node], "node", given, [onnx.ValueInfoProto(name=node.output[0])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (found,) = session(model, False).run(None, dict(zip(node.input, inputs, strict=True)))
    return found


def _sum(way: Way, first: Array, second: Array, operator: str) -> Array:
    return way.add(first, -second if operator == "Sub" else second)


def _convolved(attributes: Mapping[str, Any], inputs: list[Any], way: Way) -> Array:
    values, weight, *biases = inputs
    pads, steps = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    padded = np.pad(values, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    windows = windows[:, :, :: steps[0], :: steps[1]].transpose(0, 2, 3, 1, 4, 5)
    count, height, width = windows.shape[:3]
    rows = windows.reshape(count * height * width, -1)
    others = [np.broadcast_to(one, (len(rows), len(weight))) for one in biases]
    made = way.products(weight.reshape(len(weight), -1), rows, others)
    return made.reshape(count, height, width, -1).transpose(0, 3, 1, 2)


def escaped(seen: Seen, values: Mapping[str, Array], boxes: int) -> list[str]:
    """Return the names of values, [box * point, ...], that lie outside a guard's ends."""
    outside = []
    for name, array in values.items():
        if name in seen.ends:
            lower, upper = (end[:, None] for end in seen.ends[name])
            found = array.astype(np.float64).reshape(boxes, -1, *array.shape[1:])
            if not ((lower - FLUSHED <= found) & (found <= upper + FLUSHED)).all():  # NaN is not
                outside.append(name)
    return outside


def excess(seen: Seen, logits: Array) -> float:
    """Return by how much margins of a guard exceed those of logits, [box, point, label], at most."""
    logits = logits.astype(np.float64)
    worst = -np.inf
    for label in range(logits.shape[2]):
        others = np.delete(logits, label, axis=2)
        least = (logits[:, :, label, None] - others).min(axis=(1, 2))
        worst = max(worst, float((seen.margins[:, label] - least).max()))
    return worst


def guard_margins(graph: Graph, low: Array, high: Array, classes: int) -> Array:
    """Return the largest margins that a runtime computes for a guard of boxes, [box, label]; -inf where it has none."""
    found: Array = np.full((len(low), classes), -np.inf)
    for is_backward in (False, True):
        try:
            guard = WrittenGuard(graph, low.shape[1:], classes, low, high, is_backward)
        except (UnsupportedModelError, UnsupportedNodeError):
            continue
        found = np.max([found, *(seen.margins for seen in guard.by_runtimes())], axis=0)
    return found
