"""Random decision trees: as nodes of ai.onnx.ml 1 and 5, and walked by hand, their sums exact or in any order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES = 2
MODES = {
    "BRANCH_LEQ": lambda value, threshold: value <= threshold,
    "BRANCH_LT": lambda value, threshold: value < threshold,
    "BRANCH_GTE": lambda value, threshold: value >= threshold,
    "BRANCH_GT": lambda value, threshold: value > threshold,
}


@dataclass(frozen=True)
class Leaf:
    """What a tree adds to each class; one of a forest of one score has one number."""

    numbers: tuple[np.float32, ...]


@dataclass(frozen=True)
class Fork:
    """A question about a feature, and what follows where it is true and where it is not."""

    feature: int
    mode: str
    threshold: np.float32
    true: "Fork | Leaf"
    false: "Fork | Leaf"


Tree = Fork | Leaf


def random_tree(random: np.random.Generator, depth: int, outputs: int, scale: float = 1.0) -> Tree:
    """Return a tree whose thresholds are few, so that paths contradict one another and boxes end at them."""
    if depth == 0 or random.random() < 0.15:
        return Leaf(tuple((random.standard_normal(outputs) * scale).astype(np.float32)))
    threshold = np.float32(random.integers(-2, 3) / 3)
    mode, feature = str(random.choice(list(MODES))), int(random.integers(FEATURES))
    true, false = (random_tree(random, depth - 1, outputs, scale) for _ in range(2))
    return Fork(feature, mode, threshold, true, false)


def leaf_of(tree: Tree, point: np.ndarray) -> Leaf:
    while isinstance(tree, Fork):
        tree = tree.true if MODES[tree.mode](point[tree.feature], tree.threshold) else tree.false
    return tree


def exact(trees: Sequence[Tree], point: np.ndarray, base: np.ndarray) -> list[Fraction]:
    """Return the sums of what the trees add, without any rounding."""
    given = [leaf_of(tree, point).numbers for tree in trees]
    start = [Fraction(float(number)) for number in base]
    return [sum((Fraction(float(row[k])) for row in given), start[k]) for k in range(len(start))]


def in_some_order(
    random: np.random.Generator, trees: Sequence[Tree], point: np.ndarray, base: np.ndarray
) -> list[float]:
    """Return the sums in float32, put together in an order and parentheses of chance."""
    given = [leaf_of(tree, point).numbers for tree in trees]
    sums = []
    for k, start in enumerate(base):
        terms = [row[k] for row in given] + [start]
        while len(terms) > 1:
            first = terms.pop(int(random.integers(len(terms))))
            second = terms.pop(int(random.integers(len(terms))))
            terms.append(np.float32(first + second))
        sums.append(float(terms[0]))
    return sums


def thresholds(tree: Tree) -> set[np.float32]:
    if isinstance(tree, Leaf):
        return set()
    return {tree.threshold} | thresholds(tree.true) | thresholds(tree.false)


def points_of(trees: Sequence[Tree], lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return points of a box that reach every combination of leaves: ends, thresholds, and the floats beside these."""
    found = set().union(*map(thresholds, trees))
    near = {value for t in found for value in (t, *(np.nextafter(t, np.float32(way)) for way in (-9, 9)))}
    axes = [
        sorted({low, high} | {value for value in near if low <= value <= high})
        for low, high in zip(lower, upper, strict=True)
    ]
    return np.array(list(product(*axes)), dtype=np.float32)


# --- as nodes --------------------------------------------------------------------------------------------------------


def _flat(tree: Tree, rows: list[dict[str, Any]], number: int) -> int:
    """Append the nodes of a tree and return the number of its first one."""
    place = len([row for row in rows if row["treeids"] == number])
    row: dict[str, Any] = {"treeids": number, "nodeids": place, "leaf": tree if isinstance(tree, Leaf) else None}
    rows.append(row)
    if isinstance(tree, Leaf):
        row.update(featureids=0, modes="LEAF", values=0.0, truenodeids=0, falsenodeids=0)
    else:
        row.update(featureids=tree.feature, modes=tree.mode, values=float(tree.threshold))
        row["truenodeids"] = _flat(tree.true, rows, number)
        row["falsenodeids"] = _flat(tree.false, rows, number)
    return place


def by_ids(trees: Sequence[Tree], prefix: str = "class", **more: Any) -> dict[str, Any]:
    """Return the attributes of a TreeEnsembleClassifier, or of a TreeEnsembleRegressor with `prefix` target."""
    rows: list[dict[str, Any]] = []
    for number, tree in enumerate(trees):
        _flat(tree, rows, number)
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    found: dict[str, Any] = {f"nodes_{name}": [row[name] for row in rows] for name in names}
    added = [(row, k, number) for row in rows if row["leaf"] for k, number in enumerate(row["leaf"].numbers)]
    found[f"{prefix}_treeids"] = [row["treeids"] for row, *_ in added]
    found[f"{prefix}_nodeids"] = [row["nodeids"] for row, *_ in added]
    found[f"{prefix}_ids"] = [k for _, k, _ in added]
    found[f"{prefix}_weights"] = [float(number) for *_, number in added]
    return found | more


def apart(trees: Sequence[Tree], outputs: int, **more: Any) -> dict[str, Any]:
    """Return the attributes of a TreeEnsemble of ai.onnx.ml 5, one tree for each output, as its leaves have one."""
    rows: list[tuple[int, int, float, int, int, int, int]] = []
    leaves: list[tuple[int, float]] = []

    def put(tree: Tree, output: int) -> tuple[int, int]:
        if isinstance(tree, Leaf):
            leaves.append((output, float(tree.numbers[output])))
            return len(leaves) - 1, 1
        place = len(rows)
        rows.append((0,) * 7)
        sides = put(tree.true, output), put(tree.false, output)
        mode = list(MODES).index(tree.mode)
        rows[place] = (tree.feature, mode, float(tree.threshold), *sides[0], *sides[1])
        return place, 0

    # a tree that is one leaf is a question whose answers lead to it
    roots = [
        put(tree if isinstance(tree, Fork) else Fork(0, "BRANCH_LEQ", np.float32(0), tree, tree), output)[0]
        for tree in trees
        for output in range(outputs)
    ]
    features, modes, splits, true, is_true, false, is_false = map(list, zip(*rows, strict=True))
    return {
        "tree_roots": roots,
        "nodes_featureids": features,
        "nodes_modes": numpy_helper.from_array(np.array(modes, dtype=np.uint8)),
        "nodes_splits": numpy_helper.from_array(np.array(splits, dtype=np.float32)),
        "nodes_truenodeids": true,
        "nodes_trueleafs": is_true,
        "nodes_falsenodeids": false,
        "nodes_falseleafs": is_false,
        "leaf_targetids": [target for target, _ in leaves],
        "leaf_weights": numpy_helper.from_array(np.array([number for _, number in leaves], dtype=np.float32)),
        "n_targets": outputs,
        **more,
    }


def model(operator: str, version: int, attributes: dict[str, Any], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return a file of one node that reads features `x` and gives `scores`."""
    outputs = ["label", "scores"] if operator.endswith("Classifier") else ["scores"]
    node = helper.make_node(operator, ["x"], outputs, operator, domain="ai.onnx.ml", **attributes)
    reads = helper.make_tensor_value_info("x", kind, ["batch", FEATURES])
    gives = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", None])
    graph = helper.make_graph([node], "forest", [reads], [gives])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def boxes(random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield boxes of all sizes whose ends are often thresholds, or lie right beside them."""
    for _ in range(4):
        ends = np.sort(random.integers(-3, 4, (2, FEATURES)) / 3, axis=0).astype(np.float32)
        if random.random() < 0.5:
            ends = np.sort(np.nextafter(ends, np.float32(random.choice([-9, 9]))), axis=0)
        yield ends[0], ends[0] if random.random() < 0.3 else ends[1]
