"""From an ONNX file of this project to the interval network as a torch module, for auto_LiRPA to bound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from abscert_plugin.artifact.model_file import with_tensors
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Points
from abscert_plugin.graph.nodes import Graph, read_graph
from abscert_plugin.graph.tail import Tail, without_tail
from abscert_plugin.reading.building import Build
from abscert_plugin.reading.table import KNOWN, read_node

_TOLERANCE: Final = 1e-4  # float32 sums in another order; beyond it the module computes something else
_PROBES: Final = 16


_BEHIND: Final[Mapping[Tail | None, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        None: lambda logits: logits,
        Tail.SOFTMAX: lambda logits: logits.softmax(1),
        Tail.LOG_SOFTMAX: lambda logits: logits.log_softmax(1),
        Tail.SIGMOID: torch.sigmoid,
        Tail.TANH: torch.tanh,
        Tail.ARG_MAX: lambda logits: nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float(),
    }
)


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

    def forward(self, intervals: Float32[Tensor, "batch *input"]) -> Float32[Tensor, "batch classes"]:
        """Return the logits of interval images (training scale)."""
        values: list[Tensor] = [intervals]
        for layer, slots in zip(self.layers, self.slots, strict=True):
            values.append(layer(*(values[slot] for slot in slots)))
        return values[self.output]


@final
@dataclass(frozen=True, slots=True)
class Module:
    """A network read from a graph.

    Args:
        network: it, in evaluation mode.
        unbounded: why auto_LiRPA has no bounds of it, where that is known before it is asked; else empty.
    """

    network: nn.Module
    unbounded: str = ""


@final
@dataclass(frozen=True, slots=True)
class Converted:
    """An interval network, and how far its logits were from those of the ONNX file on random cells."""

    network: nn.Module
    largest_difference: float
    unbounded: str = ""


def convert(artifact: Artifact) -> Converted:
    """Return the network of an ONNX file: what lies between `interval`, or `scaled` without cells, and the output.

    The output is the one that `BlackBox` runs, whatever tensors inside are called; or the logits before it, where a
    Softmax or its like stands at the end.

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
    cut = without_tail(graph)
    shape, classes = metadata.front.input_shape(metadata.image_shape), metadata.classes
    read = read_module(graph if cut is None else cut.graph, path, artifact.read, shape, classes)
    difference = largest_difference(read.network, artifact, None if cut is None else cut.tail)
    return Converted(read.network, difference, read.unbounded)


def largest_difference(network: nn.Module, artifact: Artifact, tail: Tail | None = None) -> float:
    """Return the largest difference of logits between a torch module and the file, on random points.

    Args:
        network: the module.
        artifact: the file.
        tail: what the file makes of the module's logits, where something stands behind them.

    Raises:
        UnsupportedModelError: if it is beyond 1e-4 of the largest logit, or not a number, or the module takes or gives
            other shapes.
        VerifierError: if onnxruntime fails to run the file.
    """
    path, front = artifact.path, artifact.front
    random, shape = np.random.default_rng(0), (_PROBES, *artifact.metadata.image_shape)
    if artifact.grid is not None:
        points: Points = random.integers(0, artifact.grid.cells, shape, dtype=artifact.grid.index_type)
    else:
        points = random.random(shape, dtype=np.float32)
    inputs, expected = front.network_input(points), artifact.run_images(front.images(points))
    try:
        with torch.no_grad():
            logits = _BEHIND[tail](network(torch.from_numpy(inputs))).numpy()
    except RuntimeError as error:
        raise UnsupportedModelError(f"{path}: its torch module does not take what the file takes: {error}") from error
    if logits.shape != expected.shape:
        raise UnsupportedModelError(f"{path}: expected logits of shape {expected.shape}, got {logits.shape}")
    with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which is refused below
        difference = float(np.abs(logits - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):  # also where it is NaN
        raise UnsupportedModelError(
            f"{path}: expected the logits of its torch module within {_TOLERANCE:g} of the file's, "
            f"got a difference of {difference:.3g}; it cannot be bounded"
        )
    return difference


def read_module(graph: Graph, path: Path, source: str, shape: tuple[int, ...], classes: int) -> Module:
    """Return the network between a tensor, such as `interval` or `scaled`, and the file's output.

    Args:
        graph: the graph, with all its tensors.
        path: the file that it was read from, for messages.
        source: name of the tensor.
        shape: its shape without the batch.
        classes: how many entries the output has for each input.

    Raises:
        UnsupportedModelError: if an operator has no layer here, or the output is no [batch, classes].
    """
    if graph.input != source and any(graph.input in node.inputs for node in graph.between(source)):
        raise UnsupportedModelError(f"{path}: its logits read `{graph.input}` past `{source}`")
    build = Build(graph, source, shape, read_node)
    build.run(KNOWN, classes, f"{path} cannot be read as layers of torch")
    output = build.activation(graph.output).slot
    row: list[nn.Module] = []
    slot = output
    while slot and len(build.slots[slot - 1]) == 1:
        row.append(build.layers[slot - 1])
        (slot,) = build.slots[slot - 1]
    reason = build.unbounded[0] if build.unbounded else ""
    if slot:  # two values meet
        return Module(IntervalNetwork(build.layers, build.slots, output).eval(), reason)
    return Module(nn.Sequential(*reversed(row)).eval(), reason)  # which bounds for layers in a row take too
