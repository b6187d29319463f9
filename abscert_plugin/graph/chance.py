"""Operators that make logits depend on chance, or on training: files that hold one are refused by name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import DEFAULT_DOMAINS, all_nodes, inner_graphs

_RANDOM: Final = ("Bernoulli", "Multinomial", "Random", "Sampling")


def refuse_chance(model: onnx.ModelProto, path: Path) -> None:
    """Raise if a model, a graph inside it, or a function of it draws random numbers or is in training mode.

    Few values dropped would not show when a file is run twice, so training has to be seen to be off.

    Raises:
        UnsupportedModelError: if it does; the message names the node.
    """
    for top, initializers in [
        (model.graph.node, model.graph.initializer),
        *((function.node, ()) for function in model.functions),
    ]:
        nodes = list(all_nodes(top))
        off = _off(nodes, initializers)
        for node in nodes:
            reason = _reason(node, off)
            if reason:
                raise UnsupportedModelError(
                    f"{path} {reason} (node {node.name!r}, {node.op_type}), so no verdict about it would hold; "
                    "export it for inference"
                )


def _reason(node: onnx.NodeProto, off: set[str]) -> str:
    """Return what makes a node's outputs depend on more than its inputs, empty where nothing does."""
    operator = node.op_type
    drops = "Dropout" in operator and (
        node.domain not in DEFAULT_DOMAINS or (len(node.input) > 2 and node.input[2] not in off)
    )
    if drops or any(part in operator for part in _RANDOM):
        return "draws random numbers"
    # before opset 14 the further outputs are those of training
    trains = operator == "BatchNormalization" and (
        any(node.output[1:])
        or any(
            attribute.name == "training_mode" and (attribute.i or attribute.ref_attr_name)
            for attribute in node.attribute
        )
    )
    return "normalises by the batch itself, as in training" if trains else ""


def _off(nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto]) -> set[str]:
    """Return the names that stand for False, whichever of the graphs inside one another they are read in."""
    tensors = [
        *initializers,
        *(tensor for node in nodes for inner in inner_graphs(node) for tensor in inner.initializer),
    ]
    false = {"", *(tensor.name for tensor in initializers if _is_false(tensor))}
    for node in nodes:
        if node.op_type == "Constant" and any(_is_false(attribute.t) for attribute in node.attribute):
            false |= set(node.output)
    given = Counter(tensor.name for tensor in tensors)
    given.update(name for node in nodes for name in node.output)
    given.update(value.name for node in nodes for inner in inner_graphs(node) for value in inner.input)
    return {name for name in false if not name or given[name] == 1}


def _is_false(tensor: onnx.TensorProto) -> bool:
    """Return whether it is the truth value False, kept in the file itself."""
    known = tensor.data_type == onnx.TensorProto.BOOL and tensor.data_location != onnx.TensorProto.EXTERNAL
    return known and (tensor.raw_data == b"\0" or list(tensor.int32_data) == [0])
