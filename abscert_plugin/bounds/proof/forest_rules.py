"""From decision trees of ai.onnx.ml, one or a sum of them, to steps."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.building import FLOATS, View
from abscert_plugin.bounds.proof.constants import point, weights
from abscert_plugin.bounds.proof.forests import Forest, Trees
from abscert_plugin.bounds.proof.maps import Matrix
from abscert_plugin.bounds.proof.ml_rules import transformed
from abscert_plugin.graph.walk import need

_LEAF: Final = "LEAF"
_BELOW: Final[Mapping[str, tuple[bool, bool]]] = MappingProxyType(
    {
        "BRANCH_GT": (False, True),
        "BRANCH_GTE": (False, False),
        "BRANCH_LEQ": (True, True),
        "BRANCH_LT": (True, False),
    }
)
"""Whether a node is true of what lies below its threshold, and whether the threshold itself counts as below."""

_MODES: Final = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT")  # by their numbers in ai.onnx.ml 5
_SUMS: Final = {b"AVERAGE": True, b"SUM": False, 0: True, 1: False}

_Path = dict[int, tuple[float, float]]  # of a feature, above what it lies, and what it is no larger than


@final
@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of all trees, leaves among them.

    Args:
        roots: places of the first node of each tree.
        modes: of each node.
        features: which entry a node asks for.
        thresholds: what it is compared with.
        branches: places of the next node, where the answer is true and where it is not.
    """

    roots: Sequence[int]
    modes: Sequence[str]
    features: Sequence[int]
    thresholds: np.ndarray
    branches: tuple[Sequence[int], Sequence[int]]


def _classifier(view: View) -> None:
    """Give scores of classes, the second output; the first one is the label, which is not given."""
    nodes, places = _by_ids(view)
    labels = max(len(view.attribute(f"classlabels_{kind}", [])) for kind in ("int64s", "strings"))
    added = _added(view, "class", places)
    base, transform = _numbers(view, "base_values"), view.attribute("post_transform", b"NONE")
    classes, output = {target for _, target, _ in added}, view.node.outputs[1]
    need(labels >= 2, f"expected two classes or more, got {labels}")
    if labels == 2 and classes == {0}:
        # runtimes differ where there are others
        is_plain = transform == b"NONE" and all(number >= 0 for *_, number in added)
        need(is_plain or transform == b"LOGISTIC", "expected scores of at least 0, or post_transform = LOGISTIC")
        need(base.size <= 1, f"expected one base value, got {base.size}")
        one = view.walk.append(Trees(view.part(), view.name(), _forest(view, nodes, added, 1, base, False)))
        signs, start = [[-1.0, 1.0]], [[1.0 if is_plain else 0.0, 0.0]]
        both = Matrix(weights(point(np.array(signs, dtype=np.float32))))
        score = view.walk.append(Affine(view.part(), one, both, point(np.array(start, dtype=np.float32))))
    else:
        need(len(classes) > 1, "expected scores of more than one class")
        need(labels > 2 or not base.size, "expected no base values of two scores")
        need(labels > 2 or _always_names(nodes, added, {1}), "expected a tree whose leaves all score the second class")
        forest = _forest(view, nodes, added, labels, base, False)
        score = view.walk.append(Trees(view.part(), view.name(), forest))
    transformed(view, score, transform, output)


def _regressor(view: View) -> None:
    nodes, places = _by_ids(view)
    added, base = _added(view, "target", places), _numbers(view, "base_values")
    targets, kind = int(view.attribute("n_targets", 1)), view.attribute("aggregate_function", b"SUM")
    need(kind in _SUMS, f"expected aggregate_function = SUM or AVERAGE, got {kind!r}")
    view.require(post_transform=b"NONE")
    forest = _forest(view, nodes, added, targets, base, _SUMS[kind])
    view.walk.append(Trees(view.output, view.name(), forest))


def _ensemble(view: View) -> None:
    """Give what a TreeEnsemble of ai.onnx.ml 5 does, which numbers its leaves apart."""
    numbers = {name: _numbers(view, name) for name in ("nodes_modes", "nodes_splits", "leaf_weights")}
    count = len(numbers["nodes_modes"])
    need(set(numbers["nodes_modes"].tolist()) <= set(range(4)), "expected nodes that compare by order")
    for name in ("nodes_hitrates", "nodes_missing_value_tracks_true", "membership_values"):
        view.attribute(name, None)  # how often, and of NaN
    leaves, branches = len(numbers["leaf_weights"]), []
    for name in ("true", "false"):
        is_leaf, ids = view.attribute(f"nodes_{name}leafs", []), view.attribute(f"nodes_{name}nodeids", [])
        branches.append([place + count * bool(leaf) for place, leaf in zip(ids, is_leaf, strict=True)])
    modes = [_MODES[int(mode)] for mode in numbers["nodes_modes"]] + [_LEAF] * leaves
    nodes = _Nodes(
        list(view.attribute("tree_roots", [])),
        modes,
        list(view.attribute("nodes_featureids", [])),
        numbers["nodes_splits"],
        (branches[0], branches[1]),
    )
    added = [
        (count + place, int(target), float(number))
        for place, (target, number) in enumerate(
            zip(view.attribute("leaf_targetids", []), numbers["leaf_weights"], strict=True)
        )
    ]
    kind = view.attribute("aggregate_function", 1)
    need(kind in _SUMS, f"expected aggregate_function = 0 or 1, got {kind}")
    view.require(post_transform=0)  # onnxruntime 1.31 has other numbers for the others than ONNX
    forest = _forest(view, nodes, added, int(view.attribute("n_targets", 1)), np.zeros(0), _SUMS[kind])
    view.walk.append(Trees(view.output, view.name(), forest))


# --- attributes ------------------------------------------------------------------------------------------------------


def _numbers(view: View, name: str) -> np.ndarray:
    """Return an attribute of numbers, or the tensor that later versions read; in the tensor's type, else float32."""
    for key in (f"{name}_as_tensor", name):
        found: Any = view.attribute(key, None)
        if isinstance(found, onnx.TensorProto):
            return np.asarray(numpy_helper.to_array(found)).reshape(-1)
        if found is not None:
            return np.array(found, dtype=np.float32)
    return np.zeros(0, dtype=np.float32)


def _by_ids(view: View) -> tuple[_Nodes, dict[tuple[int, int], int]]:
    """Return nodes that are told by the numbers of their tree and their own, and their places by these."""
    for name in ("nodes_hitrates", "nodes_hitrates_as_tensor", "nodes_missing_value_tracks_true"):
        view.attribute(name, None)  # how often, and of NaN
    lists = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids", "modes")
    trees, ids, features, true, false, modes = (list(view.attribute(f"nodes_{name}", [])) for name in lists)
    thresholds = _numbers(view, "nodes_values")
    need(len({*map(len, (trees, ids, features, true, false, modes)), len(thresholds)}) == 1, "nodes of unequal lists")
    places = {pair: place for place, pair in enumerate(zip(trees, ids, strict=True))}
    need(len(places) == len(ids), "expected each node to be given once")
    roots = [place for place in range(len(trees)) if place == 0 or trees[place] != trees[place - 1]]
    need(len(roots) == len(set(trees)), "expected the nodes of a tree to stand together")
    names = [str(mode, "utf-8") for mode in modes]
    branches = [
        [
            places.get((tree, node), -1) if name != _LEAF else -1
            for tree, node, name in zip(trees, nodes, names, strict=True)
        ]
        for nodes in (true, false)
    ]
    return _Nodes(roots, names, features, thresholds, (branches[0], branches[1])), places


def _added(view: View, kind: str, places: Mapping[tuple[int, int], int]) -> list[tuple[int, int, float]]:
    """Return what leaves add: the place of a leaf, the output, the number."""
    trees, ids, targets = (view.attribute(f"{kind}_{name}", []) for name in ("treeids", "nodeids", "ids"))
    numbers = _numbers(view, f"{kind}_weights")
    need(all(pair in places for pair in zip(trees, ids, strict=True)), "expected numbers of nodes that are there")
    rows = zip(trees, ids, targets, numbers.tolist(), strict=True)
    return [(places[tree, node], int(target), float(number)) for tree, node, target, number in rows]


# --- leaves ----------------------------------------------------------------------------------------------------------


def _forest(
    view: View, nodes: _Nodes, added: Sequence[tuple[int, int, float]], outputs: int, base: np.ndarray, is_mean: bool
) -> Forest:
    """Return the leaves of all trees with the conditions on the way to each."""
    (features,) = view.shape() if len(view.shape()) == 1 else (0,)
    need(features > 0, f"expected features, got the shape {view.shape()}")
    need(outputs >= 1 and base.size in (0, outputs), f"expected {outputs} base values or none, got {base.size}")
    need(all(0 <= target < outputs for _, target, _ in added), f"expected numbers of {outputs} outputs")
    numbers = np.array([number for *_, number in added])
    kind = view.walk.types.get(view.name(), FLOATS[0])
    for one in (numbers, base, nodes.thresholds):
        need(bool((np.abs(one) < arithmetic.LARGEST).all() and (one.astype(kind) == one).all()), f"expected {kind}")
    need(len({one[:2] for one in added}) == len(added), "expected one number for each output of a leaf")
    # onnxruntime answers 0 for what no leaf scores, whatever its base, and takes a lone output's from elsewhere
    is_named = _names_everywhere(nodes, added) if outputs == 1 else _always_names(nodes, added, np.flatnonzero(base))
    need(is_named, "expected a number at every leaf of a tree, for an output that has a base value or is the only one")
    by_leaf: dict[int, list[tuple[int, float]]] = {}
    for place, target, number in added:
        by_leaf.setdefault(place, []).append((target, number))
    leaves = _leaves(nodes, features, _ends(nodes, kind))
    values = np.zeros((3, len(leaves), outputs))  # numbers, their sizes, how many there are
    for row, (_, place, _) in enumerate(leaves):
        for target, number in by_leaf.get(place, ()):
            values[:, row, target] += number, abs(number), 1
    trees = np.array([tree for tree, *_ in leaves])
    most = np.zeros((len(nodes.roots), outputs))
    np.maximum.at(most, trees, values[2])
    asked = [(row, feature, *ends) for row, (*_, path) in enumerate(leaves) for feature, ends in path.items()]
    table = np.array(asked, dtype=np.float64).reshape(-1, 4)
    return Forest(
        tree=torch.from_numpy(trees),
        values=torch.from_numpy(values[0]),
        sizes=torch.from_numpy(values[1]),
        base=torch.from_numpy(base.astype(np.float64)) if base.size else torch.zeros(outputs, dtype=torch.float64),
        divisor=len(nodes.roots) if is_mean else 1,
        terms=int(most.sum(0).max()),
        leaf=torch.from_numpy(table[:, 0].astype(np.int64)),
        feature=torch.from_numpy(table[:, 1].astype(np.int64)),
        above=torch.from_numpy(table[:, 2].copy()),
        most=torch.from_numpy(table[:, 3].copy()),
    )


def _ends(nodes: _Nodes, kind: np.dtype) -> list[float]:
    """Return, of each node, the largest number of a type that counts as below its threshold."""
    given = nodes.thresholds.astype(kind)
    need(bool(((given == 0) | (np.abs(given) >= arithmetic.TINY)).all()), "expected no subnormal thresholds")
    before = np.nextafter(given, np.array(-np.inf, dtype=kind))
    modes = [_BELOW.get(mode, (True, True))[1] for mode in nodes.modes[: len(given)]]
    return np.where(modes, given, before).astype(np.float64).tolist()


def _leaves(nodes: _Nodes, features: int, ends: Sequence[float]) -> list[tuple[int, int, _Path]]:
    """Return each leaf's tree, its place, and the conditions on the way to it, of every feature one."""
    found: list[tuple[int, int, _Path]] = []
    _need_trees(nodes)
    for tree, root in enumerate(nodes.roots):
        waiting: list[tuple[int, _Path]] = [(root, {})]
        while waiting:
            place, path = waiting.pop()
            mode = nodes.modes[place]
            if mode == _LEAF:
                found.append((tree, place, path))
                continue
            feature, end = nodes.features[place], ends[place]
            need(0 <= feature < features, f"expected one of {features} features, got {feature}")
            above, most = path.get(feature, (-np.inf, np.inf))
            sides = [(above, min(most, end)), (max(above, end), most)]
            if not _BELOW[mode][0]:
                sides.reverse()
            for side, branches in zip(sides, nodes.branches, strict=True):
                if side[0] < side[1]:  # else nothing gets there
                    waiting.append((branches[place], {**path, feature: side}))
    return found


def _need_trees(nodes: _Nodes) -> None:
    """Raise unless every node but a root has one before it: walks from a root end, and there is no other root."""
    need(bool(nodes.roots), "expected a tree")
    before: Counter[int] = Counter()
    inner = [place for place, mode in enumerate(nodes.modes) if mode != _LEAF]
    for place in inner:
        need(nodes.modes[place] in _BELOW, f"expected nodes that compare by order, got {nodes.modes[place]}")
        for branches in nodes.branches:
            need(0 <= branches[place] < len(nodes.modes), "expected branches to nodes that are there")
            before[branches[place]] += 1
    need(all(0 <= root < len(nodes.modes) and not before[root] for root in nodes.roots), "expected roots of trees")
    need(all(before[place] == 1 for place in set(inner) - set(nodes.roots)), "expected one root for each tree")


def _always_names(nodes: _Nodes, added: Sequence[tuple[int, int, float]], targets: Iterable[int]) -> bool:
    """Return whether each of some outputs has a tree with a number for it at every leaf."""
    ends = [*nodes.roots[1:], len(nodes.modes)]
    named = {(place, one) for place, one, _ in added}
    return all(
        any(
            all((place, target) in named for place in range(start, end) if nodes.modes[place] == _LEAF)
            for start, end in zip(nodes.roots, ends, strict=True)
        )
        for target in targets
    )


def _names_everywhere(nodes: _Nodes, added: Sequence[tuple[int, int, float]]) -> bool:
    """Return whether every leaf has a number."""
    return {place for place, mode in enumerate(nodes.modes) if mode == _LEAF} <= {place for place, *_ in added}


FOREST_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "ai.onnx.ml.TreeEnsemble": _ensemble,
        "ai.onnx.ml.TreeEnsembleClassifier": _classifier,
        "ai.onnx.ml.TreeEnsembleRegressor": _regressor,
    }
)
