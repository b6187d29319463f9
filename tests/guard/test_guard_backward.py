"""Margins by a backward pass in a guard: what any evaluation of a file keeps, and each term that they need."""

from collections.abc import Callable
from typing import Any

import float_evaluation as net
import numpy as np
import onnx
import pytest
from guard_oracle import Array, WrittenGuard, excess
from onnx import numpy_helper
from sampled_graphs import session
from soundness_trials.drafts import Draft, graph_of
from soundness_trials.evaluation import Evaluation, Way

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph
from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.guards import backward

SHAPE, CLASSES = (2, 5, 6), 3
Patch = pytest.MonkeyPatch


def normal(chance: np.random.Generator, *shape: int) -> Array:
    spread = 10.0 ** chance.uniform(-1, 1)
    return (chance.standard_normal(shape) * spread / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def convolutions(chance: np.random.Generator) -> onnx.ModelProto:
    """Return a net of convolutions with strides, pads, gaps and groups, and dense layers, with ReLUs between them."""
    draft, value = Draft(), "x"
    channels, height, width = SHAPE
    for _ in range(int(chance.integers(0, 3))):
        group = int(chance.choice([1, channels]))
        after = group * int(chance.integers(1, 3))
        kernel, step, gap = (chance.integers(1, high, 2).tolist() for high in (4, 3, 3))
        pads = chance.integers(0, 3, 4).tolist()
        rest = [
            size + pads[axis] + pads[axis + 2] - gap[axis] * (kernel[axis] - 1) - 1
            for axis, size in enumerate((height, width))
        ]
        if min(rest) < 0:
            continue
        attributes: dict[str, Any] = {"strides": step, "dilations": gap, "pads": pads, "group": group}
        weights = draft.constant(normal(chance, after, channels // group, *kernel))
        value = draft.node("Conv", value, weights, draft.constant(normal(chance, after)), **attributes)
        if chance.random() < 0.3:
            parts = [draft.constant(part) for part in (*normal(chance, 3, after), np.abs(normal(chance, after)))]
            value = draft.node("BatchNormalization", value, *parts)
        value = draft.relu(value)
        channels, height, width = after, rest[0] // step[0] + 1, rest[1] // step[1] + 1
    value, size = draft.node("Flatten", value), channels * height * width
    for _ in range(int(chance.integers(0, 3))):
        after = int(chance.integers(1, 8))
        matrix = normal(chance, after, size)
        if chance.random() < 0.5:
            value = draft.node("Gemm", value, draft.constant(matrix), draft.constant(normal(chance, after)), transB=1)
        else:
            value = draft.node("MatMul", value, draft.constant(matrix.T))
        value, size = draft.relu(value), after
    logits = draft.dense(value, normal(chance, size, CLASSES), normal(chance, CLASSES))
    return draft.model("x", SHAPE, logits, CLASSES)


def balls(chance: np.random.Generator, count: int = 3) -> tuple[Array, Array]:
    center = chance.standard_normal((count, *SHAPE)).astype(np.float32)
    radius = np.float32(chance.choice([0.0, 1e-6, 0.05, 0.5])) * chance.random((count, *SHAPE), dtype=np.float32)
    return center - radius, center + radius


def points(chance: np.random.Generator, low: Array, high: Array, count: int) -> Array:
    share = chance.random((len(low), count, *low.shape[1:]), dtype=np.float32)
    share[:, ::2] = np.rint(share[:, ::2])
    return np.clip(low[:, None] + share * (high - low)[:, None], low[:, None], high[:, None])


def worst(seed: int, count: int = 40, ways: int = 2) -> tuple[float, float]:
    """Return by how much margins by a backward pass exceed what evaluations keep, and intervals' ones at most."""
    chance = np.random.default_rng(seed)
    return worst_of(convolutions(chance), chance, count, ways)


def worst_of(model: onnx.ModelProto, chance: np.random.Generator, count: int, ways: int) -> tuple[float, float]:
    graph = graph_of(model)
    low, high = balls(chance)
    try:
        guard = WrittenGuard(graph, SHAPE, CLASSES, low, high, is_backward=True)
    except UnsupportedModelError:
        return -np.inf, 0.0
    found = points(chance, low, high, count)
    seen = [*guard.by_runtimes(has_reference=False), *(guard.by_chance(Way(chance)) for _ in range(ways))]
    plain = next(WrittenGuard(graph, SHAPE, CLASSES, low, high).by_runtimes())
    excesses = []
    for optimises in (False, True):
        (logits,) = session(model, optimises).run(None, {"x": found.reshape(-1, *SHAPE)})
        shaped = logits.reshape(*found.shape[:2], CLASSES)
        excesses += [excess(one, shaped) for one in seen]
    gain = max(float((one.margins - plain.margins).max()) for one in seen[:1])
    return max(excesses), gain


@pytest.mark.slow
def test_no_evaluation_keeps_less_than_the_margins_of_a_backward_pass() -> None:
    found = [worst(seed) for seed in range(16)]
    assert max(excess for excess, _ in found) <= 0
    assert sum(excess > -np.inf for excess, _ in found) > 8
    assert sum(gain > 1e-3 for _, gain in found) > 4  # than intervals


@pytest.mark.slow
@pytest.mark.parametrize("part", ["tau", "ends"])
def test_a_loss_left_out_is_seen(part: str, monkeypatch: Patch) -> None:
    less = backward.Pass.less

    def left_out(way: backward.Pass, rows: str, losses: str, entries: int, power: int, share: float = 1.0) -> None:
        taken = {node.output[0]: node for node in way.emitter.nodes}[rows].op_type
        is_line, is_end = taken == "Relu", taken == "Abs" and share == 1.0
        if not (is_line if part == "tau" else is_end):
            less(way, rows, losses, entries, power, share)

    monkeypatch.setattr(backward.Pass, "less", left_out)
    assert max(worst(seed, ways=1)[0] for seed in range(8)) > 0


def test_exact_values_keep_the_margins() -> None:
    for seed in range(12):
        chance = np.random.default_rng(seed)
        scale, layers = float(seed % 3), []
        for width, after in ((3, 4), (4, 3), (3, net.CLASSES)):
            spread = 10.0 ** chance.uniform(-scale, scale, (width + 1, after))
            weights = (chance.standard_normal((width + 1, after)) * spread).astype(np.float32)
            layers += [net.Layer("dense", (weights[:-1], weights[-1])), net.Layer("relu")]
        center = chance.standard_normal(3).astype(np.float32)
        radius = np.abs(center) * np.float32((0.0, 1e-6, 0.3)[seed // 3 % 3])
        low, high = center - radius, center + radius
        guard = WrittenGuard(net.graph_of(layers[:-1], 3), (3,), net.CLASSES, low[None], high[None], is_backward=True)
        corners = np.where(chance.random((6, 3)) < 0.5, low, high)
        for seen in (*guard.by_runtimes(), guard.by_chance(Way(chance))):
            for corner in (low, high, *corners):
                logits = net.evaluate(layers[:-1], corner, net.Exact())["logits"]
                for label in range(net.CLASSES):
                    assert logits[label] - logits[1 - label] >= float(seen.margins[0, label]), seed


def cancelling(seed: int) -> float:
    """Return by how much margins exceed those of evaluations, of layers whose large terms cancel."""
    chance, draft = np.random.default_rng(seed), Draft()
    inputs, hidden = 40, 3
    signs = np.tile([1, -1], inputs // 2)
    weights = np.repeat(chance.random((inputs // 2, hidden)), 2, axis=0) * signs[:, None]
    value = draft.relu(draft.dense("x", weights, np.full(hidden, 1.0)))
    logits = draft.dense(value, [[1, 0]] * hidden, [0, 0])
    graph = graph_of(draft.model("x", (inputs,), logits, 2))
    x = np.repeat(1e4 * chance.random((5, inputs // 2)), 2, axis=1).astype(np.float32)
    return point_excess(graph, x, chance)


def many_rows(seed: int) -> float:
    """Return the same of rows that are sums of many terms which cancel."""
    chance, draft = np.random.default_rng(seed), Draft()
    hidden = 60
    value = draft.relu(draft.dense("x", np.ones((2, hidden)), np.zeros(hidden)))
    last = np.abs(chance.standard_normal((hidden, 1))) * np.tile([1, -1], hidden // 2)[:, None]
    logits = draft.dense(value, np.concatenate([last, 0 * last], axis=1), [0, 0])
    graph = graph_of(draft.model("x", (2,), logits, 2))
    return point_excess(graph, np.abs(chance.standard_normal((5, 2))).astype(np.float32) + 1, chance)


def point_excess(graph: Graph, x: Array, chance: np.random.Generator) -> float:
    guard = WrittenGuard(graph, x.shape[1:], 2, x, x, is_backward=True)
    seen = [*guard.by_runtimes(), *(guard.by_chance(Way(chance)) for _ in range(3))]
    files = [Evaluation(graph, Way(chance)).run("x", x)["logits"][:, None] for _ in range(5)]
    return max(excess(one, logits) for one in seen for logits in files)


def no_share(way: backward.Pass, rows: str, losses: str, entries: int, power: int, share: float = 1.0) -> None:
    del way, rows, losses, entries, power, share


@pytest.mark.slow
@pytest.mark.parametrize("case", [cancelling, many_rows])
def test_what_rounding_takes_is_taken_off(case: Callable[[int], float], monkeypatch: Patch) -> None:
    assert max(case(seed) for seed in range(4)) <= 0
    monkeypatch.setattr(backward.Pass, "less", no_share)
    if case is many_rows:  # there the file's own error holds the guard's, unless it is left out too
        monkeypatch.setattr(arithmetic, "gamma", lambda _: 2.0**-60)
    assert max(case(seed) for seed in range(4)) > 0


# --- where a pass ends ------------------------------------------------------------------------------------------------


def turned(draft: Draft, chance: np.random.Generator) -> str:
    value = draft.relu(draft.node("Conv", "x", draft.constant(normal(chance, 2, 2, 2, 2))))
    return draft.node("Transpose", value, perm=[0, 3, 1, 2])


def turned_before(draft: Draft, chance: np.random.Generator) -> str:
    value = draft.node("Conv", "x", draft.constant(normal(chance, 2, 2, 2, 3)))  # [2, 4, 4]
    return draft.relu(draft.node("Transpose", value, perm=[0, 2, 3, 1]))


def swapped(draft: Draft, chance: np.random.Generator) -> str:
    value = draft.relu(draft.node("Conv", "x", draft.constant(normal(chance, 2, 2, 2, 2))))
    draft.tensors.append(numpy_helper.from_array(np.array([1, 0]), "places"))
    return draft.node("Gather", value, "places", axis=1)


def padded(draft: Draft, chance: np.random.Generator) -> str:
    value = draft.relu(draft.node("Conv", "x", draft.constant(normal(chance, 2, 2, 2, 2))))
    value = draft.node("Add", draft.node("Mul", value, draft.constant([2.0])), draft.constant([-1.0]))
    return draft.relu(draft.node("Conv", value, draft.constant(normal(chance, 2, 2, 2, 2)), pads=[1, 0, 1, 2]))


SIZES: dict[Callable[..., str], int] = {turned: 40, turned_before: 32, swapped: 40, padded: 60}


@pytest.mark.parametrize("part", SIZES)
def test_entries_that_change_places_are_not_taken_for_one_another(part: Callable[..., str]) -> None:
    for seed in range(2):
        chance, draft = np.random.default_rng(seed), Draft()
        value = draft.node("Flatten", part(draft, chance))
        size = SIZES[part]
        value = draft.relu(draft.dense(value, normal(chance, size, 4), normal(chance, 4)))
        logits = draft.dense(value, normal(chance, 4, CLASSES), normal(chance, CLASSES))
        excess, _ = worst_of(draft.model("x", SHAPE, logits, CLASSES), chance, 10, 1)
        assert -np.inf < excess <= 0


def test_a_file_of_many_classes_is_refused_by_what_it_has() -> None:
    draft = Draft()
    value = draft.relu(draft.dense("x", np.ones((2, 600)), np.zeros(600)))
    graph = graph_of(draft.model("x", (2,), draft.dense(value, np.ones((600, 60)), np.zeros(60)), 60))
    point = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(UnsupportedModelError, match="too many classes"):
        WrittenGuard(graph, (2,), 60, point, point, is_backward=True)


def test_rows_that_could_overflow_layers_further_back_are_refused() -> None:
    draft = Draft()
    value = draft.relu(draft.dense("x", [[2.0**45]], [0]))
    graph = graph_of(draft.model("x", (1,), draft.dense(value, [[2.0**60, 0]], [0, 0]), 2))
    x = np.full((1, 1), 2.0**-90, dtype=np.float32)
    with pytest.raises(UnsupportedNodeError, match="rows may be too large"):
        WrittenGuard(graph, (1,), 2, x, x, is_backward=True)
