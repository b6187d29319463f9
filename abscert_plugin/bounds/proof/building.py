"""A plan in the making: what is known of its tensors, and what a rule sees of a node."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.arithmetic import SINGLE, Format
from abscert_plugin.bounds.proof.constants import exact, need_one_meaning, point, rounded, whole
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.formats import NARROW, in_format
from abscert_plugin.bounds.proof.maps import LinearMap
from abscert_plugin.bounds.proof.moves import Concatenation, Move, Planted
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.operands import Operands
from abscert_plugin.graph.walk import MOVES, Walk, need

_INERT: Final[Mapping[str, float]] = MappingProxyType({"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0})
_NEARLY: Final = 1e-4
"""Constants by which a node gives what it reads, or nearly so."""

_GIVE_TRUTH: Final = frozenset({"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"})
_GIVE_WHOLE: Final = frozenset({"ArgMax", "ArgMin"})
_ON_WHOLE: Final = MOVES | {"And", "Equal", "Not", "Or", "Where", "Xor"}
"""Operators that mean the same of truth values, or whole numbers, as of the real ones that stand for them here."""

FLOATS: Final = (np.dtype(np.float32), np.dtype(np.float64))
"""What a proof computes with. Float64 rounds less than float32, so whatever holds of that holds of it."""

SAME: Final = ("Cast", "Dropout", "Identity")
"""Operators that give what they read, as numbers of a type; runtimes leave them out."""

_MOVING: Final = (
    "Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity MaxPool Pad Reshape "
    "ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze"
)
_AFFINE: Final = (
    "Add AveragePool BatchNormalization Clip Conv ConvTranspose CumSum Div Einsum Gemm GlobalAveragePool GlobalMaxPool "
    "LeakyRelu MatMul Mul Neg PRelu ReduceMean ReduceSum Relu Sub"
)
_OF_WHOLE_NUMBERS: Final = frozenset([*_MOVING.split(), "Cast", "DequantizeLinear"])
_FORESTS: Final = ("ai.onnx.ml.TreeEnsembleClassifier", "ai.onnx.ml.TreeEnsembleRegressor")  # which give float32
_OF_DOUBLES: Final = frozenset([*_MOVING.split(), *_AFFINE.split(), *_FORESTS, "Cast", "ai.onnx.ml.TreeEnsemble"])
_CHANGING: Final = ("Cast", "DequantizeLinear", "QuantizeLinear", *_FORESTS)  # what they give may be of another type
_HALF: Final = "Add AveragePool Clip Conv Gemm GlobalAveragePool MatMul Mul Neg ReduceMean Relu Sigmoid Sub Tanh"
_OF_HALVES: Final = frozenset([*_MOVING.split(), *_HALF.split(), "Cast", "GlobalMaxPool"])


@final
class Build(Walk):
    """A plan in the making.

    Args:
        graph: what it is of.
        source: the tensor that boxes are of.
        shape: of that tensor, without the batch.
        rules: from an operator to what appends the steps of a node.
        need_plain: raises where runtimes may take a node for a part of another function than it is.
        need_rowwise: raises where a node that reads `rows` does more than act on each of them.
        wide_sums: whether sums of products of float16 are taken to be held in float32.
    """

    def __init__(
        self,
        graph: Graph,
        source: str,
        shape: tuple[int, ...],
        rules: Mapping[str, Callable[["View"], None]],
        need_plain: Callable[["View"], None],
        need_rowwise: Callable[["View"], None],
        wide_sums: bool = False,
    ) -> None:
        super().__init__(graph, source)
        self.givers = {output: node for node in graph.nodes for output in node.outputs}
        zero = torch.zeros((1, *shape), dtype=torch.float64)
        self.values = {source: held(zero, zero)}  # enclosures of a single zero image, for shapes
        self.constants: dict[str, Enclosure] = {}  # those that are computed with roundings
        self.steps: list[Step] = []
        self.whole: dict[str, bool] = {}  # names of truth values, as 0 and 1 (True), and of whole numbers (False)
        self.types: dict[str, np.dtype] = {}  # of values that are not float32
        self._kind = SINGLE  # in which the node at hand computes
        self._wide_sums = wide_sums
        self._rules = rules
        self._need_plain = need_plain
        self._need_rowwise = need_rowwise

    def set_type(self, name: str, number: int) -> None:
        """Say of what type a value is, as onnx numbers them."""
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(number))
        need(kind in FLOATS or kind.kind in "iub", f"expected float32 or float64, or whole numbers, got {kind}")
        if kind != FLOATS[0]:
            self.types[name] = kind

    @override
    def shape_of(self, name: str) -> tuple[int, ...] | None:
        return tuple(self.values[name].lower.shape[1:]) if name in self.values else None

    @override
    def fold(self, node: Node) -> None:
        names = [name for name in node.inputs if name]
        if all(name not in self.constants for name in names):
            found = exact(node, {name: self.constant(name) for name in names}, self.graph.opset)
            if found is not None:
                self.take(node, found)
                return
        else:
            need_one_meaning(node, {name: self._about(name) for name in names})
            array = whole(node, self.enclosure(names[0])) if node.operator == "Cast" else None
            if array is not None:
                self.arrays[node.outputs[0]] = array
                return
        given = {name: self.enclosure(name) for name in names if name in self.constants or self._is_float(name)}
        others = {name: self.constant(name) for name in names if name not in given}
        self.constants.update(rounded(node, given, others, self.graph.opset))

    def _about(self, name: str) -> np.ndarray:
        return self.constants[name].lower.numpy() if name in self.constants else self.constant(name)

    def _is_float(self, name: str) -> bool:
        return self.constant(name).dtype in FLOATS

    @override
    def repeat(self, node: Node) -> None:
        one = self.once(node)
        self.fold(one)
        name = node.outputs[0]
        is_narrow = name in self.arrays and self.arrays[name].dtype in NARROW
        need(not is_narrow, "expected no constant of float16 for each image")
        constant = self.constants.pop(name) if name in self.constants else point(self.arrays.pop(name))
        need(constant.lower.ndim > 0 and len(constant.lower) == 1, "expected a constant for each image")
        self.append(Planted(name, self.source, constant))

    @override
    def apply(self, node: Node) -> None:
        kinds = [self.whole[name] for name in node.inputs if name in self.whole]
        need(not kinds or node.operator in _ON_WHOLE, "expected real numbers, got truth values or whole ones")
        types = {self.types[name] for name in node.inputs if name in self.types}
        for kind in types:
            known = _OF_HALVES if kind == np.float16 else _OF_DOUBLES if kind in FLOATS else _OF_WHOLE_NUMBERS
            need(node.operator in known, f"expected float32, got {kind}")
        view = View(node, self)
        reads_rows = bool(self.rows & set(node.inputs))
        if reads_rows:
            self._need_rowwise(view)
        self._need_plain(view)
        self._kind = self._kind_of(node, types)
        self._rules[node.operator](view)
        self._kind = SINGLE
        view.need_all_read()
        if reads_rows and node.operator != "Reshape":
            self.rows.update(name for name in node.outputs if name in self.values)
        if types and node.operator not in _CHANGING:
            self.types.update((name, next(iter(types))) for name in node.outputs if name in self.values)
        if node.operator in _GIVE_TRUTH:
            kinds = [True]
        elif node.operator in _GIVE_WHOLE:
            kinds = [False]
        elif node.operator == "Where":
            kinds = [self.whole[name] for name in node.inputs[1:] if name in self.whole]
        elif node.operator == "Cast":
            kinds = kinds if node.attributes["to"] == TensorProto.BOOL else []
        if kinds:
            self.whole.update((name, all(kinds)) for name in node.outputs)

    def _kind_of(self, node: Node, types: set[np.dtype]) -> Format:
        """Return the numbers that a node computes in."""
        if node.operator == "Cast":
            types = {np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"]))}
        kinds = [NARROW[kind] for kind in types if kind in NARROW]
        if not kinds:
            return SINGLE
        return kinds[0].with_wide_sums() if self._wide_sums else kinds[0]

    def enclosure(self, name: str) -> Enclosure:
        """Return a float constant."""
        return self.constants[name] if name in self.constants else point(self.constant(name))

    def append(self, step: Step) -> str:
        """Append a step and return the name of its output."""
        need(all(self.values[name].lower.numel() for name in step.inputs), "expected values with entries")
        need(step.output not in self.values, f"expected {step.output!r} to be given once")
        if self._kind is not SINGLE:
            step = in_format(step, self._kind, self.values)
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

    def planted(self, place: int) -> str:
        """Return the name of the input at a place; a constant, of a batch of one image, becomes a value."""
        if not self.is_constant(place):
            return self.name(place)
        constant = self.constant(place)
        need(constant.lower.ndim > 0 and len(constant.lower) == 1, "expected a constant for one image")
        return self.walk.append(Planted(self.part(), self.walk.source, constant))

    def filled(self, number: float) -> str:
        """Return the name of a value of one exact number for each image, [batch, 1]."""
        need(bool(np.isfinite(number)), f"expected finite numbers, got {number}")
        values = torch.full((1, 1), number, dtype=torch.float64)
        return self.walk.append(Planted(self.part(), self.walk.source, held(values, values, is_constant=True)))

    def flat(self, name: str) -> str:
        """Return the name of a value whose entries stand in a row."""
        return self.move(name, lambda values: values.flatten(1))

    def picked(self, sources: Sequence[str], places: np.ndarray) -> None:
        """Give entries of values.

        Args:
            sources: names of the values.
            places: of each entry that is given, in the values' entries one after another; [*shape], without the batch.
        """
        need(places.size > 0, "nothing is left")
        rows = tuple(self.flat(source) for source in sources)
        joint = rows[0] if len(rows) == 1 else self.walk.append(Concatenation(self.part(), rows, 1))
        index, shape = torch.from_numpy(places.reshape(-1).astype(np.int64)), places.shape
        self.move(joint, lambda values: values.index_select(1, index).reshape(len(values), *shape), self.output)

    def giver(self, name: str, through: Collection[str] = ()) -> Node | None:
        """Return the node that gives a tensor.

        Nodes that runtimes, or guards, leave out are passed over: those that add 0, multiply by 1, expand, or clip to
        nothing, and of operators in `through`, for what they read first.
        """
        path = self.givers(name, through)
        return path[-1] if path and not self._passed(path[-1], through) else None

    def givers(self, name: str, through: Collection[str] = ()) -> Sequence[Node]:
        """Return the nodes that `giver` passes over, the last one first, and the one that it returns."""
        found, node = list[Node](), self.walk.givers.get(name)
        while node is not None:
            found.append(node)
            read = self._passed(node, through)
            node = self.walk.givers.get(read[0]) if read else None
        is_if = bool(found) and found[-1].operator == "If"
        need(not is_if, "expected no If before it, whose nodes runtimes may join with it")
        return found

    def _passed(self, node: Node, through: Collection[str]) -> Sequence[str]:
        """Return what a node that is passed over reads; nothing of another one."""
        return node.inputs[:1] if node.operator in through else self._read_by_nothing(node)

    def _read_by_nothing(self, node: Node) -> Sequence[str]:
        """Return what a node reads and gives as it is, by its constant; nothing of other nodes."""
        if node.operator == "Expand" or (node.operator == "Clip" and not (node.attributes or any(node.inputs[1:]))):
            return node.inputs[:1]
        if node.operator not in _INERT:
            return ()
        for place in (0, 1) if node.operator in ("Add", "Mul") else (1,):
            array = self.walk.arrays.get(node.inputs[place])
            if array is not None and bool((abs(array - _INERT[node.operator]) < _NEARLY).all()):
                return (node.inputs[1 - place],)
        return ()

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

    def affine(
        self, source: str, linear: LinearMap, bias: Enclosure | None = None, output: str | None = None, **more: Any
    ) -> None:
        """Give W x + b, as the first output or another one; `more` as `Affine` takes it."""
        self.walk.append(Affine(output or self.output, source, linear, bias, **more))


def need_plain_axes(axes: Sequence[int], rank: int) -> None:
    """Raise where a Pad or Resize lists all axes in another order: onnxruntime moves a Transpose through it.

    It puts what is told for each axis in another order then, and leaves the list of axes as it is.
    """
    need(len(axes) < rank or list(axes) == list(range(rank)), f"expected axes in ascending order, got {list(axes)}")
