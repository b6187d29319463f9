"""What onnxruntime makes of a file before it runs it: nodes of its own in place of several of the file's.

Proofs are of the file's nodes. Those that onnxruntime puts in their place compute the same, as far as is known of each;
of one that is not known here, such as one of a later release, nothing is proven.
"""

from pathlib import Path
from typing import Final

import onnx

from abscert_plugin.blackbox import rewritten
from abscert_plugin.errors import UnsupportedModelError

KNOWN: Final = frozenset(
    {
        "BiasGelu",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "LayerNormalization",
        "QuickGelu",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
"""Operators whose place in a proof is that of the nodes that they stand for: `bounds.proof` says what it takes."""

_STANDARD: Final = ("", "ai.onnx", "ai.onnx.ml")


def need_known_nodes(model: onnx.ModelProto, path: Path) -> None:
    """Raise where onnxruntime puts nodes in place of a file's own that nothing is known of.

    Args:
        model: the file, with all tensors.
        path: what it is called in messages.

    Raises:
        UnsupportedModelError: if so, or if that cannot be seen.
    """
    given = {_named(node) for node in model.graph.node}
    try:
        nodes = rewritten(model).graph.node
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path}: {error}") from error
    made = {_named(node) for node in nodes if node.domain not in _STANDARD}
    unknown = sorted({operator for _, operator, *_ in made - given if operator not in KNOWN})
    if unknown:
        raise UnsupportedModelError(
            f"{path}: onnxruntime computes {', '.join(unknown)} in place of nodes of it, so nothing is proven of them"
        )


def _named(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return what a node is and what it gives: another one of the file's own, of the same operator, is not it."""
    return node.domain, node.op_type, *node.output
