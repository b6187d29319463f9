"""A graph taken up node by node: constants and sizes are computed here, what depends on the image is left to rules."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph, Node, node_of
from abscert_plugin.wording import one_line

BATCH: Final = 7 - 2**31
"""Stands for the batch among sizes: below 0 in any type that it may have, and unlike -1 it asks for nothing."""

_FAR: Final = -(2**30)
"""Below it, what was picked among sizes may be `BATCH`, cast to a float as well."""

_SIZES: Final = frozenset(
    {"Cast", "Concat", "Equal", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze", "Where"}
)
_SIZE_TYPES: Final = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64)
_IF: Final = "If"
_IN_BRANCHES: Final = frozenset({"Cast", "Constant", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_REPEATED: Final = frozenset({"ConstantOfShape", "Expand"})  # may repeat a constant for each image

MOVES: Final = (_SIZES - {"Equal"}) | {
    "Constant",
    "ConstantOfShape",
    "DepthToSpace",
    "Expand",
    "EyeLike",
    "Flatten",
    "GatherElements",
    "GatherND",
    "Pad",
    "ScatterElements",
    "ScatterND",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
    "Trilu",
}
"""Exact on constants of any type. None here or below holds a graph, which might never end."""

CURVES: Final = frozenset({"Abs", "Erf", "Exp", "Log", "Pow", "Reciprocal", "Softplus", "Sqrt"})
"""Functions of real constants, and powers with a constant exponent."""

_PICKS: Final = (
    "Abs And Ceil Equal Floor Greater GreaterOrEqual Less LessOrEqual Max Min NonZero Not Or Range ReduceMax ReduceMin "
    "Relu Round Sign Size Xor"
)
PICKS: Final = frozenset(_PICKS.split())
"""Exact on constants that are known exactly, of any type; Range where what it gives are whole numbers."""

COUNTS: Final = frozenset({"CumSum", "Mod", "ReduceProd", "ReduceSum"})
"""Exact on whole numbers."""

ON_CONSTANTS: Final = (
    MOVES | PICKS | COUNTS | CURVES | {"Add", "DequantizeLinear", "Div", "MatMul", "Mul", "Neg", "Sub"}
)
"""Operators that are computed where all that they read is constant."""

BROKEN: Final = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What layers, arithmetic and constants of a broken graph may raise."""


ONLY_SHAPES: Final = "expected the batch size to be used in shapes only"
"""Why a node that makes anything else of it is refused."""


class UnsupportedNodeError(Exception):
    """A node without a rule, or used as no rule knows it; says why, for a message that says where it is."""


def need(holds: bool, reason: str) -> None:
    """Raise UnsupportedNodeError unless something holds."""
    if not holds:
        raise UnsupportedNodeError(reason)


class Walk(ABC):
    """A graph, and what is known of its tensors so far.

    Args:
        graph: the graph.
        source: the tensor to begin at.
    """

    def __init__(self, graph: Graph, source: str) -> None:
        self.graph = graph
        self.source = source
        self.arrays = {name: graph.array(name) for name in graph.tensors}
        self.rows: set[str] = set()  # values that hold rows of all images along their first axis
        self._with_batch: set[str] = set()  # constants among which `BATCH` may be

    @abstractmethod
    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return the shape, without the batch, of a tensor that depends on the source; None of any other."""

    @abstractmethod
    def fold(self, node: Node) -> None:
        """Take up what a node of `ON_CONSTANTS` gives that reads constants alone."""

    @abstractmethod
    def repeat(self, node: Node) -> None:
        """Take up what a node on constants gives that repeats one for each image; `once` says what for one image."""

    @abstractmethod
    def apply(self, node: Node) -> None:
        """Take up what a node gives that reads something that depends on the source."""

    def run(
        self,
        known: Collection[str],
        classes: int,
        refusal: str,
        on_node: Callable[[int, int], object] = lambda done, total: None,  # noqa: ARG005 - they have names for mypy
    ) -> None:
        """Take up all nodes between the source and the output.

        Args:
            known: the operators that `apply` knows.
            classes: how many logits there have to be.
            refusal: how messages begin.
            on_node: told after each how many are taken up, and how many there are.

        Raises:
            UnsupportedModelError: if an operator is not known, and names all of these at once; or a way to use one is
                not, or the output is no [batch, classes].
        """
        missing = unsupported(self.graph, self.source, known)
        if missing:
            raise UnsupportedModelError(f"{refusal}: {'; '.join(missing)}")
        nodes = list(self.graph.between(self.source))
        for done, node in enumerate(nodes, start=1):
            try:
                self._take(node)
            except UnsupportedNodeError as error:
                raise UnsupportedModelError(f"{refusal}: {node}: {error}") from error
            except BROKEN as error:
                raise UnsupportedModelError(f"{refusal}: {node}: {one_line(error)}") from error
            on_node(done, len(nodes))
        if self.shape_of(self.graph.output) != (classes,):
            raise UnsupportedModelError(f"{refusal}: expected logits [batch, {classes}] that depend on `{self.source}`")

    def constant(self, name: str) -> np.ndarray:
        """Return a constant that is known exactly."""
        need(name in self.arrays, f"it reads {name!r}, which is not known")
        return self.arrays[name]

    def compute(self, node: Node) -> None:
        """Take up what a node gives that reads exact constants alone, by onnx's own reference."""
        self.take(node, evaluate(node, {name: self.constant(name) for name in node.inputs if name}, self.graph.opset))

    def take(self, node: Node, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what a node gives that reads exact constants alone."""
        self.arrays.update(arrays)
        if self._with_batch & set(node.inputs):  # it only picked, ordered and cast what it read
            self._with_batch |= {name for name, array in arrays.items() if bool((array < _FAR).any())}

    def _take(self, node: Node) -> None:
        if node.operator == _IF:
            self._take_branch(node)
            return
        shapes = [self.shape_of(name) for name in node.inputs if name]
        shape = next((found for found in shapes if found is not None), None)
        if shape is None and self._is_repeated(node):
            self.repeat(node)
        elif shape is None:
            self._need_sizes_to_stay(node)
            self.fold(node)
        elif node.operator == "Shape":
            need(node.inputs[0] not in self.rows, "expected no sizes of rows of all images")  # known by other axes
            sizes = (BATCH, *shape)[node.attributes.get("start", 0) : node.attributes.get("end")]
            self.arrays[node.outputs[0]] = np.array(sizes, dtype=np.int64)
            self._with_batch |= set(node.outputs)
        else:
            is_shape = node.operator in ("Expand", "Reshape", "Resize") and node.inputs[0] not in self._with_batch
            need(is_shape or not self._with_batch & set(node.inputs), ONLY_SHAPES)
            self.apply(node)

    def _take_branch(self, node: Node) -> None:
        """Take up the branch of an If that sizes choose, as torch's exporter writes a squeeze of an unknown axis."""
        condition = self.constant(node.inputs[0])
        need(condition.size == 1, "expected one truth value")
        branch = node.attributes["then_branch" if condition.item() else "else_branch"]
        for inner in (*map(node_of, branch.node), *map(_same, branch.output, node.outputs)):
            is_new = all(name not in self.arrays and self.shape_of(name) is None for name in inner.outputs)
            need(is_new and not branch.initializer, "expected a branch that gives each of its tensors once, by nodes")
            need(inner.operator in _IN_BRANCHES, f"no bounds of {inner.operator} in a branch")
            self._take(inner)

    def _need_sizes_to_stay(self, node: Node) -> None:
        """Raise unless a node on constants only picks and orders sizes among which that of the batch may be."""
        read = self._with_batch & set(node.inputs)
        if read and node.operator == "Equal":  # no size is below 0, so that of the batch is none of these
            rest = [self.constant(name) for name in node.inputs if name not in read]
            need(len(rest) == 1 and bool(((rest[0] < 0) & (rest[0] != BATCH)).all()), ONLY_SHAPES)
            return
        others = () if node.operator == "Concat" else node.inputs[:1] if node.operator == "Where" else node.inputs[1:]
        may = node.operator in _SIZES and (node.operator != "Cast" or node.attributes["to"] in _SIZE_TYPES)
        need(not read or (may and not read & set(others)), ONLY_SHAPES)

    def _is_repeated(self, node: Node) -> bool:
        """Return whether a node gives a constant once for each image: its first size is that of the batch."""
        shape = node.inputs[-1] if node.inputs else ""
        if node.operator not in _REPEATED or shape not in self._with_batch:
            return False
        first, *others = self.constant(shape).tolist()
        need(first == BATCH and BATCH not in others and not self._with_batch & set(node.inputs[:-1]), ONLY_SHAPES)
        return True

    def once(self, node: Node) -> Node:
        """Return a node that gives for one image what a node of `repeat` gives for each."""
        name = f"{node.inputs[-1]}\0one"
        sizes = self.constant(node.inputs[-1])
        self.arrays[name] = np.where(sizes == BATCH, 1, sizes)
        return replace(node, inputs=(*node.inputs[:-1], name))


def unsupported(graph: Graph, source: str, known: Collection[str]) -> list[str]:
    """Return a line for each node between a tensor and the output whose operator is not known.

    Args:
        graph: the graph.
        source: the tensor.
        known: the operators that are known on what depends on the tensor; on constants, they are `ON_CONSTANTS`.
    """
    dependent, lines = {source}, []
    for node in graph.between(source):
        on_image = bool(dependent & {*node.inputs, *node.captured})
        if on_image and node.operator != "Shape":  # what that gives is a constant here
            dependent |= set(node.outputs)
        operators = {*known, "Shape"} if on_image else ON_CONSTANTS
        if node.operator != _IF and (node.operator not in operators or node.captured):
            lines.append(f"node {node.name!r}: no bounds of {node.operator}{'' if on_image else ' on constants'}")
    return lines


def _same(given: onnx.ValueInfoProto, name: str) -> Node:
    return Node("", "Identity", (given.name,), (name,), {}, frozenset())


def evaluate(node: Node, arrays: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray]:
    """Return what a node gives for arrays by name, by onnx's own reference."""
    if node.operator == "Shape":  # that of the reference does not cut an `end` before the first axis to it
        sizes = arrays[node.inputs[0]].shape[node.attributes.get("start", 0) : node.attributes.get("end")]
        return {node.outputs[0]: np.array(sizes, dtype=np.int64)}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in arrays.items()
    ]
    names = [name for name in node.outputs if name]
    made = helper.make_node(node.operator, node.inputs, node.outputs, **node.attributes)
    graph = helper.make_graph([made], "constants", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    results = ReferenceEvaluator(model).run(None, dict(arrays))
    return dict(zip(names, map(np.asarray, results), strict=True))
