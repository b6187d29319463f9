"""The front of a deployed classifier as ONNX nodes: putting it before a network, and checking that a file has it."""

from dataclasses import dataclass
from typing import final

import onnx

from abscert_plugin.artifact.metadata import IMAGE
from abscert_plugin.errors import UnsupportedModelError


@final
@dataclass(frozen=True, slots=True)
class FrontGraph:
    """The nodes and tables that compute what a network takes from `image`."""

    nodes: tuple[onnx.NodeProto, ...]
    initializers: tuple[onnx.TensorProto, ...]


def put_in_front(graph: onnx.GraphProto, front: FrontGraph, image: onnx.ValueInfoProto) -> None:
    """Put nodes and their tables before those of a graph, which then reads `image` and nothing else.

    The graph's own tensors stay where they are: protobuf puts none that is over 2 GiB into a message.
    """
    del graph.input[:]
    graph.input.append(image)
    for place, table in enumerate(front.initializers):
        graph.initializer.insert(place, table)
    for place, node in enumerate(front.nodes):
        graph.node.insert(place, node)
    graph.name = "deploy"


def check_front(graph: onnx.GraphProto, front: FrontGraph, made: str, refusal: str) -> None:
    """Raise unless a graph begins with exactly these nodes, and the rest sees nothing of the image but what they make.

    Args:
        graph: the graph, with the input `image`.
        front: the nodes and tables that it has to begin with.
        made: the name of what they make of the image.
        refusal: what to say otherwise.

    Raises:
        UnsupportedModelError: if it does not.
    """
    expected_nodes = {node.SerializeToString(deterministic=True) for node in front.nodes}
    found = [node for node in graph.node if set(node.output) & {name for item in front.nodes for name in item.output}]
    if (
        len(found) != len(front.nodes)
        or {node.SerializeToString(deterministic=True) for node in found} != expected_nodes
    ):
        raise UnsupportedModelError(refusal)
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for expected in front.initializers:
        stored = tables.get(expected.name)
        if stored is None or stored.SerializeToString(deterministic=True) != expected.SerializeToString(
            deterministic=True
        ):
            raise UnsupportedModelError(refusal)
    outputs = {name for node in front.nodes for name in node.output}
    given = [tensor.name for tensor in graph.initializer] + [value.name for value in graph.input]
    given += [tensor.values.name for tensor in graph.sparse_initializer]
    once = [IMAGE, *(tensor.name for tensor in front.initializers)]
    if outputs & set(given) or any(given.count(name) != 1 for name in once):
        raise UnsupportedModelError(refusal)  # which of two definitions counts is up to the backend
    names = {IMAGE, *outputs} - {made}
    others = [node for node in graph.node if node.SerializeToString(deterministic=True) not in expected_nodes]
    if names & (_names_read(others) | {output.name for output in graph.output}):
        raise UnsupportedModelError(refusal)


def _names_read(nodes: list[onnx.NodeProto]) -> set[str]:
    """Return every name that these nodes, and the graphs inside them, read."""
    names: set[str] = set()
    for node in nodes:
        names |= set(node.input)
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                names |= _names_read(list(graph.node)) | {output.name for output in graph.output}
    return names
