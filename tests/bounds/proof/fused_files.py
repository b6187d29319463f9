"""Small files that onnxruntime changes before it runs them: written, run as they are and changed, and enclosed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.graph.nodes import read_graph

Nodes = Sequence[tuple[Any, ...]]
POINT: Final = np.array([[0.75, 0.5, 1.0, 0.25]], np.float32)
PERMS: Final = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "t": [0, 2, 1, 3]}
NORMALISED: Final[Nodes] = (
    ("ReduceMean", "e", "mean", {"axes": [-1], "keepdims": 1}),
    ("Sub", "e mean", "d"),
    ("Pow", "d two", "s"),
    ("ReduceMean", "s", "v", {"axes": [-1], "keepdims": 1}),
    ("Add", "v eps", "w"),
    ("Sqrt", "w", "r"),
    ("Div", "d r", "n"),
    ("Mul", "n scale", "h"),
    ("Add", "h shift", "l"),
)
"""Layer normalisation of `e` along the last axis."""
HEADS: Final[Nodes] = tuple(
    node
    for letter, perm in PERMS.items()
    for node in (
        ("MatMul", f"l weight_{letter}", f"{letter}0"),
        ("Add", f"{letter}0 shift", f"{letter}1"),
        ("Reshape", f"{letter}1 heads", f"{letter}2"),
        ("Transpose", f"{letter}2", f"{letter}3", {"perm": perm}),
    )
)
"""Queries, keys and values of `l`, each in heads."""


def model(nodes: Nodes, opset: int = 18, **constants: Any) -> onnx.ModelProto:
    """Return a file that takes 4 numbers an image, from (operator, inputs, output[, attributes])."""
    made = [
        helper.make_node(node[0], node[1].split(), [node[2]], node[2], **(node[3] if len(node) > 3 else {}))
        for node in nodes
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 4), ("logits", 2))
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(values, np.int64 if isinstance(values, list) else np.float32), name)
        for name, values in constants.items()
    ]
    graph = helper.make_graph(made, "fused", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(file: onnx.ModelProto, points: np.ndarray, is_fused: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not is_fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"x": points})[0]
    return logits


def operators(file: onnx.ModelProto, tmp_path: Path) -> set[str]:
    """Return the operators that onnxruntime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}


def known(file: onnx.ModelProto, points: np.ndarray = POINT) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends that a proof knows of the logits at points."""
    at = torch.from_numpy(points)
    lower, upper = Proof(read_graph(file, Path("fused.onnx")), "x", (4,), 2).intervals(at, at)["logits"].computed()
    return lower.numpy(), upper.numpy()


def is_covered(file: onnx.ModelProto, is_fused: bool) -> bool:
    """Return whether what a run gives lies between the ends that a proof knows, and its margin above all bounds."""
    logits = run(file, POINT, is_fused)
    lower, upper = known(file)
    is_between = ((lower <= logits) & (logits <= upper) | (~np.isfinite(lower) & np.isnan(logits))).all()
    return bool(is_between) and are_below(file, logits.astype(np.float64))


def are_below(file: onnx.ModelProto, logits: np.ndarray) -> bool:
    """Return whether the bounds of quick passes are below the margins of a run, and nothing where these are none."""
    at = torch.from_numpy(POINT)
    for kind in (torch.float64, torch.float32):
        proof = Proof(read_graph(file, Path("fused.onnx")), "x", (4,), 2, kind)
        for label in (0, 1):
            own = torch.tensor([label])
            bounds = [proof.margins(at, at, own, BoundMethod.IBP)]
            bounds += [bound(at, own) for bound in (proof.margins_at, proof.margins_by_length)]
            with np.errstate(invalid="ignore"):
                margin = float(logits[0, label] - logits[0, 1 - label])
            if max(map(float, bounds)) > (-np.inf if np.isnan(margin) else margin):
                return False
    return True


def doing_nothing(operator: str, read: str, gives: str, rank: int = 2) -> tuple[tuple[str, str, str], dict[str, Any]]:
    """Return a node that gives what it reads, and its constant."""
    kinds: dict[str, dict[str, Any]] = {
        "Identity": {},
        "Clip": {},
        "Add": {"zero": 0.0},
        "Sub": {"zero": 0.0},
        "Mul": {"unit": 1.0},
        "Div": {"unit": 1.0},
        "Expand": {"same": [1] * rank},
        "Reshape": {"kept": [0] * rank},
    }
    names = [read, *kinds[operator]]
    return (operator, " ".join(names[::-1] if operator == "Mul" else names), gives), kinds[operator]
