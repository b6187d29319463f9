"""What ends a classifier behind its logits: what may tie there, against onnxruntime, and files that end so."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import operator_graphs as graphs
import pytest
import torch
from onnx import TensorProto, helper

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.tails import kept_margins
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.graph.tail import Tail, without_tail
from abscert_plugin.verification.proving import Prover

ROWS = 4000


def computed(tail: Tail, logits: np.ndarray) -> np.ndarray:
    """Return what onnxruntime computes behind logits."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", logits.shape[1]]) for name in ("x", "y")]
    attributes: dict[str, Any] = {"axis": -1} if "max" in tail.lower() else {}
    graph = helper.make_graph([helper.make_node(str(tail), ["x"], ["y"], **attributes)], "tail", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": logits})[0]
    return found


def near_ties(chance: np.random.Generator, classes: int, size: float, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of which the label's is larger than another one by about a gap, and the labels."""
    logits = (chance.standard_normal((ROWS, classes)) * size).astype(np.float32)
    labels = chance.integers(0, classes, ROWS)
    rival = (labels + chance.integers(1, classes, ROWS)) % classes
    rows = np.arange(ROWS)
    logits[rows, labels] = logits.max(1)
    logits[rows, rival] = logits[rows, labels] - (gap * 10 ** chance.uniform(-1, 1, ROWS)).astype(np.float32)
    return logits, labels


def bounds(tail: Tail, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what is proven of rows whose logits are known."""
    classes, wide = logits.shape[1], torch.from_numpy(logits).double()
    others = [[j for j in range(classes) if j != label] for label in labels]
    margins = wide.gather(1, torch.from_numpy(labels)[:, None]) - wide.gather(1, torch.tensor(others))
    return kept_margins(tail, margins, (wide, wide), torch.from_numpy(labels)).amin(1).numpy()


@pytest.mark.parametrize("tail", [tail for tail in Tail if tail is not Tail.ARG_MAX])  # that rounds nothing
def test_what_is_proven_is_kept_and_what_is_not_may_tie(tail: Tail) -> None:
    proven = ties = 0
    for seed, (classes, size, gap) in enumerate([(2, 0.1, 1e-7), (10, 3, 1e-6), (100, 5, 1e-5), (3, 20, 3), (5, 9, 2)]):
        logits, labels = near_ties(np.random.default_rng(seed), classes, size, gap)
        found = computed(tail, logits)
        own = found[np.arange(ROWS), labels]
        rest = found.copy()
        rest[np.arange(ROWS), labels] = -np.inf
        is_kept = own > rest.max(1)
        is_proven = bounds(tail, logits, labels) > 0
        assert not (is_proven & ~is_kept).any()
        proven, ties = proven + int(is_proven.sum()), ties + int((~is_kept).sum())
    assert proven > ROWS // 8  # it is not all refused
    assert ties > 10  # and without a margin it would be wrong


def test_the_needed_margin_of_a_softmax_is_small() -> None:
    for tail, gap in ((Tail.SOFTMAX, 2e-6), (Tail.LOG_SOFTMAX, 1e-5)):
        assert bounds(tail, np.array([[3.0, 3.0 - gap, -50.0]], np.float32), np.array([0])) > 0
    assert bounds(Tail.SOFTMAX, np.array([[3.0, 3.0 - 2.4e-7]], np.float32), np.array([0])) <= 0


def test_a_saturated_sigmoid_proves_nothing() -> None:
    assert bounds(Tail.SIGMOID, np.array([[40.0, 20.0]], np.float32), np.array([0])) <= 0
    assert computed(Tail.SIGMOID, np.array([[40.0, 20.0]], np.float32))[0].tolist() == [1, 1]
    assert bounds(Tail.SIGMOID, np.array([[40.0, 5.0]], np.float32), np.array([0])) > 0
    assert bounds(Tail.TANH, np.array([[-3.0, -30.0]], np.float32), np.array([0])) > 0


# --- files -----------------------------------------------------------------------------------------------------------


def saved(folder: Path, tail: str, factor: float = 1.0, **attributes: Any) -> Path:
    """Write a random classifier that ends in a tail, behind an Identity."""
    build = graphs.Build(np.random.default_rng(0), (1, 4, 4))
    build.dense(5)
    build.add("Relu")
    build.dense(graphs.CLASSES)
    build.add("Mul", build.constant(np.float32(factor)))
    build.add(tail, **attributes)
    build.add("Identity")
    return build.saved(folder)


@pytest.mark.parametrize(
    ("tail", "attributes"),
    [("Softmax", {"axis": -1}), ("Softmax", {}), ("LogSoftmax", {"axis": 1}), ("Sigmoid", {}), ("Tanh", {})],
)
def test_margins_are_of_the_logits_before_the_tail(tail: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, tail, **attributes)
    cut = without_tail(read_graph(onnx.load(path), path))
    assert cut is not None
    assert cut.tail == tail
    prover, chance = Prover(Artifact.open(path, Provider.CPU)), np.random.default_rng(1)
    image = chance.random((1, 1, 4, 4), dtype=np.float32)
    found = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"image": image})[0]
    labels = found.argmax(1)
    seen = np.ones(1, dtype=np.float32)
    assert prover.at_points(image, labels, seen)[0] > 0
    assert prover.at_points(image, (labels + 1) % graphs.CLASSES, seen)[0] <= 0
    low, high = np.clip(image - np.float32(0.01), 0, 1), np.clip(image + np.float32(0.01), 0, 1)
    for method in (BoundMethod.IBP, BoundMethod.CROWN):
        if prover.least_margins(low, high, labels, method)[0] > 0:
            break
    else:
        pytest.fail("nothing is proven of a small ball")


def test_a_file_whose_sigmoids_saturate_is_not_certified(tmp_path: Path) -> None:
    path = saved(tmp_path, "Sigmoid", 1e4)
    image = np.random.default_rng(1).random((1, 1, 4, 4), dtype=np.float32)
    found = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"image": image})[0]
    prover = Prover(Artifact.open(path, Provider.CPU))
    for label in range(graphs.CLASSES):
        others = np.delete(found[0], label)
        assert (prover.at_points(image, np.array([label]), np.ones(1, dtype=np.float32))[0] > 0) <= (
            found[0, label] > others.max()
        )


def test_what_is_no_tail_stays(tmp_path: Path) -> None:
    path = saved(tmp_path, "Softmax", axis=0)
    assert without_tail(read_graph(onnx.load(path), path)) is None
    path = saved(tmp_path, "Relu")
    assert without_tail(read_graph(onnx.load(path), path)) is None
