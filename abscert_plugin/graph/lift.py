"""A graph of one input as a graph of a batch of them: an axis is put in front of all that depends on the input.

Files of queries need not have an axis of a batch, which proofs and modules of torch ask for: their first axis may be
one of features. What a lifted graph gives for each entry of a batch is what the file gives for it alone: operators are
given the axes that they had, one further; others are rewritten into operators that compute the same sums of products.

Soundness: proofs are about all orders of sums. Where a node is rewritten, each evaluation of it is one of what stands
in its place: Gemm is a product and a sum, which proofs take as folded or not; Expand and Concat with constants add
zeros, which changes no number.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
import onnx
from onnx import numpy_helper

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph, Node

_MOST_ZEROS: Final = 2**24
Shapes = Mapping[str, tuple[int, ...]]


@final
class Lift:
    """A lifted graph in the making.

    Args:
        graph: the file's graph.
        shapes: of its tensors, for one input.
    """

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph = graph
        self.shapes = shapes
        self.nodes: list[Node] = []
        self.tensors = dict(graph.tensors)
        self._dependent = {graph.input}
        self._count = 0

    def run(self) -> Graph:
        """Return the lifted graph, whose output is of one axis besides that of the batch.

        Raises:
            UnsupportedModelError: if an operator is not known here; names all of them.
        """
        unknown = [] if self.shapes[self.graph.input] else ["expected an input of one axis at least"]
        for node in self.graph.between(self.graph.input):
            if not self._dependent & set(node.inputs):
                self.nodes.append(node)
            elif node.operator == "Shape":
                sizes = self.shapes[node.inputs[0]][node.attributes.get("start", 0) : node.attributes.get("end")]
                self.tensors[node.outputs[0]] = numpy_helper.from_array(np.array(sizes, np.int64), node.outputs[0])
            elif node.captured or node.operator not in LIFTS:
                unknown.append(f"node {node.name!r}: no batch for {node.operator}")
            elif node.operator in _SHAPED and self._dependent & set(node.inputs[1:]):
                unknown.append(f"node {node.name!r}: no batch for indices, sizes or axes that depend on the input")
            else:
                LIFTS[node.operator](self, node)
                self._dependent |= set(node.outputs)
        if unknown:
            raise UnsupportedModelError("; ".join(unknown))
        if self.graph.output in self._dependent:
            output = self.reshaped(self.graph.output, (prod(self.shapes[self.graph.output]),))
        else:
            output = self._unmoved(self.known(self.graph.output).reshape(-1))
        shape = (None, *self.shapes[self.graph.input])
        return Graph(tuple(self.nodes), self.tensors, self.graph.input, shape, output, self.graph.opset)

    def depends(self, name: str) -> bool:
        """Return whether a tensor depends on the input."""
        return name in self._dependent

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the file."""
        return self.shapes[name]

    def constant(self, values: np.ndarray) -> str:
        """Return the name of a new constant."""
        name = self._name()
        self.tensors[name] = numpy_helper.from_array(values, name)
        return name

    def add(self, operator: str, inputs: tuple[str, ...], output: str = "", **attributes: Any) -> str:
        """Append a node and return the name of what it gives."""
        output = output or self._name()
        self.nodes.append(Node(output, operator, inputs, (output,), attributes, frozenset()))
        return output

    def same(self, node: Node, inputs: tuple[str, ...] | None = None, **attributes: Any) -> None:
        """Append a node with other inputs or attributes; an attribute that is None is left out."""
        given = {**node.attributes, **attributes}
        given = {name: value for name, value in given.items() if value is not None}
        inputs = node.inputs if inputs is None else inputs
        self.nodes.append(Node(node.name, node.operator, inputs, node.outputs, given, frozenset()))

    def reshaped(self, name: str, shape: tuple[int, ...], output: str = "") -> str:
        """Return a lifted tensor in another shape for each input."""
        sizes = self.constant(np.array((0, *shape), np.int64))
        return self.add("Reshape", (name, sizes), output)

    def ranked(self, name: str, rank: int) -> str:
        """Return a lifted tensor with as many axes for each input as what it goes with."""
        shape = self.shapes[name] if self.depends(name) else ()
        if not self.depends(name) or len(shape) == rank:
            return name
        return self.reshaped(name, (1,) * (rank - len(shape)) + shape)

    def integers(self, node: Node, attribute: str, place: int) -> list[int] | None:
        """Return what later versions read as an input, earlier ones as an attribute; None where it is left out."""
        if attribute in node.attributes:
            return [int(item) for item in np.atleast_1d(node.attributes[attribute])]
        if place < len(node.inputs) and node.inputs[place]:
            return [int(item) for item in np.atleast_1d(self.known(node.inputs[place]))]
        return None

    def known(self, name: str) -> np.ndarray:
        """Return a constant of the file.

        Raises:
            UnsupportedModelError: if it is computed.
        """
        if name in self.tensors:
            return numpy_helper.to_array(self.tensors[name])
        for node in self.nodes:
            if name in node.outputs and node.operator == "Constant":
                return _constant(node)
        raise UnsupportedModelError(f"expected {name!r} to be a constant that the file holds")

    def _unmoved(self, values: np.ndarray) -> str:
        """Return an output that is the same for every input: the input times 0, and the values."""
        entries = prod(self.shapes[self.graph.input])
        single = values.astype(np.float32)
        if entries * values.size > _MOST_ZEROS or not (single == values).all():
            raise UnsupportedModelError("its output does not depend on its input, and is none of float32")
        nothing = self.constant(np.zeros((entries, values.size), np.float32))
        product = self.add("MatMul", (self.reshaped(self.graph.input, (entries,)), nothing))
        return self.add("Add", (product, self.constant(single)))

    def _name(self) -> str:
        self._count += 1
        return f"\0lifted {self._count}"  # NUL is in no name of a file that was checked


def lifted(graph: Graph, shapes: Shapes) -> Graph:
    """Return the graph of a batch of inputs, with an output [batch, entries].

    Args:
        graph: the file's graph, with all its tensors.
        shapes: of all tensors of the file, for one input.

    Raises:
        UnsupportedModelError: if an operator is not known here.
    """
    return Lift(graph, shapes).run()


def flattened(graph: Graph) -> Graph:
    """Return a graph whose first axis is one of a batch already, with an output [batch, entries]."""
    name = "\0flat"
    flat = Node(name, "Flatten", (graph.output,), (name,), {"axis": 1}, frozenset())
    return Graph((*graph.nodes, flat), graph.tensors, graph.input, graph.input_shape, name, graph.opset)


def _constant(node: Node) -> np.ndarray:
    value = node.attributes.get("value")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if name in node.attributes:
            return np.asarray(node.attributes[name], np.int64 if "int" in name else np.float32)
    raise UnsupportedModelError(f"{node}: expected a constant of numbers")


def _rank(lift: Lift, name: str) -> int:
    return len(lift.shape(name))


def _axis(lift: Lift, node: Node, default: int, rank: int | None = None) -> int:
    rank = _rank(lift, node.inputs[0]) if rank is None else rank
    return int(node.attributes.get("axis", default)) % max(rank, 1) + 1


def _entry_by_entry(lift: Lift, node: Node) -> None:
    rank = _rank(lift, node.outputs[0])
    lift.same(node, tuple(lift.ranked(name, rank) if name else "" for name in node.inputs))


def _matmul(lift: Lift, node: Node) -> None:
    first, second = node.inputs
    out = node.outputs[0]
    least, rank = sorted((_rank(lift, first), _rank(lift, second)))
    if lift.depends(first) and lift.depends(second):
        _need(least > 1, node, "a product of vectors that both depend on the input")
        lift.same(node, (lift.ranked(first, rank), lift.ranked(second, rank)))
    elif lift.depends(first):
        if _rank(lift, second) == 1:
            column = lift.add("Reshape", (second, lift.constant(np.array([-1, 1], np.int64))))
            lift.reshaped(lift.add("MatMul", (first, column)), lift.shape(out), out)
        else:
            _need(_rank(lift, first) > 1 or rank == 2, node, "a vector times a stack of matrices")
            lift.same(node, (lift.ranked(first, rank) if _rank(lift, first) > 1 else first, second))
    else:
        _need(_rank(lift, first) <= 2, node, "a stack of constant matrices as the first factor")
        rank = _rank(lift, second)
        weight = first
        if _rank(lift, first) == 1:
            weight = lift.add("Reshape", (first, lift.constant(np.array([-1, 1], np.int64))))
        else:
            weight = lift.add("Transpose", (first,), perm=[1, 0])
        if rank > 1:
            turned = list(range(rank + 1))
            turned[-2:] = [rank, rank - 1]
            product = lift.add("MatMul", (lift.add("Transpose", (second,), perm=turned), weight))
            lift.reshaped(lift.add("Transpose", (product,), perm=turned), lift.shape(out), out)
        else:
            lift.reshaped(lift.add("MatMul", (second, weight)), lift.shape(out), out)


def _gemm(lift: Lift, node: Node) -> None:
    _need(lift.depends(node.inputs[0]) and not lift.depends(node.inputs[1]), node, "a matrix that depends on the input")
    _need(not node.attributes.get("transA", 0), node, "transA")
    weight, (alpha, beta) = node.inputs[1], (node.attributes.get(name, 1.0) for name in ("alpha", "beta"))
    if node.attributes.get("transB", 0):
        weight = lift.add("Transpose", (weight,), perm=[1, 0])
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2]) and beta != 0
    scaled = alpha != 1
    product = lift.add("MatMul", (node.inputs[0], weight), "" if has_bias or scaled else node.outputs[0])
    if scaled:
        factor = lift.constant(np.array(alpha, np.float32))
        product = lift.add("Mul", (product, factor), "" if has_bias else node.outputs[0])
    if has_bias:
        bias = node.inputs[2]
        if lift.depends(bias):
            bias = lift.ranked(bias, 2)
        if beta != 1:
            bias = lift.add("Mul", (bias, lift.constant(np.array(beta, np.float32))))
        lift.add("Add", (product, bias), node.outputs[0])


def _transpose(lift: Lift, node: Node) -> None:
    order = node.attributes.get("perm", list(reversed(range(_rank(lift, node.inputs[0])))))
    lift.same(node, perm=[0, *(place + 1 for place in order)])


def _in_shape(lift: Lift, node: Node) -> None:
    lift.reshaped(node.inputs[0], lift.shape(node.outputs[0]), node.outputs[0])


def _expand(lift: Lift, node: Node) -> None:
    shape = lift.shape(node.outputs[0])
    zeros = lift.constant(np.zeros(shape, np.float32))
    lift.add("Add", (lift.ranked(node.inputs[0], len(shape)), zeros), node.outputs[0])


def _concatenate(lift: Lift, node: Node) -> None:
    axis = _axis(lift, node, 0, _rank(lift, node.outputs[0]))
    if all(lift.depends(name) for name in node.inputs):
        lift.same(node, axis=axis)
        return
    whole = np.zeros(lift.shape(node.outputs[0]), np.float32)
    begin, parts = 0, []
    for name in node.inputs:
        if lift.depends(name):
            size = lift.shape(name)[axis - 1]
            pads = np.zeros((2, whole.ndim + 1), np.int64)
            pads[:, axis] = begin, whole.shape[axis - 1] - begin - size
            parts.append(_padded(lift, name, pads.reshape(-1).tolist()))
        else:
            values = lift.known(name)
            size = values.shape[axis - 1]
            whole[(slice(None),) * (axis - 1) + (slice(begin, begin + size),)] = values
        begin += size
    found = parts[0]
    for part in parts[1:]:
        found = lift.add("Add", (found, part))
    lift.add("Add", (found, lift.constant(whole)), node.outputs[0])


def _padded(lift: Lift, name: str, pads: list[int]) -> str:
    if lift.graph.opset < 11:
        return lift.add("Pad", (name,), pads=pads)
    return lift.add("Pad", (name, lift.constant(np.array(pads, np.int64))))


def _along_axis(lift: Lift, node: Node) -> None:
    lift.same(node, axis=_axis(lift, node, 0))


def _slices(lift: Lift, node: Node) -> None:
    starts, axes = lift.integers(node, "starts", 1), lift.integers(node, "axes", 3)
    rank = _rank(lift, node.inputs[0])
    places = [axis % rank + 1 for axis in axes or range(len(starts or ()))]
    if "starts" in node.attributes:
        lift.same(node, axes=places)
        return
    data, begin, end, *others = node.inputs
    steps = tuple(others[1:2])
    lift.same(node, (data, begin, end, lift.constant(np.array(places, np.int64)), *steps))


def _reduce(lift: Lift, node: Node) -> None:
    axes, rank = lift.integers(node, "axes", 1), _rank(lift, node.inputs[0])
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        lift.reshaped(node.inputs[0], lift.shape(node.inputs[0]), node.outputs[0])
        return
    places = [axis % rank + 1 for axis in axes] if axes else list(range(1, rank + 1))
    if len(node.inputs) > 1:
        lift.same(node, (node.inputs[0], lift.constant(np.array(places, np.int64))))
    elif "axes" in node.attributes or not _axes_are_read(node.operator, lift.graph.opset):
        lift.same(node, axes=places)
    else:
        lift.same(node, (node.inputs[0], lift.constant(np.array(places, np.int64))))


def _axes_are_read(operator: str, opset: int) -> bool:
    """Return whether a reduction reads its axes as an input."""
    return opset >= (13 if operator == "ReduceSum" else 18)


def _softmax(lift: Lift, node: Node) -> None:
    _need(lift.graph.opset >= 13, node, "softmax before version 13")
    lift.same(node, axis=_axis(lift, node, -1))


def _of_one_image(lift: Lift, node: Node) -> None:
    """Take an operator over images: its own axis of a batch has to be of one entry, and makes room for the new one."""
    shape, given = lift.shape(node.outputs[0]), lift.shape(node.inputs[0])
    _need(len(given) > 1 and given[0] == 1, node, "a batch inside one input")
    _need(all(not lift.depends(name) for name in node.inputs[1:] if name), node, "weights that depend on the input")
    _need(len(node.outputs) == 1, node, "more outputs than one")
    image = lift.reshaped(node.inputs[0], given[1:])
    found = lift.add(node.operator, (image, *node.inputs[1:]), **node.attributes)
    lift.reshaped(found, shape, node.outputs[0])


def _of_one_row(lift: Lift, node: Node) -> None:
    """Take an operator over rows, which gives its scores last: its own axis of a batch has to be of one entry."""
    given, scores = lift.shape(node.inputs[0]), node.outputs[-1]
    _need(len(given) == 2 and given[0] == 1, node, "several rows inside one input")
    row = lift.reshaped(node.inputs[0], given[1:])
    found = f"{scores}\0row"
    lift.nodes.append(replace(node, inputs=(row,), outputs=(*node.outputs[:-1], found)))
    lift.reshaped(found, lift.shape(scores), scores)


def _need(holds: bool, node: Node, what: str) -> None:
    if not holds:
        raise UnsupportedModelError(f"{node}: no batch for {what}")


_BROADCAST: Final = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
_UNARY: Final = (
    "Abs Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg "
    "Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu"
)
_REDUCTIONS: Final = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
_IMAGES: Final = (
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
    *("InstanceNormalization", "Resize", "Upsample"),
)
_SHAPED: Final = frozenset(
    {"Clip", "Expand", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", *_REDUCTIONS}
)
"""Of whose inputs the first alone may depend on the input: the others say in what shape, where, or in what bounds."""
_ROWS: Final = (
    "LinearClassifier Normalizer Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor"  # of ai.onnx.ml
)
LIFTS: Final[Mapping[str, Callable[[Lift, Node], None]]] = MappingProxyType(
    {
        **dict.fromkeys(_BROADCAST, _entry_by_entry),
        **dict.fromkeys(_UNARY.split(), Lift.same),
        **dict.fromkeys(_REDUCTIONS, _reduce),
        **dict.fromkeys(_IMAGES, _of_one_image),
        **dict.fromkeys((f"ai.onnx.ml.{operator}" for operator in _ROWS.split()), _of_one_row),
        **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _in_shape),
        "Concat": _concatenate,
        "Expand": _expand,
        "Gather": _along_axis,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "Slice": _slices,
        "Softmax": _softmax,
        "Split": _along_axis,
        "Transpose": _transpose,
    }
)
"""Operators, and how each is lifted."""
