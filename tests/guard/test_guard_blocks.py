"""ReLUs behind convolutions, whose ends a guard writes so that a runtime makes one node of each."""

from collections.abc import Callable

import numpy as np
import pytest
from guard_oracle import Array, InOrder, WrittenGuard, escaped, excess
from sampled_graphs import session
from soundness_trials.drafts import Draft, graph_of
from soundness_trials.evaluation import Evaluation, Way

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.guards import layers
from abscert_plugin.guards.emitter import Emitter

CLASSES = 3
SHAPE = (2, 4, 4)
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: Patch) -> None:
    """Let any number of channels fill blocks."""
    monkeypatch.setattr(layers, "BLOCK", 1)


def net(chance: np.random.Generator) -> tuple[Draft, str]:
    """Return two or three convolutions with ReLUs behind them, and a dense layer."""
    draft, value, channels, size = Draft(), "x", SHAPE[0], SHAPE[1]
    for _ in range(int(chance.integers(2, 4))):
        count, pads, step = int(chance.integers(1, 4)), int(chance.integers(0, 2)), int(chance.integers(1, 3))
        scale = float(chance.choice([0.0, 1e-3, 1.0, 30.0]))
        weight, bias = chance.normal(size=(count, channels, 2, 2)), scale * chance.normal(size=count)
        numbers = [draft.constant(array) for array in (weight, bias)]
        value = draft.relu(draft.node("Conv", value, *numbers, pads=[pads] * 4, strides=[step] * 2))
        channels, size = count, (size + 2 * pads - 2) // step + 1
        if size < 2:
            break
    width = channels * size * size
    weight = chance.normal(size=(width, CLASSES))
    return draft, draft.dense(draft.node("Flatten", value), weight, chance.normal(size=CLASSES))


def tried(seed: int) -> tuple[list[str], float]:
    chance = np.random.default_rng(seed)
    draft, logits = net(chance)
    graph = graph_of(draft.model("x", SHAPE, logits, CLASSES))
    center, radius = chance.normal(size=(3, *SHAPE)).astype(np.float32), np.float32(chance.choice([0, 1e-6, 0.05, 0.5]))
    low, high = center - radius, center + radius
    guard = WrittenGuard(graph, SHAPE, CLASSES, low, high)
    assert sum(node.name.startswith("guard/Conv") for node in guard.model.graph.node) > 4  # with those of channels
    share = chance.integers(0, 2, (3, 8, *SHAPE)).astype(np.float32)
    points = np.where(share > 0, high[:, None], low[:, None]).astype(np.float32)
    files = [Evaluation(graph, Way(chance)).run("x", points.reshape(-1, *SHAPE)) for _ in range(3)]
    seen = [*guard.by_runtimes(), guard.by_chance(Way(chance))]
    outside = [name for one in seen for values in files for name in escaped(one, values, len(low))]
    sizes = (3, 8, CLASSES)
    return outside, max(excess(one, values["logits"].reshape(sizes)) for one in seen for values in files)


@pytest.mark.parametrize("seed", range(16))
def test_nothing_lies_outside_the_ends(seed: int) -> None:
    outside, worst = tried(seed)
    assert outside == []
    assert worst <= 0


def in_another_order(sign: float) -> bool:
    """Return whether a sum of 1 and 60 halves of its last place lies within the ends of sums that lose these."""
    draft, count = Draft(), 60
    step = 2.0**-24 if sign > 0 else -(2.0**-25)  # below 1 numbers lie closer
    weights = np.full((1, count + 1, 1, 1), step)
    weights[0, 0] = 1
    value = draft.relu(draft.node("Conv", "x", draft.constant(weights)))
    x = np.ones((1, count + 1, 1, 1), dtype=np.float32)
    graph = graph_of(draft.model("x", x.shape[1:], draft.node("Flatten", value), 1))
    guard = WrittenGuard(graph, x.shape[1:], 1, x, x)
    held = np.array([[[[np.float32(1 + count * step)]]]], dtype=np.float32)
    return not escaped(guard.by_chance(InOrder()), {value: held}, 1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_orders_of_sums_are_held(sign: float, monkeypatch: Patch) -> None:
    assert in_another_order(sign)
    shares = layers.shares
    monkeypatch.setattr(layers, "shares", lambda *given: (0.0, shares(*given)[1]))
    assert not in_another_order(sign)


def narrower(blend: Callable[..., str], share: float) -> Callable[..., str]:
    def made(emitter: Emitter, first: str, second: str, factor: float, channels: int) -> str:
        return blend(emitter, first, second, factor * share if factor == -2 else factor, channels)

    return made


def test_a_lower_end_that_is_not_low_enough_is_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Emitter, "blend", narrower(Emitter.blend, 0.5))
    assert any(outside for outside, _ in map(tried, range(16)))


def test_ends_of_a_relu_are_those_of_intervals() -> None:
    """The ends are no wider than by what rounding can do: the lower one too, which is made of the upper one."""
    chance, draft = np.random.default_rng(0), Draft()
    weight, bias = chance.normal(size=(4, 2, 3, 3)), chance.normal(size=4)
    logits = draft.node("Flatten", draft.relu(draft.node("Conv", "x", draft.constant(weight), draft.constant(bias))))
    graph = graph_of(draft.model("x", SHAPE, logits, 16))
    low = chance.normal(size=(5, *SHAPE)).astype(np.float32)
    high = low + np.float32(0.1)
    guard = WrittenGuard(graph, SHAPE, 16, low, high)
    windows = [
        np.lib.stride_tricks.sliding_window_view(end.astype(np.float64), (3, 3), axis=(2, 3)) for end in (low, high)
    ]
    rows = weight.astype(np.float32).astype(np.float64)
    above, below = np.maximum(rows, 0), np.minimum(rows, 0)

    def summed(first: Array, second: Array) -> Array:
        parts = [np.einsum("bchwij,ocij->bohw", windows[side], kernel) for side, kernel in ((0, first), (1, second))]
        made: Array = np.maximum(parts[0] + parts[1] + bias.astype(np.float32)[:, None, None], 0)
        return made.reshape(len(low), -1)

    wanted = summed(above, below), summed(below, above)
    for seen in guard.by_runtimes():
        for found, exact in zip(seen.ends["logits"], wanted, strict=True):
            np.testing.assert_allclose(found, exact, rtol=0, atol=2e3 * arithmetic.UNIT)


def test_blocks_of_sixteen_channels_give_the_same_in_single_nodes(monkeypatch: Patch) -> None:
    monkeypatch.setattr(layers, "BLOCK", 16)
    chance, draft = np.random.default_rng(0), Draft()
    value, channels = "x", 1
    for _ in range(2):
        weight, bias = draft.constant(chance.normal(size=(16, channels, 3, 3)) / 9), draft.constant(np.zeros(16))
        value, channels = draft.relu(draft.node("Conv", value, weight, bias, pads=[1] * 4)), 16
    logits = draft.dense(draft.node("Flatten", value), chance.normal(size=(16 * 16, CLASSES)), np.zeros(CLASSES))
    graph = graph_of(draft.model("x", (1, 4, 4), logits, CLASSES))
    low = chance.random((7, 1, 4, 4), dtype=np.float32)
    guard = WrittenGuard(graph, (1, 4, 4), CLASSES, low, low + np.float32(0.1))
    first, second = (session(guard.model, optimises).run(None, guard.feed) for optimises in (False, True))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # other orders of sums alone
