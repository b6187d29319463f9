"""Pixels that are scaled before the first layer: a guard scales the ball and no ends of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from guard_oracle import WrittenGuard, escaped, excess
from onnx import numpy_helper
from soundness_trials.drafts import Draft, graph_of
from soundness_trials.evaluation import Evaluation, Way

from abscert_plugin.guards.values import Pixels

SHAPE = (1, 4, 4)
CLASSES = 3


def scaled(chance: np.random.Generator, is_flat: bool) -> tuple[Draft, str]:
    """Return a net of one layer behind steps of scaling, some of which cancel."""
    draft, value = Draft(), "x"
    for _ in range(int(chance.integers(1, 4))):
        kind = str(chance.choice(["Mul", "Add", "Sub", "detour"]))
        number = float(
            np.float32(chance.choice([2.0, 0.5, -1.0, 1.0, 3.0, 1e-3]) if kind == "Mul" else chance.normal())
        )
        if kind == "detour":
            large = draft.constant([2.0 ** int(chance.integers(0, 20))])
            value = draft.node("Sub", draft.node("Add", value, large), large)
        else:
            value = draft.node(kind, value, draft.constant([number]))
    if is_flat:
        value = draft.dense(draft.node("Flatten", value), chance.normal(size=(16, 6)), chance.normal(size=6))
    else:
        weight, bias = draft.constant(chance.normal(size=(2, 1, 3, 3))), draft.constant(chance.normal(size=2))
        pads = [int(pad) for pad in chance.integers(0, 2, 4)]
        value = draft.node("Flatten", draft.relu(draft.node("Conv", value, weight, bias, pads=pads)))
        width = 2 * (4 + pads[0] + pads[2] - 2) * (4 + pads[1] + pads[3] - 2)
        return draft, draft.dense(value, chance.normal(size=(width, CLASSES)), chance.normal(size=CLASSES))
    return draft, draft.dense(draft.relu(value), chance.normal(size=(6, CLASSES)), chance.normal(size=CLASSES))


def tried(seed: int) -> tuple[list[str], float]:
    chance = np.random.default_rng(seed)
    draft, logits = scaled(chance, bool(seed % 2))
    graph = graph_of(draft.model("x", SHAPE, logits, CLASSES))
    center, radius = chance.random((3, *SHAPE), dtype=np.float32), np.float32(chance.choice([0, 1e-6, 0.05]))
    low, high = np.clip(center - radius, 0, 1), np.clip(center + radius, 0, 1)
    guard = WrittenGuard(graph, SHAPE, CLASSES, low, high, ball=(center, float(radius)))
    share = chance.integers(0, 2, (3, 8, *SHAPE)).astype(np.float32)
    points = np.where(share > 0, high[:, None], low[:, None]).astype(np.float32)
    files = [Evaluation(graph, Way(chance)).run("x", points.reshape(-1, *SHAPE)) for _ in range(3)]
    seen = [*guard.by_runtimes(), guard.by_chance(Way(chance))]
    outside = [name for one in seen for values in files for name in escaped(one, values, len(low))]
    sizes = (3, 8, CLASSES)
    return outside, max(excess(one, values["logits"].reshape(sizes)) for one in seen for values in files)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_lies_outside_the_ends_of_scaled_pixels(seed: int) -> None:
    outside, worst = tried(seed)
    assert outside == []
    assert worst <= 0


@pytest.mark.slow
def test_terms_that_cancel_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(pixels: Pixels, *given: Any) -> Pixels:
        made = kept(pixels, *given)
        return replace(made, size=np.maximum(np.abs(made.least), np.abs(made.most)), off=np.zeros(1))

    kept = Pixels.scaled
    monkeypatch.setattr(Pixels, "scaled", forgetful)
    found = [tried(seed) for seed in range(40)]
    assert any(outside or worst > 0 for outside, worst in found)


def test_a_ball_that_does_not_grow_with_its_scale_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def stays(pixels: Pixels, *given: Any) -> Pixels:
        return replace(kept(pixels, *given), reaches=pixels.reaches)

    kept = Pixels.scaled
    monkeypatch.setattr(Pixels, "scaled", stays)
    assert any(outside for outside, _ in map(tried, range(40)))


def test_pixels_that_are_scaled_as_in_the_file_are_scaled_once() -> None:
    draft, logits = scaled(np.random.default_rng(2), is_flat=False)
    graph = graph_of(draft.model("x", SHAPE, logits, CLASSES))
    center = np.full((1, *SHAPE), 0.5, dtype=np.float32)
    guard = WrittenGuard(graph, SHAPE, CLASSES, center, center, ball=(center, 0.1))
    operators = [node.op_type for node in guard.model.graph.node]
    steps = [
        node.operator for node in graph.nodes[: next(i for i, n in enumerate(graph.nodes) if n.operator == "Conv")]
    ]
    assert operators[: len(steps)] == steps
    assert operators.count("Pad") == 0


@pytest.mark.parametrize("moving", ["Clip", "Concat", "Pad"])
def test_what_is_only_moved_keeps_the_terms_that_it_is_made_of(moving: str) -> None:
    """A runtime may fold what comes before into what comes behind, so sums there have terms of 2^20 as well."""
    margins = []
    for operator in ("Identity", moving):
        draft = Draft()
        large = draft.constant([2.0**20])
        value = draft.node("Sub", draft.node("Add", "x", large), large)
        if operator == "Identity":
            value = draft.node("Identity", value)
        elif operator == "Concat":
            value = draft.node("Concat", value, axis=1)
        elif operator == "Clip":
            value = draft.node("Clip", value)  # to nothing
        else:
            pads = draft.constant(np.zeros(8))
            draft.tensors[-1].CopyFrom(numpy_helper.from_array(np.zeros(8, np.int64), pads))
            value = draft.node("Pad", value, pads, draft.constant(0.5))
        weight = np.stack([np.zeros(16), np.ones(16)], 1)
        graph = graph_of(draft.model("x", SHAPE, draft.dense(draft.node("Flatten", value), weight, [0.5, 0.0]), 2))
        box = np.full((1, *SHAPE), 0.9, np.float32)
        guard = WrittenGuard(graph, SHAPE, 2, box, box, ball=(box, 0.0))
        margins.append(next(guard.by_runtimes()).margins)
    assert margins[0][0, 1] < -20
    assert (margins[1] <= margins[0] + 1e-3).all()
