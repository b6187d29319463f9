"""Guards of sums of functions of one value: what any evaluation computes lies within them, and they are close."""

import random
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from bent_sums import WIDTH, bent, rising
from guard_oracle import WrittenGuard, escaped, excess
from sampled_graphs import CLASSES, Net
from soundness_trials.drafts import Draft, graph_of
from soundness_trials.evaluation import Evaluation, Way
from soundness_trials.nets import boxes, points_of
from test_guard_mutations import point, rounded_chain

from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof import bends as bounds_bends
from abscert_plugin.bounds.proof.bends import BentSum
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.guards import bends

Sum = Callable[[Net, random.Random], str]


def net_of(seed: int, sums: Sum) -> Net:
    """Return a random net of two layers with a sum behind each, of which one may be far from 0."""
    chance, net = random.Random(seed), Net(np.random.default_rng(seed), (WIDTH,))
    for _ in range(2):
        scale, far = chance.choice((1, 1, 300)), chance.choice((0.0, 0.0, 1e3))
        weight = net.random.standard_normal((WIDTH, WIDTH)) * scale
        net.add("Gemm", net.last, net.constant(weight, np.float32), net.floats(WIDTH))
        if far:
            net.add("Add", net.last, net.constant(far, np.float32))
            net.add("Sub", net.last, net.constant(far, np.float32))
        sums(net, chance)
    return net


def finished(net: Net) -> onnx.ModelProto:
    return net.model(net.add("Gemm", net.last, net.floats(WIDTH, CLASSES), net.floats(CLASSES)))


def check(seed: int, sums: Sum, ways: int = 3) -> int:
    """Raise if a value escapes, or a margin is exceeded; return how many sums were closer."""
    graph, chance = graph_of(finished(net_of(seed, sums))), np.random.default_rng(seed)
    low, high = boxes(chance, (WIDTH,))
    try:
        guard = WrittenGuard(graph, (WIDTH,), CLASSES, low, high)
    except (UnsupportedModelError, UnsupportedNodeError):
        return 0
    points = points_of(chance, low, high)
    files = [Evaluation(graph, Way(chance)).run("x", points.reshape(-1, WIDTH)) for _ in range(ways)]
    logits = [values[graph.output].reshape(*points.shape[:2], CLASSES) for values in files]
    for seen in (*guard.by_runtimes(has_reference=False), *(guard.by_chance(Way(chance)) for _ in range(ways))):
        for values, given in zip(files, logits, strict=True):
            assert escaped(seen, values, len(low)) == []
            assert excess(seen, given) <= 0
    return len(guard.walk.rising)


@pytest.mark.parametrize("seed", range(16))
def test_nothing_leaves_the_ends_of_sums_that_rise(seed: int) -> None:
    assert check(seed, rising) >= 2


@pytest.mark.parametrize("seed", range(16))
def test_nothing_leaves_the_ends_of_other_sums(seed: int) -> None:
    check(seed, bent)


def test_a_guard_stays_within_its_facts_behind_a_sum_that_does_not_rise() -> None:
    """A tent is between 0 and 1, but not by its terms; what comes next rises between the facts, and falls beyond."""
    net = Net(np.random.default_rng(0), (WIDTH,))
    read = net.add("Mul", net.last, net.constant(10, np.float32))
    left, middle, right = (
        net.add("Relu", net.add("Sub", read, net.constant(at, np.float32))) for at in (0.0, 1.0, 2.0)
    )
    twice = net.add("Mul", middle, net.constant(2, np.float32))
    net.add("Add", net.add("Sub", left, twice), right)
    value = net.add("Clip", net.last, net.constant(-100, np.float32), net.constant(100, np.float32))
    far = net.add("Relu", net.add("Sub", net.add("Neg", value), net.constant(7, np.float32)))
    net.add("Add", net.add("Relu", value), far)
    graph = graph_of(finished(net))
    high = np.ones((1, WIDTH), dtype=np.float32)
    guard = WrittenGuard(graph, (WIDTH,), CLASSES, -high, high)
    points = np.linspace(-1, 1, 30 * WIDTH, dtype=np.float32).reshape(-1, WIDTH)
    values = Evaluation(graph, Way(np.random.default_rng(0))).run("x", points)
    for seen in guard.by_runtimes():
        assert escaped(seen, values, 1) == []


# --- with a term left out, something is seen outside ------------------------------------------------------------------


def rounded_down() -> bool:
    """Return whether a sum lies within its guard's ends of which each function reads what 400 roundings made less."""
    draft = Draft()
    last, value = rounded_chain(draft, 400)
    first = draft.nodes[0].output[0]
    behind = draft.node("Relu", draft.node("Mul", first, draft.constant([[0.5, 0.5]])))
    logits = draft.node("Sub", draft.node("Relu", last), behind)
    value = value - np.float32(1.0000001) / 2
    _, guard = point(draft, logits, [np.float32(1.0000001)])
    held = np.array([[value, 0]], dtype=np.float32)
    return not any(escaped(seen, {"logits": held}, 1) for seen in guard.by_runtimes())


def test_what_functions_read_may_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds_bends, "_MOST_STEPS", 500)  # within fewer, the guard's own room holds what they round
    assert rounded_down()
    monkeypatch.setattr(bends, "_apart", lambda term, entered, like: (np.zeros(1), np.zeros(1)))
    assert not rounded_down()


def check_many(sums: Sum) -> None:
    for seed in range(40):
        check(seed, sums)


def test_sums_that_do_not_rise_are_taken_by_their_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bends, "_rises", lambda *_: True)
    with pytest.raises(AssertionError):
        check_many(bent)


def test_a_guard_rounds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_own_roundings()
    monkeypatch.setattr(bends, "_FEW", -1e9)  # no roundings of its own
    monkeypatch.setattr(bends.Rising, "around", lambda rising, made, value: made)
    with pytest.raises(AssertionError):
        hold_own_roundings()


def hold_own_roundings() -> None:
    """Raise unless, of a point, what the guard computes in any order holds what the sum is in float64."""
    for seed in range(20):
        chance, net = random.Random(seed), Net(np.random.default_rng(seed), (WIDTH,))
        name = rising(net, chance)
        graph = graph_of(finished(net))
        at = (np.random.default_rng(seed).standard_normal((1, WIDTH)) * 3).astype(np.float32)
        guard = WrittenGuard(graph, (WIDTH,), CLASSES, at, at)
        proof = Proof(graph, "x", (WIDTH,), CLASSES)
        steps = [one for one in proof.steps if isinstance(one, BentSum) and one.output == name]
        if not steps:  # it has a function of a function
            continue
        (step,) = steps
        exact = step.value(torch.from_numpy(at.astype(np.float64))).numpy()
        for way in range(4):
            lower, upper = guard.by_chance(Way(np.random.default_rng(way))).ends[name]
            assert ((lower <= exact) & (exact <= upper)).all()
            assert (upper - lower <= 1e-3 * (1 + np.abs(exact))).all()
