"""Oracle: whatever a runtime makes of float16, in that or in float32, rounded or not, lies within its enclosure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from half_evaluation import CLASSES, SOURCE, Layer, Runtime, graph_of, name_of, random_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof, building, enclosure, formats
from abscert_plugin.bounds.proof.arithmetic import HALF, SINGLE, TINY, Format
from abscert_plugin.bounds.proof.formats import NARROW

METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
INPUTS = 40
_HALF = np.dtype(np.float16)


def runs(
    layers: Sequence[Layer], points: Sequence[np.ndarray], seed: int, has_half_sums: bool
) -> Iterator[dict[str, list[float]]]:
    """Yield evaluations, many at each point."""
    choices = random.Random(seed)
    for point in points:
        for _ in range(6):
            flags = choices.random() < 0.5, has_half_sums, choices.random() < 0.5
            yield Runtime(choices, *flags).run(layers, point)


def escapes(layers: Sequence[Layer], center: np.ndarray, radius: float, seed: int, wide_sums: bool) -> list[str]:
    """Return the names of values that lie outside what proofs say of them, and of margins below their bounds."""
    low, high = (center - radius).astype(np.float32), (center + radius).astype(np.float32)
    choices, outside = random.Random(seed), []
    corners = [
        np.array([choices.choice(ends) for ends in zip(low, high, strict=True)], dtype=np.float32) for _ in range(2)
    ]
    graph, box = graph_of(layers, len(center)), (torch.from_numpy(low)[None], torch.from_numpy(high)[None])
    proof = Proof(graph, SOURCE, center.shape, CLASSES, wide_sums=wide_sums)
    enclosures = [proof.intervals(*box), proof.intervals(*box, refined=True)]
    bounds = {
        (label, method, quick): float(one.margins(*box, torch.tensor([label]), method))
        for label in range(CLASSES)
        for method in METHODS
        for quick, one in ((False, proof), (True, proof.in_float32()))
    }
    for values in runs(layers, [low, high, *corners], seed, not wide_sums):
        for name, entries in values.items():
            for one in enclosures:
                lower, upper = one[name].computed()
                fits = (lower[0] <= torch.tensor(entries)) & (torch.tensor(entries) <= upper[0])
                outside += [] if bool((fits | (upper[0] == torch.inf)).all()) else [name]
        logits = values["logits"]
        outside += [f"{key}" for key, bound in bounds.items() if logits[key[0]] - logits[1 - key[0]] < bound]
    return outside


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.3]), st.booleans(), st.sampled_from([1.0, 0.01]))
def test_every_evaluation_lies_within_its_enclosure(seed: int, radius: float, wide_sums: bool, size: float) -> None:
    chance = np.random.default_rng(seed)
    center = chance.uniform(-1, 1, 4).astype(np.float32)
    assert escapes(random_layers(chance, 4, size), center, radius, seed, wide_sums) == []


def tiny_layers(seed: int) -> list[Layer]:
    """Return a net whose products are subnormal numbers of float16."""
    chance = np.random.default_rng(seed)
    small = (chance.uniform(0.5, 1, (INPUTS, 4)) * 3e-6).astype(np.float16)
    large = (chance.uniform(0.5, 1, (4, CLASSES)) * 1e4).astype(np.float16)
    zeros = np.zeros(4, np.float16)
    return [Layer("dense", (small, zeros)), Layer("relu"), Layer("dense", (large, zeros[:CLASSES]))]


def large_layers(seed: int) -> list[Layer]:
    """Return a net whose sums are beyond float16, before they are scaled down."""
    chance = np.random.default_rng(seed)
    weight = np.full((INPUTS, 4), 30000, np.float16)
    small = (chance.uniform(0.5, 1, (4, CLASSES)) * 1e-3).astype(np.float16)
    zeros = np.zeros(4, np.float16)
    return [Layer("dense", (weight, zeros)), Layer("relu"), Layer("dense", (small, zeros[:CLASSES]))]


def skipping_layers(seed: int) -> list[Layer]:
    """Return a net in which two nodes read a value whose roundings add up: x - x, by a layer and a join."""
    chance = np.random.default_rng(seed)
    one, minus = np.eye(2, dtype=np.float16), -np.eye(2, dtype=np.float16)
    zeros, big = np.zeros(2, np.float16), (chance.uniform(50, 99, (2, 2))).astype(np.float16)
    return [
        Layer("dense", (np.abs(chance.standard_normal((INPUTS, 2))).astype(np.float16), zeros)),
        Layer("relu"),
        Layer("dense", (minus, zeros)),
        Layer("join", back=1),
        Layer("dense", (one, zeros)),
        Layer("relu"),
        Layer("dense", (big, zeros)),
    ]


def long_layers(seed: int) -> list[Layer]:
    """Return a net whose sums lose small terms in float16."""
    chance = np.random.default_rng(seed)
    ones = np.concatenate([np.full((1, 2), 64), chance.uniform(0.01, 0.03, (INPUTS - 1, 2))]).astype(np.float16)
    back, zeros = np.full((2, CLASSES), 0.5, np.float16), np.zeros(CLASSES, np.float16)
    return [Layer("dense", (ones, zeros)), Layer("relu"), Layer("dense", (back, zeros))]


MUTATIONS = {
    "roundings to float32": (replace(HALF, roundings=2, in_sums=1), long_layers),
    "no flushing to zero": (replace(HALF, tiny=TINY, tiny_in_sums=TINY), tiny_layers),
    "no overflow": (replace(HALF, largest=SINGLE.largest), large_layers),
    "sums held in float32": (HALF.with_wide_sums(), long_layers),
}


@pytest.mark.parametrize("left_out", MUTATIONS)
def test_no_error_of_float16_may_be_left_out(monkeypatch: pytest.MonkeyPatch, left_out: str) -> None:
    kind, make = MUTATIONS[left_out]

    def found() -> list[str]:
        points = [np.random.default_rng(seed).uniform(0.5, 1, INPUTS).astype(np.float32) for seed in range(2)]
        return [one for seed, at in enumerate(points) for one in escapes(make(seed), at, 0.0, seed, wide_sums=False)]

    assert found() == []
    monkeypatch.setattr(building, "NARROW", {**NARROW, _HALF: kind})
    assert found() != []


@pytest.mark.slow
def test_each_reader_of_a_value_rounds_it_as_it_will(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[str]:
        points = [np.random.default_rng(seed).uniform(0.5, 1, INPUTS).astype(np.float32) for seed in range(6)]
        return [one for seed, at in enumerate(points) for one in escapes(skipping_layers(seed), at, 0.0, seed, True)]

    assert found() == []
    with monkeypatch.context() as broken:
        broken.setattr(enclosure.Enclosure, "narrowed", lambda self, _: self)
        broken.setattr(Format, "of_terms", lambda self, products: (products + 1) * self.in_sums)
        assert found() != []


def test_weights_that_are_subnormal_may_be_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    small, zeros = (chance.uniform(2.5e-5, 5e-5, (INPUTS, CLASSES))).astype(np.float16), np.zeros(CLASSES, np.float16)
    layers, point = [Layer("dense", (small, zeros))], chance.uniform(0.5, 1, INPUTS).astype(np.float32)
    assert escapes(layers, point, 0.0, 0, wide_sums=True) == []
    monkeypatch.setattr(formats, "_subnormal", lambda *_: 0.0)
    assert escapes(layers, point, 0.0, 0, wide_sums=True) != []


def test_a_proof_says_whether_its_logits_are_in_fewer_bits() -> None:
    layers = random_layers(np.random.default_rng(0), 4)
    cast = graph_of(layers, 4)  # back to float32
    assert not Proof(cast, SOURCE, (4,), CLASSES).has_narrow_logits
    bare = replace(cast, output=name_of(layers, len(layers) - 1))
    assert Proof(bare, SOURCE, (4,), CLASSES).has_narrow_logits
