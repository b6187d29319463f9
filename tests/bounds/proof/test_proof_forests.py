"""Decision trees: bounds against a walk by hand over all combinations of leaves, onnxruntime, and sums in any order."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import decision_trees as trees_of
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from decision_trees import Leaf, Tree, random_tree
from onnx import TensorProto, helper
from soundness_trials.drafts import Draft
from soundness_trials.judging import plain_file
from tiny_networks import run_onnx

import abscert_plugin
from abscert_plugin.artifact.metadata import SCALED
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.forests import Forest, Trees
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.graph.tail import Tail, without_tail
from abscert_plugin.verification.proving import Prover

METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
LABELS = {2: [0, 1], 3: [0, 1, 2]}


def proof_of(model: onnx.ModelProto, classes: int) -> Proof:
    graph = read_graph(model, Path("forest.onnx"))
    assert batch_obstacle(graph, model) is None
    return Proof(graph, "x", (trees_of.FEATURES,), classes)


def scores_of(model: onnx.ModelProto, points: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["scores"], {"x": points})[0])


def forest(random: np.random.Generator, classes: int, count: int = 4, scale: float = 1.0) -> list[Tree]:
    return [random_tree(random, int(random.integers(1, 4)), classes, scale) for _ in range(count)]


def worst(random: np.random.Generator, scale: float = 1.0) -> tuple[float, float]:
    """Return by how much bounds exceed margins, and how far they stay below the least one of a single tree."""
    classes, count = int(random.integers(2, 4)), int(random.integers(1, 4))
    trees = forest(random, classes, count, scale)
    base = random.standard_normal(classes).astype(np.float32) if classes > 2 else np.zeros(classes, np.float32)
    more: dict[str, Any] = {"classlabels_int64s": LABELS[classes], "base_values": base.tolist()}
    more = more if classes > 2 else {"classlabels_int64s": LABELS[classes]}
    model = trees_of.model("TreeEnsembleClassifier", 1, trees_of.by_ids(trees, **more))
    proof, over, loose = proof_of(model, classes), -np.inf, 0.0
    for lower, upper in trees_of.boxes(random):
        points = trees_of.points_of(trees, lower, upper)
        ideal = [trees_of.exact(trees, point, base) for point in points]
        seen = [scores_of(model, points).astype(np.float64).tolist()]
        seen += [[trees_of.in_some_order(random, trees, point, base) for point in points] for _ in range(3)]
        box = torch.from_numpy(lower[None]), torch.from_numpy(upper[None])
        low, high = (end[0].numpy() for end in proof.intervals(*box)["scores"].computed())
        for rows in seen:
            over = max(over, float((low - np.array(rows)).max()), float((np.array(rows) - high).max()))
        label = int(random.integers(classes))
        others = [j for j in range(classes) if j != label]
        least = [min(row[label] - row[j] for row in ideal) for j in others]
        size = sum(max(map(float, map(abs, row))) for row in ideal)
        for method in METHODS:
            bound = proof.margins(*box, torch.tensor([label]), method)[0].numpy()
            for rows in seen:
                margins = np.array(rows)[:, [label]] - np.array(rows)[:, others]
                over = max(over, float((bound - margins).max()))
            over = max(over, max(float(b) - float(m) for b, m in zip(bound, least, strict=True)))
            if count == 1:
                gap = max(float(m) - float(b) for b, m in zip(bound, least, strict=True))
                loose = max(loose, gap / (1 + size))
    return over, loose


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_and_those_of_one_tree_are_exact(seed: int) -> None:
    over, loose = worst(np.random.default_rng(seed))
    assert over <= 0
    assert loose < 1e-5  # roundings alone


def test_a_leaf_that_a_box_only_touches_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(self: Forest, ends: tuple[torch.Tensor, torch.Tensor]) -> Iterator[torch.Tensor]:
        return right(replace(self, most=self.most - 1e-12), ends)

    right = Forest.reached
    monkeypatch.setattr(Forest, "reached", reached)
    assert any(worst(np.random.default_rng(seed))[0] > 0.01 for seed in range(12))


def _swallowing() -> list[Tree]:
    """Return trees whose sum is 1 or 0, as 2^25 swallows a 1 or does not."""
    return [Leaf((np.float32(number), np.float32(0.5), np.float32(0))) for number in (2.0**25, 1.0, -(2.0**25))]


def test_the_order_of_a_sum_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = trees_of.by_ids(_swallowing(), classlabels_int64s=LABELS[3])
    proof = proof_of(trees_of.model("TreeEnsembleClassifier", 1, attributes), 3)
    box = torch.zeros((1, trees_of.FEATURES))
    random, base = np.random.default_rng(0), np.zeros(3, np.float32)
    sums = {trees_of.in_some_order(random, _swallowing(), box[0].numpy(), base)[0] for _ in range(40)}
    assert sums == {0.0, 1.0}
    low, high = proof.intervals(box, box)["scores"].computed()
    assert low[0, 0] <= 0
    assert high[0, 0] >= 1
    right = Trees.forward
    monkeypatch.setattr(Trees, "forward", lambda self, values: replace(right(self, values), roundings=0))
    low, _ = proof.intervals(box, box)["scores"].computed()
    assert low[0, 0] > 0


# --- other forms -----------------------------------------------------------------------------------------------------


def least_margins(proof: Proof, lower: np.ndarray, upper: np.ndarray, label: int) -> list[np.ndarray]:
    box = torch.from_numpy(lower[None]), torch.from_numpy(upper[None])
    return [proof.margins(*box, torch.tensor([label]), method)[0].numpy() for method in METHODS]


FORMS: dict[str, Any] = {
    "two classes by one score": ("Classifier", 1, "NONE", {}),
    "two classes by one score, logistic": ("Classifier", 1, "LOGISTIC", {"base_values": [0.125]}),
    "two classes, softmax": ("Classifier", 2, "SOFTMAX", {}),
    "two classes, logistic": ("Classifier", 2, "LOGISTIC", {}),
    "three classes, softmax": ("Classifier", 3, "SOFTMAX", {"base_values": [0.5, -0.25, 0.0]}),
    "three classes, logistic": ("Classifier", 3, "LOGISTIC", {}),
    "sums": ("Regressor", 3, "NONE", {"n_targets": 3, "base_values": [0.5, -0.25, 0.0]}),
    "means": (
        "Regressor",
        3,
        "NONE",
        {"n_targets": 3, "aggregate_function": "AVERAGE", "base_values": [0.5, -0.25, 0.0]},
    ),
}


def formed(name: str, random: np.random.Generator) -> tuple[onnx.ModelProto, list[Tree], int]:
    kind, outputs, transform, more = FORMS[name]
    trees = forest(random, outputs, 3)
    if name == "two classes by one score":
        trees = [_absolute(tree) for tree in trees]
    if kind == "Classifier":
        more = more | {"classlabels_int64s": LABELS[max(2, outputs)]}
    prefix = "class" if kind == "Classifier" else "target"
    attributes = trees_of.by_ids(trees, prefix, post_transform=transform, **more)
    return trees_of.model(f"TreeEnsemble{kind}", 1, attributes), trees, max(2, outputs)


def _absolute(tree: Tree) -> Tree:
    if isinstance(tree, Leaf):
        return Leaf(tuple(map(abs, tree.numbers)))
    return replace(tree, true=_absolute(tree.true), false=_absolute(tree.false))


@pytest.mark.parametrize("name", FORMS)
def test_what_onnxruntime_gives_lies_within(name: str) -> None:
    for seed in range(3):
        random = np.random.default_rng(seed)
        model, trees, classes = formed(name, random)
        proof = proof_of(model, classes)
        for lower, upper in trees_of.boxes(random):
            scores = scores_of(model, trees_of.points_of(trees, lower, upper)).astype(np.float64)
            box = torch.from_numpy(lower[None]), torch.from_numpy(upper[None])
            low, high = (end[0].numpy() for end in proof.intervals(*box)["scores"].computed())
            assert ((low <= scores) & (scores <= high)).all()
            label = int(scores[0].argmax())
            others = [j for j in range(classes) if j != label]
            margins = (scores[:, [label]] - scores[:, others]).min(0)
            for bound in least_margins(proof, lower, upper, label):
                assert (bound <= margins).all()
                assert classes > 2 or (lower < upper).any() or (bound > margins - 1e-5).all()


def test_a_forest_of_leaves_apart_is_the_same() -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        trees = forest(random, 3, 2)
        attributes = trees_of.apart(trees, 3, aggregate_function=int(seed != 2))
        model = trees_of.model("TreeEnsemble", 5, attributes)
        proof = proof_of(model, 3)
        for lower, upper in trees_of.boxes(random):
            scores = scores_of(model, trees_of.points_of(trees, lower, upper)).astype(np.float64)
            box = torch.from_numpy(lower[None]), torch.from_numpy(upper[None])
            low, high = (end[0].numpy() for end in proof.intervals(*box)["scores"].computed())
            assert ((low <= scores) & (scores <= high)).all()
            assert (lower < upper).any() or (high - low).max() < 1e-5
            label = int(scores[0].argmax())
            others = [j for j in range(3) if j != label]
            for bound in least_margins(proof, lower, upper, label):
                assert (bound <= (scores[:, [label]] - scores[:, others]).min(0)).all()


def test_a_softmax_at_the_end_is_a_tail() -> None:
    model, *_ = formed("three classes, softmax", np.random.default_rng(0))
    cut = without_tail(read_graph(model, Path("forest.onnx")))
    assert cut is not None
    assert cut.tail is Tail.SOFTMAX
    assert cut.graph.nodes[0].attributes["post_transform"] == b"NONE"
    model, *_ = formed("three classes, logistic", np.random.default_rng(0))
    assert without_tail(read_graph(model, Path("forest.onnx"))) is None
    # of one score, onnxruntime 1.31 makes none
    attributes = trees_of.by_ids(forest(np.random.default_rng(0), 1), classlabels_int64s=[0, 1])
    model = trees_of.model("TreeEnsembleClassifier", 1, attributes | {"post_transform": "SOFTMAX"})
    assert without_tail(read_graph(model, Path("forest.onnx"))) is None


def test_thresholds_of_float64_are_compared_in_it() -> None:
    # 0.1 is below the next float32, and no float32 itself
    split = np.array([0.1])
    attributes = trees_of.by_ids([trees_of.Fork(0, "BRANCH_LEQ", np.float32(0.1), *_swallowing()[:2])], "target")
    del attributes["nodes_values"], attributes["target_weights"]
    attributes["nodes_values_as_tensor"] = onnx.numpy_helper.from_array(np.array([*split, 0.0, 0.0]))
    attributes["target_weights_as_tensor"] = onnx.numpy_helper.from_array(np.array([0.3, 0.0, 0.0, -0.7, 0.0, 0.0]))
    attributes["n_targets"] = 3
    model = trees_of.model("TreeEnsembleRegressor", 3, attributes, TensorProto.DOUBLE)
    proof = proof_of(model, 3)
    for value in (split[0], np.nextafter(split[0], 1), np.float64(np.float32(0.1))):
        point = np.full((1, trees_of.FEATURES), value)
        found = scores_of(model, point).astype(np.float64)
        low, high = proof.intervals(torch.from_numpy(point), torch.from_numpy(point))["scores"].computed()
        assert (low.numpy() <= found).all()
        assert (found <= high.numpy()).all()
        assert (found[0, 0] > 0) == (value <= split[0])
    with pytest.raises(UnsupportedModelError, match="float32"):
        proof_of(trees_of.model("TreeEnsembleRegressor", 3, attributes), 3)


def behind(draft: Draft, folder: Path) -> Artifact:
    """Return a file of two pixels with a tree behind the last value of a draft, one feature, which is 0 for most."""
    fork = trees_of.Fork(
        0,
        "BRANCH_LEQ",
        np.float32(5),
        Leaf((np.float32(1), np.float32(0))),
        trees_of.Fork(0, "BRANCH_GT", np.float32(3), *(Leaf((np.float32(k), np.float32(1 - k))) for k in (1, 0))),
    )
    attributes = trees_of.by_ids([fork], "target", n_targets=2)
    logits = draft.node("TreeEnsembleRegressor", draft.nodes[-1].output[0], **attributes)
    draft.nodes[-1].domain = "ai.onnx.ml"
    model = draft.model(SCALED, (1, 1, 2), logits, 2)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    plain_file(model, (1, 1, 2), 2, folder / "net.onnx")
    return Artifact.open(folder / "net.onnx", Provider.CPU, threads=1)


@pytest.mark.parametrize("is_nan", [True, False])
def test_a_tree_behind_a_relu_may_read_what_is_no_number(tmp_path: Path, is_nan: bool) -> None:
    """NaN is neither at most 5 nor above 3, so it gets to a leaf that no number reaches."""
    draft = Draft()
    held = draft.relu(draft.dense(draft.node("Flatten", SCALED), [[1.0], [1.0]], [-1.0]))
    if is_nan:
        large = draft.node("Mul", held, draft.constant([1e38]))
        parts = (draft.node("Mul", large, draft.constant([factor])) for factor in (1e4, 2e4))
        draft.node("Sub", *parts)
    artifact = behind(draft, tmp_path)
    pixels = np.array([[0.5, 0.8], [0.8, 0.9]], np.float32).reshape(2, 1, 1, 2)
    found = run_onnx(tmp_path / "net.onnx", pixels, ["logits"])[0].argmax(axis=1)
    assert found.tolist() == [0, int(is_nan)]
    verdicts = abscert_plugin.verify(tmp_path / "net.onnx", pixels[:1], np.zeros(1, np.int64), radius=0.2, timeout=5)
    assert verdicts[0].verdict == ("falsified" if is_nan else "certified")
    proof = Prover(artifact)
    low, high = (np.full((1, 1, 1, 2), end, np.float32) for end in (-1.0, 1.0))
    margins = proof.least_margins(low, high, np.zeros(1, np.int64), BoundMethod.CROWN)
    assert np.isneginf(margins).all() == is_nan


# --- what is refused -------------------------------------------------------------------------------------------------


def _fork(mode: str = "BRANCH_LEQ", threshold: float = 0.25, scale: float = 1.0, outputs: int = 3) -> Tree:
    leaves = [Leaf(tuple(np.float32(scale * (k + side)) for k in range(outputs))) for side in (0, 1)]
    return trees_of.Fork(0, mode, np.float32(threshold), *leaves)


def _changed(outputs: int = 3, scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    attributes = trees_of.by_ids([_fork(outputs=outputs, scale=scale)], classlabels_int64s=LABELS[max(2, outputs)])
    return {name: value for name, value in (attributes | changes).items() if value is not None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an equality": (_changed(nodes_modes=["BRANCH_EQ", "LEAF", "LEAF"]), "compare by order, got BRANCH_EQ"),
    "a subnormal threshold": (_changed(nodes_values=[1e-40, 0.0, 0.0]), "no subnormal thresholds"),
    "an infinite threshold": (_changed(nodes_values=[float("inf"), 0.0, 0.0]), "expected float32"),
    "a NaN": (_changed(class_weights=[float("nan")] * 6), "expected float32"),
    "a feature that is not there": (_changed(nodes_featureids=[2, 0, 0]), "expected one of 2 features, got 2"),
    "a node that is not there": (_changed(nodes_truenodeids=[7, 0, 0]), "branches to nodes that are there"),
    "a cycle": (_changed(nodes_truenodeids=[0, 0, 0]), "expected roots of trees"),
    "a leaf that is not there": (_changed(class_nodeids=[1, 1, 1, 9, 9, 9]), "numbers of nodes that are there"),
    "a class that is not there": (_changed(class_ids=[0, 1, 3, 0, 1, 2]), "numbers of 3 outputs"),
    "a node given twice": (_changed(nodes_nodeids=[0, 1, 1]), "each node to be given once"),
    "lists of unequal length": (_changed(nodes_featureids=[0, 0]), "unequal lists"),
    "no trees": ({"classlabels_int64s": [0, 1, 2]}, "more than one class"),
    "one class": (_changed(classlabels_int64s=[0]), "two classes or more"),
    "one score of three": (_changed(class_ids=[1] * 6), "more than one class"),
    "one score below 0": (_changed(1, -1.0), "scores of at least 0"),
    "a softmax of one score": (_changed(1, post_transform="SOFTMAX"), "scores of at least 0"),
    "base values of two scores": (_changed(2, base_values=[0.5, 0.25]), "no base values of two scores"),
    "base values of one score": (_changed(1, base_values=[0.5, 0.25]), "expected one base value, got 2"),
    "few base values": (_changed(base_values=[0.5]), "expected 3 base values or none, got 1"),
    "a leaf without the second score": (
        _changed(2, class_ids=[0, 1, 0], class_nodeids=[1, 1, 2], class_treeids=[0] * 3, class_weights=[1.0] * 3),
        "whose leaves all score the second class",
    ),
    "a leaf without its one score": (
        _changed(1, class_ids=[0], class_nodeids=[1], class_treeids=[0], class_weights=[1.0]),
        "expected a number at every leaf",
    ),
    "a leaf without a class that has a base value": (
        _changed(class_ids=[0, 1, 2, 0, 1], class_treeids=[0] * 5, class_nodeids=[1, 1, 1, 2, 2])
        | {"class_weights": [1.0] * 5, "base_values": [0.0, 0.0, 0.5]},
        "expected a number at every leaf",
    ),
    "two numbers of a leaf": (
        _changed(class_ids=[0, 1, 2, 0, 1, 1]),
        "one number for each output of a leaf",
    ),
    "a probit": (_changed(post_transform="PROBIT"), "expected another post_transform"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_runtimes_read_in_different_ways_is_refused(name: str) -> None:
    attributes, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        proof_of(trees_of.model("TreeEnsembleClassifier", 1, attributes), max(2, len(attributes["classlabels_int64s"])))


def test_what_is_refused_of_other_forests() -> None:
    attributes = trees_of.by_ids([_fork()], "target", n_targets=3, aggregate_function="MIN")
    with pytest.raises(UnsupportedModelError, match="SUM or AVERAGE"):
        proof_of(trees_of.model("TreeEnsembleRegressor", 1, attributes), 3)
    for changes, message in (
        ({"aggregate_function": 2}, "aggregate_function = 0 or 1"),
        ({"post_transform": 1}, "post_transform = 0"),
        ({"nodes_modes": onnx.numpy_helper.from_array(np.array([6, 0, 0], np.uint8))}, "compare by order"),
        ({"tree_roots": [9]}, "roots of trees"),
    ):
        attributes = trees_of.apart([_fork()], 3) | changes
        with pytest.raises(UnsupportedModelError, match=message):
            proof_of(trees_of.model("TreeEnsemble", 5, attributes), 3)


def test_features_that_are_images_are_refused() -> None:
    model = trees_of.model("TreeEnsembleClassifier", 1, _changed())
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 2]))
    with pytest.raises(UnsupportedModelError, match="expected features"):
        Proof(read_graph(model, Path("forest.onnx")), "x", (2, 2), 3)


def test_exact_sums_are_those_of_rationals() -> None:
    found = trees_of.exact(_swallowing(), np.zeros(2, np.float32), np.zeros(3, np.float32))
    assert found == [Fraction(1), Fraction(3, 2), Fraction(0)]
