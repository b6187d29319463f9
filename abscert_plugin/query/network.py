"""Opening the network that a query is about: any ONNX file with one input of float32 and one output."""

from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Final, final

import numpy as np
import onnx
import torch
from jaxtyping import Float32
from torch import nn

from abscert_plugin.artifact.adapted import saved
from abscert_plugin.artifact.fitting import element_name, goes_with
from abscert_plugin.artifact.model_file import ModelFile, read_whole
from abscert_plugin.artifact.rewriting import need_known_nodes
from abscert_plugin.artifact.trial import try_in_child
from abscert_plugin.blackbox import Runner, shapes_by_running
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.errors import QueryError, UnsupportedModelError, VerifierError
from abscert_plugin.graph.lift import flattened, lifted
from abscert_plugin.graph.nodes import Graph, read_graph
from abscert_plugin.graph.shapes import check_sizes
from abscert_plugin.query.query import Declared, ElementType, Query
from abscert_plugin.reading.network import read_module

_OUTPUTS: Final = ("float32", "int64")
_DIFFERENCE: Final = 1e-3  # of a torch module's outputs, beyond which its gradients lead nowhere


@final
@dataclass(frozen=True)
class Network:
    """An ONNX file that fits a query.

    Args:
        file: the file.
        graph: its graph, with all tensors.
        runner: the file as onnxruntime runs it.
        input_shape: the shape that it is run with.
        output_shape: the shape that it gives then.
    """

    file: ModelFile
    graph: Graph
    runner: Runner
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def run(self, entries: Float32[np.ndarray, "entries"]) -> np.ndarray:
        """Return the entries of the output that the file gives for an input, both row-major.

        Raises:
            VerifierError: if onnxruntime fails.
        """
        (output,) = self.runner.run(entries.reshape(self.input_shape)).values()
        if output.size != prod(self.output_shape):
            raise VerifierError(f"{self.file.path}: expected an output of {self.output_shape}, got {output.shape}")
        return output.reshape(-1)

    @cached_property
    def batched(self) -> tuple[tuple[Graph, tuple[int, ...]], ...]:
        """Its graph for batches of inputs, in the ways there are: and the shape of an input without the batch."""
        found = []
        shapes = self.input_shape, self.output_shape
        if all(shape[:1] == (1,) and len(shape) > 1 for shape in shapes):
            found.append((flattened(self.graph), self.input_shape[1:]))
        try:
            found.append((lifted(self.graph, self._shapes()), self.input_shape))
        except (UnsupportedModelError, VerifierError):
            if not found:
                raise
        return tuple(found)

    @property
    def proof(self) -> Proof:
        """Proofs of what it computes.

        Raises:
            UnsupportedModelError: if its graph has a node that proofs do not know; names all of them.
            VerifierError: if onnxruntime fails.
        """
        found = self._proof
        if isinstance(found, Proof):
            return found
        raise found

    @cached_property
    def _proof(self) -> Proof | UnsupportedModelError | VerifierError:
        fault: UnsupportedModelError | VerifierError | None = None
        try:
            ways = self.batched
        except (UnsupportedModelError, VerifierError) as error:
            return error
        for graph, shape in ways:
            try:
                found = Proof(graph, graph.input, shape, prod(self.output_shape))
                if found.has_products:
                    need_known_nodes(self.file.model, self.file.path)
                return found
            except UnsupportedModelError as error:
                fault = fault or error
        assert fault is not None
        return fault

    @cached_property
    def module(self) -> tuple[nn.Module, tuple[int, ...]] | None:
        """It as a torch module that gives [batch, entries], and the shape of an input without the batch, for gradients.

        None where that cannot be had.
        """
        try:
            ways = self.batched
        except (UnsupportedModelError, VerifierError):
            return None
        for graph, shape in ways:
            try:
                module = read_module(graph, self.file.path, graph.input, shape, prod(self.output_shape)).network
                point = np.random.default_rng(0).random(prod(shape), dtype=np.float32)
                with torch.no_grad():
                    found = module(torch.from_numpy(point).reshape(1, *shape)).numpy().reshape(-1)
            except (UnsupportedModelError, RuntimeError):
                continue
            expected = self.run(point)
            if np.abs(found - expected).max() <= _DIFFERENCE * max(1.0, float(np.abs(expected).max())):
                return module.requires_grad_(False), shape
        return None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        try:
            return shapes_by_running(self.graph, self.file.model, self.input_shape)
        except (ValueError, VerifierError) as error:  # beyond protobuf's 2 GiB, or of types that numpy has not
            raise UnsupportedModelError(
                f"{self.file.path}: the shapes of its tensors are not known: {error}"
            ) from error


def open_network(path: Path, query: Query) -> Network:
    """Open the file that a query is about, packed by gzip or not.

    Raises:
        UnsupportedModelError: if it cannot be read or run, kills onnxruntime, draws random numbers, or has not one
            input of float32 and one output.
        QueryError: if it does not fit what the query declares.
        ExportError: if there is no room to unpack it.
    """
    file = read_whole(path)
    graph = read_graph(file.model, path)
    outputs = [value.name for value in file.model.graph.output]
    if len(outputs) != 1 or graph.input_type != onnx.TensorProto.FLOAT:
        raise UnsupportedModelError(
            f"{path}: expected an input of float32 and one output, got an input of {element_name(graph.input_type)} "
            f"and the outputs {outputs}"
        )
    shape = _input_shape(graph, query.input, path)
    with saved(file.model, path) if path.suffix == ".gz" else nullcontext(path) as place:
        if not check_sizes(graph, file.model, path, shape[1:]):
            try_in_child(place, shape, path)
        runner = Runner(place)
    (output,) = runner.run(_center(query).reshape(shape)).values()
    if output.dtype.name not in _OUTPUTS:
        raise UnsupportedModelError(f"{path}: expected an output of {' or '.join(_OUTPUTS)}, got {output.dtype}")
    network = Network(file, graph, runner, shape, tuple(output.shape))
    _check_output(network, query, output.dtype.name)
    return network


def _input_shape(graph: Graph, declared: Declared, path: Path) -> tuple[int, ...]:
    """Return the shape of the input that a query asks for."""
    sizes = graph.input_shape
    if declared.shape is not None:
        given = declared.shape
        fits = sizes is None or goes_with(sizes, given)
    else:
        given = (declared.count,) if sizes is None else tuple(size or 1 for size in sizes)
        fits = prod(given) == declared.count
    if not fits:
        shape = declared.count if declared.shape is None else list(declared.shape)
        raise QueryError(f"{path}: the query declares an input of {shape} entries, the file has {_written(sizes)}")
    return given


def _check_output(network: Network, query: Query, kind: str) -> None:
    declared, shape, path = query.output, network.output_shape, network.file.path
    fits = shape == declared.shape if declared.shape is not None else prod(shape) == declared.count
    if not fits:
        said = declared.count if declared.shape is None else list(declared.shape)
        raise QueryError(f"{path}: the query declares an output of {said} entries, the file has {list(shape)}")
    if declared.kind is not ElementType.REAL and declared.kind != kind:
        raise QueryError(f"{path}: the query declares an output of {declared.kind}, the file has one of {kind}")
    if not prod(shape):
        raise QueryError(f"{path}: expected an output of some entries, got none")


def _written(sizes: tuple[int | None, ...] | None) -> str:
    return "an unknown shape" if sizes is None else str(["?" if size is None else size for size in sizes])


def _center(query: Query) -> np.ndarray:
    case = query.cases[0]
    return np.clip((case.lower + case.upper) / 2, case.lower, case.upper).astype(np.float32)


def exactly(entries: np.ndarray) -> list[Fraction]:
    """Return numbers as rationals.

    Raises:
        OverflowError: if one is infinite.
        ValueError: if one is NaN.
    """
    return [Fraction(item) for item in entries.tolist()]
