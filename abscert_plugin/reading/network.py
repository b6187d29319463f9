"""From an ONNX file of this project to the interval network as a torch module, for auto_LiRPA to bound."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import onnx
import torch
from jaxtyping import Float32
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from abscert_plugin.artifact.metadata import INTERVAL, SCALED
from abscert_plugin.artifact.model_file import with_tensors
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Points
from abscert_plugin.graph.nodes import Graph, Node, read_graph
from abscert_plugin.reading.affine import AFFINE, READS_ACTIVATIONS, split
from abscert_plugin.reading.layers import (
    LAYERS,
    Activation,
    Affine,
    Difference,
    NodeView,
    Permuted,
    Total,
    UnsupportedNodeError,
    Value,
)

_TOLERANCE: Final = 1e-4  # float32 sums in another order; beyond it the module computes something else
_PROBES: Final = 16
_JOINS: Final = {"Add": Total, "Sub": Difference}
# Operators that only pick and order the sizes of a shape, so that a -1 for the batch keeps its meaning.
_MOVES_SIZES: Final = frozenset({"Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"})
# Operators on constants that are computed while reading; none that holds a graph, which might never end.
_FOLDED: Final = _MOVES_SIZES | {"Add", "Constant", "Div", "Mul", "Neg", "Reshape", "Sqrt", "Sub", "Transpose"}
# What the layers and constants of a broken graph may raise.
_BROKEN: Final = (IndexError, KeyError, MemoryError, RuntimeError, TypeError, ValueError)


@final
class IntervalNetwork(nn.Module):
    """An interval network read from an ONNX file: layers, and which values each of them reads.

    Args:
        layers: the layers, in an order in which they can be computed.
        slots: for each layer the values that it reads: 0 is the input, k + 1 is what layer k gives out.
        output: the value that holds the logits.
    """

    def __init__(self, layers: list[nn.Module], slots: list[tuple[int, ...]], output: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.slots = tuple(slots)
        self.output = output

    def forward(self, intervals: Float32[Tensor, "batch channels2 height width"]) -> Float32[Tensor, "batch classes"]:
        """Return the logits of interval images (training scale)."""
        values: list[Tensor] = [intervals]
        for layer, slots in zip(self.layers, self.slots, strict=True):
            values.append(layer(*(values[slot] for slot in slots)))
        return values[self.output]


@final
@dataclass(frozen=True, slots=True)
class Converted:
    """An interval network, and how far its logits were from those of the ONNX file on random cells."""

    network: nn.Module
    largest_difference: float


def convert(artifact: Artifact) -> Converted:
    """Return the network of an ONNX file: what lies between `interval`, or `scaled` without cells, and the output.

    The output is the one that `BlackBox` runs, whatever tensors inside are called.

    Soundness: the module's logits were compared with those of the file, run by onnxruntime, on random cells of the
    file's grid. Bounds of the module hold for the file up to that difference of floats.

    Args:
        artifact: the file, a `deploy.onnx` or `abstract.onnx` of this project, trained or wrapped.

    Raises:
        UnsupportedModelError: if an operator has no layer here, or logits differ by more than 1e-4 of the largest.
        VerifierError: if onnxruntime fails to run the file.
    """
    path, metadata = artifact.path, artifact.metadata
    graph = read_graph(with_tensors(artifact.model, path), path)
    source = SCALED if artifact.grid is None else INTERVAL
    network = _Reader(graph, path, source, metadata.front.input_shape(metadata.image_shape)).read(metadata.classes)
    return Converted(network, largest_difference(network, artifact))


def largest_difference(network: nn.Module, artifact: Artifact) -> float:
    """Return the largest difference of logits between a torch module and the file, on random points.

    Raises:
        UnsupportedModelError: if it is beyond 1e-4 of the largest logit, or not a number, or the module takes or gives
            other shapes.
        VerifierError: if onnxruntime fails to run the file.
    """
    path, front = artifact.path, artifact.front
    random, shape = np.random.default_rng(0), (_PROBES, *artifact.metadata.image_shape)
    if artifact.grid is not None:
        points: Points = random.integers(0, artifact.grid.cells, shape, dtype=np.uint8)
    else:
        points = random.random(shape, dtype=np.float32)
    inputs, expected = front.network_input(points), artifact.run_images(front.images(points))
    try:
        with torch.no_grad():
            logits = network(torch.from_numpy(inputs)).numpy()
    except RuntimeError as error:
        raise UnsupportedModelError(f"{path}: its torch module does not take what the file takes: {error}") from error
    if logits.shape != expected.shape:
        raise UnsupportedModelError(f"{path}: expected logits of shape {expected.shape}, got {logits.shape}")
    difference = float(np.abs(logits - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):  # also where it is NaN
        raise UnsupportedModelError(
            f"{path}: expected the logits of its torch module within {_TOLERANCE:g} of the file's, "
            f"got a difference of {difference:.3g}; it cannot be bounded"
        )
    return difference


@final
class _Reader:
    """Reads a graph node by node into layers."""

    def __init__(self, graph: Graph, path: Path, source: str, shape: tuple[int, ...]) -> None:
        self._graph = graph
        self._path = path
        self._layers: list[nn.Module] = []
        self._slots: list[tuple[int, ...]] = []
        self._source = source
        self._values: dict[str, Value] = {source: Activation(0, shape)}
        self._constants: dict[str, np.ndarray] = {name: graph.array(name) for name in graph.tensors}
        self._holds_batch: set[str] = set()  # constants in which -1 stands for the batch

    def read(self, classes: int) -> nn.Module:
        """Return the network between its source, `interval` or `scaled`, and the file's output."""
        needed = self._graph.between(self._source)
        if self._graph.input != self._source and any(self._graph.input in node.inputs for node in needed):
            raise UnsupportedModelError(f"{self._path}: its logits read `{self._graph.input}` past `{self._source}`")
        for node in needed:
            try:
                self._read_node(node)
            except UnsupportedNodeError as error:
                raise self._refusal(node, str(error)) from error
            except _BROKEN as error:
                raise self._refusal(node, _one_line(error)) from error
        target = self._graph.output
        if target not in self._values or self._values[target].shape != (classes,):
            raise UnsupportedModelError(
                f"{self._path}: expected logits [batch, {classes}] that depend on `{self._source}`"
            )
        output = self._activation(target).slot
        row: list[nn.Module] = []
        slot = output
        while slot and len(self._slots[slot - 1]) == 1:
            row.append(self._layers[slot - 1])
            (slot,) = self._slots[slot - 1]
        if slot:  # two values meet
            return IntervalNetwork(self._layers, self._slots, output).eval()
        return nn.Sequential(*reversed(row)).eval()  # which bounds for layers in a row take too

    def _read_node(self, node: Node) -> None:
        if node.domain:
            raise UnsupportedNodeError(f"expected an operator of ONNX itself, got one of {node.domain}")
        if self._holds_batch & set(node.inputs) and node.operator not in (*_MOVES_SIZES, "Reshape"):
            raise UnsupportedNodeError("expected the batch size to be used in shapes only")
        if node.operator == "Shape":
            self._constants[node.outputs[0]] = self._sizes(node)
            self._holds_batch |= set(node.outputs) if node.inputs[0] in self._values else set()
        elif all(name in self._constants for name in node.inputs if name):
            self._fold(node)
        elif node.operator == "Split":
            parts = split(self._view(node), len(node.outputs))
            self._values.update(zip(node.outputs, parts, strict=True))
        else:
            self._values[node.outputs[0]] = self._converted(node)

    def _converted(self, node: Node) -> Value:
        if node.operator in LAYERS or node.operator in READS_ACTIVATIONS:
            self._activation(node.inputs[0])
        view = self._view(node)
        if node.operator in AFFINE:
            made = AFFINE[node.operator](view)
            return made if made is not None else self._joined(node)
        if node.operator not in LAYERS:
            raise UnsupportedNodeError("this operator has no bounds here")
        value = self._activation(node.inputs[0])
        for layer in LAYERS[node.operator](view):
            value = self._append(layer, (value,))
        return value

    def _joined(self, node: Node) -> Value:
        """Return the sum or difference of two activations."""
        first, second = (self._activation(name) for name in node.inputs)
        if first.shape != second.shape:
            raise UnsupportedNodeError(f"expected two of one shape, got {first.shape} and {second.shape}")
        return self._append(_JOINS[node.operator](), (first, second))

    def _append(self, layer: nn.Module, inputs: tuple[Activation, ...]) -> Activation:
        before = self._layers[inputs[0].slot - 1] if inputs[0].slot else None
        if isinstance(layer, Permuted) and isinstance(before, Permuted):
            source = self._slots[inputs[0].slot - 1][0]
            order = tuple(before.order[axis] for axis in layer.order)
            if order == tuple(range(len(order))):  # as in a model of NHWC images behind our transposition
                return Activation(source, tuple(inputs[0].shape[axis - 1] for axis in layer.order[1:]))
        with torch.no_grad():
            shape = layer.eval()(*(torch.zeros(1, *value.shape) for value in inputs)).shape
        self._layers.append(layer)
        self._slots.append(tuple(value.slot for value in inputs))
        return Activation(len(self._layers), tuple(shape[1:]))

    def _activation(self, name: str) -> Activation:
        """Return a value as what a layer gives out; an affine function becomes a layer."""
        value = self._values.get(name)
        if isinstance(value, Affine):
            value = self._append(value.layer(), (value.source,))
            self._values[name] = value
        if value is None:
            raise UnsupportedNodeError(f"expected its input {name!r} to depend on `{self._source}`")
        return value

    def _view(self, node: Node) -> NodeView:
        inputs = tuple(self._values.get(name, self._constants.get(name)) for name in node.inputs)
        return NodeView(node.attributes, inputs)

    def _sizes(self, node: Node) -> np.ndarray:
        name = node.inputs[0]
        shape = [-1, *self._values[name].shape] if name in self._values else list(self._constants[name].shape)
        attributes = node.attributes
        return np.array(shape[attributes.get("start", 0) : attributes.get("end")], dtype=np.int64)

    def _fold(self, node: Node) -> None:
        """Compute a node whose inputs are all constants, by onnx's own reference."""
        if node.operator not in _FOLDED:
            raise UnsupportedNodeError("this operator on constants is not computed here")
        names = [name for name in node.inputs if name]
        inputs = [helper.make_tensor_value_info(name, self._kind(name), None) for name in names]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
        made = helper.make_node(node.operator, node.inputs, node.outputs, **node.attributes)
        graph = helper.make_graph([made], "constants", inputs, outputs)
        opset = helper.make_opsetid("", self._graph.opset)
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[opset]))
        results = evaluator.run(None, {name: self._constants[name] for name in names})
        self._constants.update(zip((value.name for value in outputs), map(np.asarray, results), strict=True))
        if self._holds_batch & set(names):
            self._holds_batch |= set(node.outputs)

    def _kind(self, name: str) -> int:
        return helper.np_dtype_to_tensor_dtype(self._constants[name].dtype)

    def _refusal(self, node: Node, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._path}: {node} cannot be bounded: {reason}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
