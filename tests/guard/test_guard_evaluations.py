"""Oracle: what any evaluation of a file computes lies within the ends that any evaluation of its guard has."""

import numpy as np
from guard_oracle import WrittenGuard, escaped, excess
from soundness_trials.drafts import graph_of
from soundness_trials.evaluation import Evaluation, Way
from soundness_trials.nets import boxes, points_of, random_net

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.walk import UnsupportedNodeError

REFUSALS = (UnsupportedModelError, UnsupportedNodeError)


def tried(seed: int, ways: int = 4) -> tuple[list[str], float]:
    """Return what escapes a random net's guard, and by how much margins are exceeded; nothing where it has none."""
    chance = np.random.default_rng(seed)
    made = random_net(chance)
    graph, (low, high) = graph_of(made.model), boxes(chance, made.shape)
    try:
        guard = WrittenGuard(graph, made.shape, made.classes, low, high)
    except REFUSALS:
        return ["refused"], -np.inf
    points = points_of(chance, low, high)
    flat = points.reshape(-1, *made.shape)
    files = [Evaluation(graph, Way(chance)).run("x", flat) for _ in range(ways)]
    seen = [*guard.by_runtimes(), *(guard.by_chance(Way(chance)) for _ in range(ways))]
    outside = [name for one in seen for values in files for name in escaped(one, values, len(low))]
    sizes = (*points.shape[:2], made.classes)
    return outside, max(excess(one, values["logits"].reshape(sizes)) for one in seen for values in files)


def test_random_nets_compute_nothing_outside_their_guards_ends() -> None:
    found = [tried(seed) for seed in range(24)]
    assert sum(outside == ["refused"] for outside, _ in found) < 12
    for seed, (outside, worst) in enumerate(found):
        assert outside in ([], ["refused"]), seed
        assert worst <= 0, seed
