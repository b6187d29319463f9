"""Oracle: margins at points that share their rooms, and how far apart two evaluations may be."""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import float_evaluation as net
import numpy as np
import pytest
import torch
from float_evaluation import CLASSES, Exact, Layer, Single, random_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.bounds.proof import Proof, activations, arithmetic, domain, lengths, points, quick

DTYPES = (torch.float64, torch.float32)


def margins(layers: Sequence[Layer], point: np.ndarray, choices: random.Random, count: int) -> list[Fraction | None]:
    """Return label 0's margins, exactly, then by random evaluations in float32; None where one overflows."""
    found: list[Fraction | None] = []
    for place in range(count):
        single = Single(choices, flushes=choices.random() < 0.5, fuses=choices.random() < 0.5)
        folds = [choices.random() < 0.5 for _ in layers]
        with np.errstate(all="ignore"):
            values = net.evaluate(layers, point, single, folds) if place else net.evaluate(layers, point, Exact())
        pair = values["logits"]
        if place and not np.isfinite([float(one) for one in pair]).all():
            found.append(None)
            continue
        first, second = (one if isinstance(one, Fraction) else Fraction(float(one)) for one in pair)
        found.append(first - second)
    return found


def ways(proof: Proof) -> list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Return what bounds margins at points: rooms that points share, lengths, and lines, of all hidden values too."""
    lines = [partial(proof.linear_margins_at, narrow=narrow) for narrow in (0, 1000)]
    return [proof.margins_at, proof.margins_by_length, *lines]


def check(
    layers: Sequence[Layer],
    at: np.ndarray,
    seed: int,
    count: int = 14,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> None:
    """Raise if a margin at a point lies beyond its bounds, or two of them are too far apart."""
    choices, batch = random.Random(seed), torch.from_numpy(at)
    seen = [margins(layers, point, choices, count) for point in at]
    for dtype in dtypes:
        proof = Proof(net.graph_of(layers, at.shape[1]), net.SOURCE, at.shape[1:], CLASSES, dtype)
        labels = [torch.full((len(at),), label) for label in (0, 1)]
        apart = proof.apart(batch.amin(0, keepdim=True), batch.amax(0, keepdim=True))
        for bounds in ways(proof):
            least, most = (bounds(batch, label)[:, 0].tolist() for label in labels)
            for of_point, low, high in zip(seen, least, most, strict=True):
                known = [one for one in of_point if one is not None]
                if len(known) < len(of_point):
                    assert max(low, high) == -np.inf
                    assert apart == np.inf
                    continue
                assert low == -np.inf or min(known) >= Fraction(low)
                assert high == -np.inf or -max(known) >= Fraction(high)
                assert apart == np.inf or max(known) - min(known) <= Fraction(apart)


def trial(seed: int, scale: float = 1.0, spread: float = 0.3) -> tuple[list[Layer], np.ndarray]:
    """Return a random net and points; in every second one no two affine layers follow one another."""
    chance = np.random.default_rng(seed)
    at = chance.standard_normal(3) + spread * chance.standard_normal((3, 3))
    layers = random_layers(chance, scale, 3)
    if seed % 2:
        layers = [layer for layer in layers if layer.kind in ("dense", *net.HELD)]
    return layers, at.astype(np.float32)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([0.0, 0.1, 10.0]))
def test_every_evaluation_keeps_the_bounds_at_points(seed: int, scale: float, spread: float) -> None:
    check(*trial(seed, scale, spread), seed)


def dense(weight: Any, bias: Any) -> Layer:
    return Layer("dense", (np.array(weight, np.float32), np.array(bias, np.float32)))


CANCELLING = [
    dense([[1000.3, 0], [-1000.1, 0]], [1, 0]),
    Layer("relu"),
    dense([[1, 0], [0, 1]], [0, 0]),
    Layer("relu"),
    dense([[1, 0], [0, 1]], [0, 0]),
]
"""A net whose first layer cancels, and has nearly all of the errors."""
STRAIGHT = [
    dense([[1, 0], [0, 1]], [0, 0]),
    Layer("leaky", (), float(np.float32(0.1))),
    dense([[2, 0], [0, 2]], [0, 0]),
]
"""A net whose LeakyRelu alone rounds."""
SMALL = [
    dense(np.full((3, 2), 2.0**-120), [0, 0]),
    Layer("relu"),
    dense([[2.0**120, 0], [0, 2.0**100]], [0, 0]),
]
"""A net whose hidden values are flushed, or not, and are made large again."""


def cases(layers: Sequence[Layer], inputs: int, middle: float, size: float) -> list[tuple[list[Layer], np.ndarray]]:
    chances = [np.random.default_rng(seed) for seed in range(6)]
    return [([*layers], (middle + chance.standard_normal((3, inputs)) * size).astype(np.float32)) for chance in chances]


def random_oracle() -> None:
    for seed in range(8):
        check(*trial(seed, spread=0.0), seed, 30)


def cancelling_oracle() -> None:
    for seed, case in enumerate(cases(CANCELLING, 2, 1.0, 1e-4)):
        check(*case, seed, 40)


def straight_oracle() -> None:
    for seed, case in enumerate(cases(STRAIGHT, 2, 0.0, 1.0)):
        check(*case, seed, 4, DTYPES[:1])


def small_oracle() -> None:
    for seed, case in enumerate(cases(SMALL, 3, 0.0, 2.0**-7)):
        check(*case, seed, 20)


def own_oracle() -> None:
    """Hold the bounds to exact arithmetic alone."""
    for seed in range(20):
        check(*trial(seed, 0.0), seed, 1)


@pytest.mark.parametrize("oracle", [cancelling_oracle, straight_oracle, small_oracle, own_oracle])
def test_nets_of_one_fault_keep_the_bounds(oracle: Callable[[], None]) -> None:
    oracle()


# --- with a term left out, an oracle sees it --------------------------------------------------------------------------


def no_file_rounding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    patch.setattr(arithmetic, "single_gamma", lambda roundings: 0.0)


def no_underflow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(arithmetic, "underflow", lambda count: 0.0)
    patch.setattr(arithmetic, "TINY", 0.0)


def no_own_rounding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    patch.setattr(arithmetic, "single_gamma", lambda roundings: 0.0)
    patch.setattr(activations.Piecewise, "_error", lambda *_: None)


def no_room_before(patch: pytest.MonkeyPatch) -> None:
    right = points._around
    patch.setattr(points, "_around", lambda layer, middle, room: right(layer, middle, 0 * room))


def no_length_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(points, "_around", lambda *_: None)  # so that lengths alone are asked
    patch.setattr(lengths, "stretch", lambda _: 0.0)
    patch.setattr(lengths, "row_lengths", lambda linear: torch.zeros(()).double())


def no_distance_before(patch: pytest.MonkeyPatch) -> None:
    right = domain._after
    patch.setattr(
        domain, "_after", lambda step, layer, low, high, distance: right(step, layer, low, high, 0 * distance)
    )


def no_bias(patch: pytest.MonkeyPatch) -> None:
    right = quick.Layer.__init__

    def wrong(self: Any, *arguments: Any) -> None:
        right(self, *arguments)
        self._bias = None

    patch.setattr(quick.Layer, "__init__", wrong)


def no_error_of_a_function(patch: pytest.MonkeyPatch) -> None:
    # what is left of the file's rounding is that of products, of which the net here has none
    right = activations.Piecewise._error
    patch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    patch.setattr(
        activations.Piecewise, "_error", lambda *given: 0 * found if (found := right(*given)) is not None else None
    )


MUTATIONS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (no_file_rounding, random_oracle),
    (no_underflow, small_oracle),
    (no_own_rounding, own_oracle),
    (no_room_before, cancelling_oracle),
    (no_length_before, cancelling_oracle),
    (no_distance_before, cancelling_oracle),
    (no_bias, own_oracle),
    (no_error_of_a_function, straight_oracle),
]


@pytest.mark.parametrize(("mutation", "oracle"), MUTATIONS, ids=lambda value: value.__name__)
def test_an_oracle_sees_a_pass_without_a_term(
    monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None], oracle: Callable[[], None]
) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        oracle()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_at_points_are_close_to_what_is_computed_there(dtype: torch.dtype) -> None:
    layers, at = trial(1, 0.0, 0.1)
    proof = Proof(net.graph_of(layers, 3), net.SOURCE, (3,), CLASSES, dtype)
    batch, labels = torch.from_numpy(at), torch.zeros(3, dtype=torch.int64)
    alone = torch.cat([proof.margins_at(point[None], labels[:1]) for point in batch])
    width = -proof.margins_at(batch, 1 - labels) - proof.margins_at(batch, labels)
    assert bool((proof.margins_at(batch, labels) <= alone + 1e-12).all())
    assert 0 <= float(width.min()) <= float(width.max()) < 1e-3
    assert 0 < proof.apart(batch.amin(0, keepdim=True), batch.amax(0, keepdim=True)) < 1e-3
    assert proof.margins_at(batch[:0], labels[:0]).shape == (0, 1)
