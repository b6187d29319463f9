"""What stands at the end of a classifier and keeps the order of its logits: Softmax, Sigmoid, ArgMax or their like."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
from onnx import TensorProto

from abscert_plugin.graph.nodes import Graph, Node

_INERT: Final = ("Dropout", "Identity")
_HOLD_LABELS: Final = (TensorProto.INT32, TensorProto.INT64)
_NORMALIZER: Final = "ai.onnx.ml.Normalizer"
_SCORES: Final[Mapping[str, Callable[[Mapping[str, Any]], int]]] = MappingProxyType(
    {
        "ai.onnx.ml.LinearClassifier": lambda attributes: len(attributes.get("intercepts", ())),
        "ai.onnx.ml.TreeEnsembleClassifier": lambda attributes: len(set(attributes.get("class_ids", ()))),
    }
)
"""Nodes that may end in a softmax, and how many scores they have, from their attributes."""
_PER_AXIS_OPSET: Final = 13  # before, a softmax's axis is 1 by default


class Tail(StrEnum):
    """An increasing function of each logit, or one over all of a row that keeps their order."""

    SOFTMAX = "Softmax"
    LOG_SOFTMAX = "LogSoftmax"
    SIGMOID = "Sigmoid"
    TANH = "Tanh"
    ARG_MAX = "ArgMax"


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """A classifier without its tail.

    Args:
        graph: the graph that ends at the logits before the tail.
        tail: what was cut off.
    """

    graph: Graph
    tail: Tail


def without_tail(graph: Graph) -> Cut | None:
    """Return a graph whose output is the logits before the last node, None where that node is no `Tail`.

    The order of real numbers is that of the logits; of computed ones it is so only beyond a margin, since they may
    round to the same number: `bounds/tails.py` says beyond which. Whatever runs the file runs all of it.

    Args:
        graph: a classifier, whose output is [batch, classes].
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    node = makers.get(graph.output)
    while node is not None and node.operator in _INERT and len(node.inputs) == 1:
        node = makers.get(node.inputs[0])
    if node is not None and node.operator == _NORMALIZER and node.attributes.get("norm") == b"L1":
        # shares of one sum are divided by another number for all of them
        shares = without_tail(replace(graph, output=node.inputs[0]))
        return shares if shares is not None and shares.tail is Tail.SOFTMAX else None
    labels = None if node is None else _scores_of_labels(graph, makers, node)
    if labels is not None:
        return Cut(replace(graph, output=labels), Tail.ARG_MAX)
    plain = None if node is None else _without_transform(node)
    if node is not None and plain is not None:
        nodes = tuple(plain if one is node else one for one in graph.nodes)
        return Cut(replace(graph, nodes=nodes, output=node.outputs[-1]), Tail.SOFTMAX)
    if node is None or node.operator not in list(Tail) or node.operator == Tail.ARG_MAX:
        return None
    tail = Tail(node.operator)
    if tail in (Tail.SOFTMAX, Tail.LOG_SOFTMAX) and not _is_over_classes(node, graph.opset):
        return None
    return Cut(replace(graph, output=node.inputs[0]), tail)


def _scores_of_labels(graph: Graph, makers: Mapping[str, Node], node: Node | None) -> str | None:
    """Return the scores whose largest gives the label, where a file's answer is 1 at the label and 0 elsewhere.

    So `artifact/adapted.py` writes what a file that gives labels answers: Cast, Equal with 0, 1, ..., Reshape, ArgMax.
    """
    for operator in ("Cast", "Equal"):
        if node is None or node.operator != operator:
            return None
        if operator == "Equal":
            numbers = graph.array(node.inputs[1]) if node.inputs[1] in graph.tensors else np.zeros((1, 0))
            if numbers.shape[:1] != (1,) or numbers.tolist() != [list(range(numbers.size))]:
                return None
        node = makers.get(node.inputs[0])
    while node is not None and node.operator in ("Reshape", "Flatten", "Cast", "Identity"):
        if node.operator == "Cast" and node.attributes["to"] not in _HOLD_LABELS:
            return None
        node = makers.get(node.inputs[0])
    if node is None or node.operator != Tail.ARG_MAX or node.attributes.get("axis", 0) not in (1, -1):
        return None
    return node.inputs[0]


def _without_transform(node: Node) -> Node | None:
    """Return a node of ai.onnx.ml as it is before it makes shares of its scores; None of any other node."""
    attributes = node.attributes
    if node.operator not in _SCORES or attributes.get("post_transform") != b"SOFTMAX":
        return None
    if _SCORES[node.operator](attributes) < 2:
        return None
    return replace(node, attributes={**attributes, "post_transform": b"NONE"})


def _is_over_classes(node: Node, opset: int) -> bool:
    """Return whether a softmax of a row of logits for each image goes over these."""
    return node.attributes.get("axis", -1 if opset >= _PER_AXIS_OPSET else 1) in (-1, 1)
