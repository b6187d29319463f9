"""An ONNX model parsed once into a small graph of nodes, as they stand in the file: nothing is folded or rewritten."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from abscert_plugin.errors import UnsupportedModelError

DEFAULT_DOMAINS: Final = ("", "ai.onnx")
_KNOWN_DOMAINS: Final = ("ai.onnx.", "com.microsoft.")
_LOGITS: Final = "logits"


@final
@dataclass(frozen=True, slots=True)
class Node:
    """An operator and what it reads and gives.

    Args:
        name: its name in the file, which may be empty.
        operator: ONNX's name of what it does, such as `Conv`, behind its domain where that is another than ONNX's own:
            `ai.onnx.ml.Scaler`.
        inputs: names of the tensors that it reads; empty where an argument is left out.
        outputs: names of the tensors that it gives; empty where one is not wanted.
        attributes: as `onnx.helper.get_attribute_value` returns them.
        captured: names that graphs among its attributes read from outside.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    captured: frozenset[str]

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.operator})"

    def has(self, place: int) -> bool:
        """Return whether there is an input at `place`."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def integers(self, attribute: str) -> list[int] | None:
        """Return an attribute of whole numbers; None where it is left out."""
        found = self.attributes.get(attribute)
        return [found] if isinstance(found, int) else None if found is None else list(found)


@final
@dataclass(frozen=True, slots=True)
class Graph:
    """What an ONNX file computes.

    Args:
        nodes: in the order of the file, in which they can be computed.
        tensors: the constants that the file holds, as it holds them; those in other files have to be loaded before.
        input: the one tensor that it reads.
        input_shape: sizes of the input, batch first, None for each that is free; None where even the rank is unknown.
        output: the one tensor that is run, and that bounds are about: `output_name` of the file's outputs.
        opset: version of ONNX's own operators.
        input_type: what the input holds, a value of `onnx.TensorProto.DataType`.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, onnx.TensorProto]
    input: str
    input_shape: tuple[int | None, ...] | None
    output: str
    opset: int
    input_type: int = onnx.TensorProto.FLOAT

    def array(self, name: str) -> np.ndarray:
        """Return the constant of this name."""
        return numpy_helper.to_array(self.tensors[name])

    def between(self, source: str) -> tuple[Node, ...]:
        """Return the nodes that the output needs and the tensor `source` does not, in order."""
        wanted, needed = {self.output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.outputs) and source not in node.outputs:
                needed.append(node)
                wanted |= {*node.inputs, *node.captured}
        return tuple(needed[::-1])


def output_name(names: Sequence[str]) -> str:
    """Return which of a file's outputs is the one that counts: `logits` where there is one, else the first."""
    return _LOGITS if _LOGITS in names else names[0]


def read_graph(model: onnx.ModelProto, path: Path) -> Graph:
    """Return the graph of an ONNX model.

    Args:
        model: the model; its tensors may lie in other files.
        path: the file that it was read from, for messages.

    Raises:
        UnsupportedModelError: if it has not one input, no output, gives a name twice or one with NUL, or defines one of
            ONNX's own operators anew.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in tensors]
    if len(inputs) != 1 or not graph.output:
        raise UnsupportedModelError(
            f"{path}: expected one input and an output, got the inputs {[value.name for value in inputs]} and "
            f"{len(graph.output)} outputs"
        )
    if hidden := next((name for name in _names(graph) if "\0" in name), None):
        # our own names of what lies inside a node have it
        raise UnsupportedModelError(f"{path}: expected names without NUL, got {hidden!r}")
    given = Counter([inputs[0].name, *(tensor.name for tensor in graph.initializer)])
    given.update(tensor.values.name for tensor in graph.sparse_initializer)
    given.update(name for node in graph.node for name in node.output if name)
    twice = [name for name, count in given.items() if count > 1]
    if twice:
        raise UnsupportedModelError(f"{path}: expected each tensor to be given once, got {twice[0]!r} twice")
    refuse_functions(model, path)
    return Graph(
        nodes=tuple(map(node_of, graph.node)),
        tensors=tensors,
        input=inputs[0].name,
        input_shape=_shape(inputs[0]),
        output=output_name([value.name for value in graph.output]),
        opset=opsets_of(model, path).get("", 0),
        input_type=inputs[0].type.tensor_type.elem_type,
    )


def opsets_of(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    """Return the version of the operators of each domain, ONNX's own under an empty name.

    Raises:
        UnsupportedModelError: if a domain has two: runtimes take the one that they read last.
    """
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in DEFAULT_DOMAINS else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            found = f"{versions[domain]} and {entry.version}"
            raise UnsupportedModelError(
                f"{path}: expected one version of the operators of {domain or 'ONNX'}, got {found}"
            )
    return versions


def refuse_functions(model: onnx.ModelProto, path: Path) -> None:
    """Raise UnsupportedModelError if a file's own function could be taken for an operator, by its name."""
    for function in model.functions:
        if function.domain in DEFAULT_DOMAINS or f"{function.domain}.{function.name}".startswith(_KNOWN_DOMAINS):
            raise UnsupportedModelError(
                f"{path} defines functions under the names of standard operators; this is refused"
            )


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs among a node's attributes, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for inner in inner_graphs(node):
            yield from all_nodes(inner.node)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of a graph's tensors, and of those of the graphs inside it."""
    nodes = list(all_nodes(graph.node))
    for one in (graph, *(inner for node in nodes for inner in inner_graphs(node))):
        yield from (value.name for value in (*one.input, *one.output, *one.initializer))
        yield from (tensor.values.name for tensor in one.sparse_initializer)
    for node in nodes:
        yield from (*node.input, *node.output)


def node_of(node: onnx.NodeProto) -> Node:
    """Return a node as it stands in a file."""
    return Node(
        name=node.name,
        operator=node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}.{node.op_type}",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute},
        captured=frozenset().union(*map(_names_read, inner_graphs(node))),
    )


def _names_read(graph: onnx.GraphProto) -> set[str]:
    """Return every name that a graph inside a node, and those inside it, read; some may be its own."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= set(node.input)
        names |= set().union(*map(_names_read, inner_graphs(node)))
    return names - {""}


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(size.dim_value if size.dim_value > 0 else None for size in value.type.tensor_type.shape.dim)
