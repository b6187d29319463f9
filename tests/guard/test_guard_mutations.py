"""With any one term of the theorems of guards left out, something is seen outside; with all of them, nothing is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import float_evaluation as net
import guard_oracle
import numpy as np
import pytest
from float_evaluation import CLASSES, Exact, Layer
from guard_oracle import FLUSHED, Flushing, InOrder, Seen, WrittenGuard, escaped, excess
from soundness_trials.drafts import Draft, graph_of
from soundness_trials.evaluation import Evaluation, Way

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.smooth import Error
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph
from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.guards import answers, bends, layers, rising_rules, rules
from abscert_plugin.guards.emitter import rounded_up
from abscert_plugin.guards.values import Fact

Patch = pytest.MonkeyPatch


def point(draft: Draft, logits: str, values: Any) -> tuple[Graph, WrittenGuard]:
    """Return a graph that reads `x`, and its guard of a box of one point."""
    x = np.asarray([values], dtype=np.float32)
    graph = graph_of(draft.model("x", x.shape[1:], logits, 2))
    return graph, WrittenGuard(graph, x.shape[1:], 2, x, x)


# --- what the file may be off by ------------------------------------------------------------------------------------


def rounded_chain(draft: Draft, steps: int) -> tuple[str, np.float32]:
    """Append so many products of `x`, 1.0000001, each rounded down; return their name and the first entry's value."""
    chance, value = np.random.default_rng(0), np.float32(1.0000001)
    last = draft.node("MatMul", "x", draft.constant([[1.0, 0.0]]))
    for _ in range(steps):
        factors = chance.uniform(0.999, 1.001, 2000).astype(np.float32)
        exact = factors.astype(np.float64) * np.float64(value)
        off = np.where(value * factors >= 1, (exact - value * factors) / exact, -1)
        factor = factors[off.argmax()]
        value = value * factor
        last = draft.node("Mul", last, draft.constant([[factor, 1.0]]))
    return last, value


def rounded_down(steps: int) -> bool:
    """Return whether a file that multiplies so often, and is rounded down each time, lies within its guard's ends."""
    draft = Draft()
    logits, value = rounded_chain(draft, steps)
    _, guard = point(draft, logits, [np.float32(1.0000001)])
    held = np.array([[value, 0]], dtype=np.float32)
    return not any(escaped(seen, {"logits": held}, 1) for seen in guard.by_runtimes())


def test_roundings_of_the_file_are_held() -> None:
    assert rounded_down(60)


def test_a_guard_without_the_files_roundings_is_seen_through(monkeypatch: Patch) -> None:
    monkeypatch.setattr(layers, "shares", lambda linear, fact: (arithmetic.gamma(linear.products + 16), 1.01))
    assert not rounded_down(60)


def in_another_order() -> bool:
    """Return whether a sum of 1 and 60 halves of its last place lies within the ends of sums that lose these."""
    draft, count = Draft(), 60
    weights = np.zeros((count + 1, 2))
    weights[0, 0], weights[1:, 0] = 1, 2.0**-24
    _, guard = point(draft, draft.node("MatMul", "x", draft.constant(weights)), np.ones(count + 1))
    file = {"logits": np.array([[np.float32(1 + count * 2.0**-24), 0]], dtype=np.float32)}
    seen = guard.by_chance(InOrder())
    return not escaped(seen, file, 1)


def test_orders_of_sums_are_held(monkeypatch: Patch) -> None:
    assert in_another_order()
    shares = layers.shares
    monkeypatch.setattr(layers, "shares", lambda *given: (0.0, shares(*given)[1]))
    assert not in_another_order()


# --- what the guard's own sums may lose ------------------------------------------------------------------------------


def loses_nothing() -> tuple[bool, bool]:
    """Return whether radius and margin are what the theorems ask for, though sums from the left lose many terms.

    The box is symmetric, so the middle is 0, and the ends are the radius.
    """
    count = 800
    weights = np.full((count, 2), 2.0**-24 * 0.99, dtype=np.float32)
    weights[0] = 1
    weights[:, 1] *= -1
    draft = Draft()
    graph = graph_of(draft.model("x", (count,), draft.node("MatMul", "x", draft.constant(weights)), 2))
    high = np.ones((1, count), dtype=np.float32)
    guard = WrittenGuard(graph, (count,), 2, -high, high)
    seen = guard.by_chance(InOrder())
    size = float(weights[:, 0].astype(np.float64).sum())
    off = arithmetic.gamma(guard.walk.facts["logits"].roundings) + arithmetic.gamma(count + 3)
    radius = float(seen.ends["logits"][1][0, 0])
    holds = radius * (1 - arithmetic.UNIT) >= size * (1 + off + 2 * arithmetic.UNIT)
    return holds, bool(seen.margins.max() <= -2 * size * (1 + off))


def test_radius_and_margin_lose_nothing_to_their_own_roundings(monkeypatch: Patch) -> None:
    assert loses_nothing() == (True, True)
    shares = layers.shares
    monkeypatch.setattr(layers, "shares", lambda *given: (shares(*given)[0], 1.0))
    assert loses_nothing() == (False, False)


def test_constants_are_rounded_up() -> None:
    chance = np.random.default_rng(0)
    numbers = np.concatenate(
        [10.0 ** chance.uniform(-50, 30, 1000), [0.0, 2.0**-126, 2.0**-127, 1e-45, 1.0, 1 + 2.0**-30]]
    )
    found = rounded_up(numbers)
    assert (found.astype(np.float64) >= numbers).all()
    assert ((found == 0) | (found >= np.finfo(np.float32).tiny)).all()
    assert (found[numbers > 1e-37] <= numbers[numbers > 1e-37] * (1 + 2.0**-22)).all()


# --- underflow -------------------------------------------------------------------------------------------------------


def underflows() -> bool:
    """Return whether subnormal terms lie within the ends where the file, or the guard, takes them for 0."""
    count, draft = 64, Draft()
    weights = np.full((count, 2), 2.0**-120)
    hidden = draft.relu(draft.node("MatMul", "x", draft.constant(weights)))
    logits = draft.node("MatMul", hidden, draft.constant([[2.0**90, 0.0], [0.0, 1.0]]))
    _, guard = point(draft, logits, np.full(count, 0.75 * 2.0**-6))
    files = []
    for way in (InOrder(), Flushing()):
        values = np.full(count, 0.75 * 2.0**-6, dtype=np.float32)
        terms = way.multiply(values, np.full(count, np.float32(2.0**-120)))
        held = np.float32(terms.sum())
        files.append({"v1": np.array([[held, held]]), "logits": np.array([[held * np.float32(2.0**90), held]])})
    seen = [guard.by_chance(way) for way in (InOrder(), Flushing())]
    return not any(escaped(one, file, 1) for one in seen for file in files)


def test_underflow_is_held(monkeypatch: Patch) -> None:
    assert underflows()
    of = Fact.of
    monkeypatch.setattr(Fact, "of", classmethod(lambda cls, *about: replace(of(*about), underflow=0.0)))
    monkeypatch.setattr(layers, "lost", lambda linear, top, unit: 0.0)
    assert not underflows()


# --- sizes -----------------------------------------------------------------------------------------------------------


def far_and_back(draft: Draft) -> str:
    """Append a ReLU of 0 * x + 2^24 - 2^24: the guard's ends of it are much farther apart than the file's roundings."""
    far = draft.constant([[2.0**24, 2.0**24]])
    moved = draft.node("Add", draft.node("Mul", "x", draft.constant([[0.0, 0.0]])), far)
    return draft.relu(draft.node("Sub", moved, far))


def far_sum(draft: Draft) -> str:
    """Append a sum whose ReLUs are 0, and which a guard writes by bends far away."""
    far = draft.constant([[2.0**24, 2.0**24]])
    twice = draft.node("Mul", "x", draft.constant([[2.0, 2.0]]))
    first, second = (draft.relu(draft.node("Sub", read, far)) for read in (twice, "x"))
    return draft.node("Sub", first, second)


def keeps_to_its_facts(logits: Callable[[Draft], str]) -> bool:
    """Return whether what a guard keeps is as small as it takes for granted, as every test here asks for."""
    draft = Draft()
    _, guard = point(draft, logits(draft), [1.0, 1.0])
    assert (logits is far_sum) == bool(guard.walk.rising)
    try:
        return bool(list(guard.by_runtimes()))
    except AssertionError:
        return False


def test_ends_are_within_what_is_known_of_their_size(monkeypatch: Patch) -> None:
    assert keeps_to_its_facts(far_and_back)
    monkeypatch.setattr(bends, "kept", lambda value, _: value)
    assert not keeps_to_its_facts(far_and_back)


def test_ends_of_sums_are_within_what_is_known_of_their_size(monkeypatch: Patch) -> None:
    assert keeps_to_its_facts(far_sum)
    monkeypatch.setattr(bends.Rising, "around", lambda rising, made, value: made)
    assert not keeps_to_its_facts(far_sum)


def test_ends_that_may_overflow_have_no_guard() -> None:
    """What is 0 for the file may be 35 for its guard, and times 2^132 it is no number, which a minimum passes over."""
    draft = Draft()
    last = far_and_back(draft)
    for _ in range(3):
        apart = draft.relu(draft.node("Sub", last, draft.constant([[35.0, 35.0]])))
        last = draft.relu(draft.node("Mul", apart, draft.constant([[2.0**44, 2.0**44]])))
    with pytest.raises((UnsupportedModelError, UnsupportedNodeError), match="too large"):
        point(draft, last, [1.0, 1.0])


# --- margins, and functions -------------------------------------------------------------------------------------------


def difference() -> float:
    """Return by how much the margin of 1 and 2^-26, which float32 takes for 1, exceeds it."""
    draft = Draft()
    _, guard = point(draft, draft.relu("x"), [1.0, 2.0**-26])
    logits = np.array([[[1.0, 2.0**-26]]])
    return max(excess(seen, logits) for seen in guard.by_runtimes())


def test_the_last_difference_is_no_larger_than_it_is(monkeypatch: Patch) -> None:
    assert difference() <= 0
    monkeypatch.setattr(answers, "_ROUNDED", 0.0)
    assert difference() > 0


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh"])
def test_functions_may_be_off(operator: str, monkeypatch: Patch) -> None:
    def holds() -> bool:
        draft, chance = Draft(), np.random.default_rng(0)
        graph, guard = point(draft, draft.node(operator, "x"), [0.7, -0.3])
        x = np.array([[0.7, -0.3]], dtype=np.float32)
        files = [Evaluation(graph, Way(chance)).run("x", x) for _ in range(30)]
        return not any(escaped(guard.by_chance(Way(chance)), values, 1) for values in files)

    assert holds()
    monkeypatch.setattr(rising_rules, "_SLOPED", 0.0)
    exact = rising_rules._rising(lambda _: Error(fixed=0.0))
    monkeypatch.setattr(guard_oracle, "RULES", {**rules.RULES, operator: exact})
    assert not holds()


def slopes_hold() -> bool:
    """Return whether alpha x by rational arithmetic lies between the ends."""
    steps = [Layer("leaky", (), float(np.float32(0.3))), Layer("relu")]
    x = -np.linspace(0.1, 0.9, CLASSES, dtype=np.float32)
    guard = WrittenGuard(net.graph_of(steps, CLASSES), (CLASSES,), CLASSES, x[None], x[None])
    values = net.evaluate(steps, x, Exact())
    return all(encloses(seen, "v0", values["v0"]) for seen in guard.by_runtimes())


def encloses(seen: Seen, name: str, values: Sequence[Any]) -> bool:
    """Return whether the first box's ends enclose rationals, or floats."""
    ends = zip(*(end[0].tolist() for end in seen.ends[name]), values, strict=True)
    return all(low - FLUSHED <= value <= high + FLUSHED for low, high, value in ends)


def test_a_slope_is_rounded_once(monkeypatch: Patch) -> None:
    assert slopes_hold()
    monkeypatch.setattr(rising_rules, "_SLOPED", 0.0)
    assert not slopes_hold()


def test_exact_values_lie_between_the_ends() -> None:
    tried = 0
    for seed in range(18):
        chance = np.random.default_rng(seed)
        steps = [replace(one, alpha=abs(one.alpha) % 1) for one in net.random_layers(chance, float(seed % 3), 3)]
        center = chance.standard_normal(3).astype(np.float32)
        width = np.abs(center) * np.float32((0.0, 1e-6, 0.3)[seed // 3 % 3])
        low, high = (center - width)[None], (center + width)[None]
        try:
            guard = WrittenGuard(net.graph_of(steps, 3), (3,), CLASSES, low, high)
        except (UnsupportedModelError, UnsupportedNodeError):
            continue
        tried += 1
        corners = np.where(chance.random((3, 3)) < 0.5, low, high)
        for seen in (*guard.by_runtimes(), guard.by_chance(Way(chance))):
            for corner in (low[0], high[0], *corners):
                values = net.evaluate(steps, corner, Exact())
                assert all(encloses(seen, name, entries) for name, entries in values.items()), seed
                for label in range(CLASSES):
                    assert values["logits"][label] - values["logits"][1 - label] >= float(seen.margins[0, label])
    assert tried > 9
