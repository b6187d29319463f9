"""Oracle: every value of any evaluation in float32, and of the exact one, lies within its enclosure."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import float_evaluation as net
import numpy as np
import pytest
import torch
from float_evaluation import CLASSES, Exact, Layer, Single, random_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof, activations, affine, arithmetic, maps, plan
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.tightening import Tightening

pytestmark = pytest.mark.slow  # the file as a whole


@pytest.fixture(autouse=True)
def _matrices_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let quick proofs compute the nets' layers, which are matrices, as they do convolutions."""
    monkeypatch.setattr(plan, "IN_SINGLE", (maps.Convolution, maps.Matrix))


METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)


def evaluations(
    layers: Sequence[Layer], points: Sequence[np.ndarray], choices: random.Random, count: int
) -> Iterator[dict[str, list[Any]]]:
    """Yield the values of exact evaluations and of random ones in float32."""
    for place in range(count):
        point = points[place % len(points)]
        folds = [choices.random() < 0.5 for _ in layers]
        if place < len(points):
            yield net.evaluate(layers, point, Exact())
            continue
        single = Single(choices, flushes=choices.random() < 0.5, fuses=choices.random() < 0.5)
        with np.errstate(all="ignore"):
            yield net.evaluate(layers, point, single, folds)


def escapes(values: dict[str, list[Any]], enclosures: dict[str, Enclosure]) -> list[str]:
    """Return the names of values that lie outside their enclosures."""
    outside = []
    for name, entries in values.items():
        lower, upper = enclosures[name].computed()
        for entry, low, high in zip(entries, lower[0].tolist(), upper[0].tolist(), strict=True):
            if low == -np.inf and high == np.inf:
                continue
            is_number = isinstance(entry, Fraction) or np.isfinite(entry)
            exact = Fraction(entry) if isinstance(entry, Fraction) else Fraction(float(entry)) if is_number else None
            if exact is None or not Fraction(low) <= exact <= Fraction(high):
                outside.append(name)
    return outside


def check(layers: Sequence[Layer], center: np.ndarray, radius: float, choices: random.Random, count: int) -> None:
    """Raise if a value escapes its enclosure, or a margin is below its bound."""
    width = (np.abs(center) * radius).astype(np.float32)
    low, high = center - width, center + width
    points = [
        low,
        high,
        center,
        *(np.array([choices.choice(ends) for ends in zip(low, high, strict=True)], dtype=np.float32) for _ in range(2)),
    ]
    proof, quick = (
        Proof(net.graph_of(layers, len(center)), net.SOURCE, center.shape, CLASSES, dtype)
        for dtype in (torch.float64, torch.float32)
    )
    box = torch.from_numpy(low)[None], torch.from_numpy(high)[None]
    enclosures = [proof.intervals(*box), proof.intervals(*box, refined=True)]
    bounds = [
        (label, float(proof.margins(*box, torch.tensor([label]), method)))
        for label in range(CLASSES)
        for method in METHODS
    ]
    bounds += [
        (label, float(quick.margins(*box, torch.tensor([label]), method)))
        for label in range(CLASSES)
        for method in METHODS
    ]
    for values in evaluations(layers, points, choices, count):
        for one in enclosures:
            assert escapes(values, one) == []
        logits = values["logits"]
        for label, bound in bounds:
            if bound > -np.inf:
                pair = [Fraction(one) if isinstance(one, Fraction) else Fraction(float(one)) for one in logits]
                assert pair[label] - pair[1 - label] >= Fraction(bound)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([0.0, 1e-6, 0.1, 1.0]))
def test_every_evaluation_lies_within_its_enclosure(seed: int, scale: float, radius: float) -> None:
    chance, inputs = np.random.default_rng(seed), 3
    center = chance.standard_normal(inputs).astype(np.float32)
    check(random_layers(chance, scale, inputs), center, radius, random.Random(seed), 60)


def tiny_net(seed: int) -> list[Layer]:
    """Return a net whose products are subnormal or are flushed."""
    chance = np.random.default_rng(seed)
    weight = (chance.standard_normal((3, 3)) * 1e-30).astype(np.float32)
    bias = (chance.standard_normal(3) * 1e-39).astype(np.float32)
    large = (chance.standard_normal((3, CLASSES)) * 1e25).astype(np.float32)
    return [
        Layer("dense", (weight, bias)),
        Layer("scale", ((chance.standard_normal((1, 3)) * 1e-3).astype(np.float32),)),
        Layer("relu"),
        Layer("dense", (large, np.zeros(CLASSES, np.float32))),
    ]


def folded_to_nothing() -> list[Layer]:
    """Return a net whose weights are normal, their product is subnormal, and the input makes up for it."""
    small = np.full((3, 3), 2.0**-70, np.float32)
    return [
        Layer("dense", (small, np.zeros(3, np.float32))),
        Layer("scale", (np.full((1, 3), 2.0**-70, np.float32),)),
        Layer("dense", (np.full((3, CLASSES), 2.0**40, np.float32), np.zeros(CLASSES, np.float32))),
    ]


def subnormal_weights() -> list[Layer]:
    return [Layer("dense", (np.full((3, CLASSES), 2.0**-127, np.float32), np.zeros(CLASSES, np.float32)))]


@pytest.mark.parametrize("seed", range(6))
def test_subnormal_values_lie_within_their_enclosures(seed: int) -> None:
    center = (np.random.default_rng(seed).standard_normal(3) * 1e-9).astype(np.float32)
    check(tiny_net(seed), center, 0.1, random.Random(seed), 80)


@pytest.mark.parametrize("layers", [folded_to_nothing(), subnormal_weights()])
def test_weights_that_vanish_are_counted_at_large_inputs(layers: list[Layer]) -> None:
    check(layers, np.full(3, 2.0**100, np.float32), 0.0, random.Random(0), 40)


def dense_layers(chance: np.random.Generator, *widths: int) -> list[Layer]:
    return [
        Layer("dense", (chance.standard_normal(pair).astype(np.float32), np.zeros(pair[1], np.float32)))
        for pair in itertools.pairwise(widths)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_dense_layers_in_a_row_are_bounded_as_one(seed: int) -> None:
    """Intervals forget that the entries between them are of one image; the product of both matrices does not."""
    chance = np.random.default_rng(seed)
    layers = [*dense_layers(chance, 3, 8, 4), Layer("relu"), *dense_layers(chance, 4, CLASSES)]
    center = chance.standard_normal(3).astype(np.float32)
    check(layers, center, 0.3, random.Random(seed), 40)
    width = np.abs(center) * np.float32(0.3)
    proof = Proof(net.graph_of(layers, 3), net.SOURCE, (3,), CLASSES)
    box = torch.from_numpy(center - width)[None], torch.from_numpy(center + width)[None]
    loose, tight = (proof.intervals(*box, refined=refined)["v1"] for refined in (False, True))
    is_open = (loose.lower < 0) & (loose.upper > 0)
    assert bool(is_open.any())
    assert bool(((tight.upper - tight.lower) < 0.9 * (loose.upper - loose.lower))[is_open].all())
    (first, second) = (layer.constants[0].astype(np.float64) for layer in layers[:2])
    exact = np.abs(first @ second).T @ width.astype(np.float64)
    assert np.allclose((tight.upper - tight.lower).numpy()[is_open.numpy()] / 2, exact[is_open.numpy()[0]], rtol=1e-6)


def test_a_dense_layer_behind_scaled_entries_is_not_bounded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    scaling = [Layer(kind, (np.full((1, 3), 2, np.float32),)) for kind in ("scale", "shift")]
    layers = [*scaling, *dense_layers(chance, 3, 4), Layer("relu"), *dense_layers(chance, 4, CLASSES)]
    proof = Proof(net.graph_of(layers, 3), net.SOURCE, (3,), CLASSES)

    def never(*arguments: Any) -> None:
        raise AssertionError("a backward pass")

    monkeypatch.setattr(Tightening, "tightened", never)
    ends = torch.full((1, 3), 1.0)
    proof.intervals(-ends, ends, refined=True)


# --- with a term left out, the oracle sees it -------------------------------------------------------------------------


def oracle(seeds: int = 8, scale: float = 1.0) -> None:
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        center = chance.standard_normal(3).astype(np.float32)
        check(random_layers(chance, scale, 3), center, 0.0, random.Random(seed), 40)


def small_oracle() -> None:
    for seed in range(6):
        test_subnormal_values_lie_within_their_enclosures(seed)


def large_input_oracle() -> None:
    for layers in (folded_to_nothing(), subnormal_weights()):
        test_weights_that_vanish_are_counted_at_large_inputs(layers)


def test_the_oracle_sees_a_proof_without_the_files_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    with pytest.raises(AssertionError):
        oracle()


@pytest.mark.parametrize("seen_by", [small_oracle, large_input_oracle])
def test_the_oracle_sees_a_proof_without_underflow(
    monkeypatch: pytest.MonkeyPatch, seen_by: Callable[[], None]
) -> None:
    monkeypatch.setattr(arithmetic, "underflow", lambda count: 0.0)
    with pytest.raises(AssertionError):
        seen_by()


def own_rounding_oracle() -> None:
    """Check the ideal ends alone, at points, against rationals: what is left there is our own rounding."""
    for seed in range(20):
        chance = np.random.default_rng(seed)
        center = chance.standard_normal(3).astype(np.float32)
        layers = [layer for layer in random_layers(chance, 1.0, 3) if layer.kind not in net.HELD]
        proof = Proof(net.graph_of(layers, 3), net.SOURCE, (3,), CLASSES)
        point = torch.from_numpy(center)[None]
        enclosures, exact = proof.intervals(point, point), net.evaluate(layers, center, Exact())
        for name, entries in exact.items():
            for entry, low, high in zip(
                entries, enclosures[name].lower[0].tolist(), enclosures[name].upper[0].tolist(), strict=True
            ):
                assert Fraction(low) <= entry <= Fraction(high)
        first, second = exact["logits"]
        for method in METHODS:
            assert Fraction(float(proof.margins(point, point, torch.tensor([0]), method))) <= first - second


def without_the_files_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    monkeypatch.setattr(arithmetic, "underflow", lambda count: 0.0)


def test_the_proofs_own_rounding_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_files_errors(monkeypatch)
    own_rounding_oracle()


def test_the_oracle_sees_a_proof_without_its_own_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_files_errors(monkeypatch)
    monkeypatch.setattr(arithmetic, "own_gamma", lambda roundings: 0.0)
    with pytest.raises(AssertionError):
        own_rounding_oracle()


def quick_rounding_oracle(dtype: torch.dtype) -> None:
    """Check margins by intervals at points behind activations against rationals."""
    for seed in range(20):
        chance = np.random.default_rng(seed)
        center = chance.standard_normal(3).astype(np.float32)
        layers = random_layers(chance, 0.0, 3)
        proof = Proof(net.graph_of(layers, 3), net.SOURCE, (3,), CLASSES, dtype)
        point = torch.from_numpy(center)[None]
        first, second = net.evaluate(layers, center, Exact())["logits"]
        for label, margin in enumerate((first - second, second - first)):
            for method in METHODS:
                assert Fraction(float(proof.margins(point, point, torch.tensor([label]), method))) <= margin


QUICK = [(torch.float64, "own_gamma"), (torch.float32, "single_gamma")]


@pytest.mark.parametrize(("dtype", "term"), QUICK)
def test_the_quick_passs_own_rounding_is_covered(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, term: str
) -> None:
    without_the_files_errors(monkeypatch)
    quick_rounding_oracle(dtype)
    monkeypatch.setattr(arithmetic, term, lambda roundings: 0.0)
    with pytest.raises(AssertionError):
        quick_rounding_oracle(dtype)


def test_the_oracle_sees_rows_in_float32_that_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_files_errors(monkeypatch)
    monkeypatch.setattr(affine.Affine, "_lose_in_single", lambda *_: None)
    with pytest.raises(AssertionError):
        quick_rounding_oracle(torch.float32)


def test_products_in_float32_cover_what_underflows_there(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.full((3, 2), 2.0**-75, dtype=torch.float64)
    value = held(*(torch.full((1, 3), 2.0**-75 * 1.4, dtype=torch.float64),) * 2)

    def ends() -> torch.Tensor:
        step = affine.Affine("y", "x", maps.InSingle(maps.Matrix(maps.Weights(weight, weight, None))))
        return torch.stack([(found := step.forward({"x": value})).lower, found.upper])

    exact = 3 * Fraction(2.0**-75) * Fraction(2.0**-75 * 1.4)
    assert Fraction(float(ends()[0].max())) <= exact <= Fraction(float(ends()[1].min()))
    monkeypatch.setattr(affine.Affine, "_own_underflow", lambda *_: torch.zeros(1, dtype=torch.float64))
    assert not Fraction(float(ends()[0].max())) <= exact <= Fraction(float(ends()[1].min()))


def line_oracle() -> None:
    """Check margins over wide boxes, where lines leave room."""
    for seed in range(20):
        chance = np.random.default_rng(seed)
        center = chance.standard_normal(3).astype(np.float32)
        check(random_layers(chance, 0.0, 3), center, 1.0, random.Random(seed), 20)


@pytest.mark.parametrize("side", [0, 1])
def test_the_oracle_sees_lines_without_their_offset(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    right = activations.Piecewise.offsets

    def wrong(*arguments: Any) -> list[torch.Tensor]:
        found = list(right(*arguments))
        found[side] = torch.zeros_like(found[side])
        return found

    monkeypatch.setattr(activations.Piecewise, "offsets", wrong)
    with pytest.raises(AssertionError):
        line_oracle()


def test_the_oracle_sees_a_relu_without_its_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    right = activations.Ramp.lines

    def wrong(*arguments: Any) -> tuple[torch.Tensor, ...]:
        return *right(*arguments)[:3], torch.zeros_like(arguments[1])

    monkeypatch.setattr(activations.Ramp, "lines", wrong)
    with pytest.raises(AssertionError):
        line_oracle()


def test_a_relu_has_the_lines_of_its_two_pieces() -> None:
    chance = torch.Generator().manual_seed(0)
    ends = torch.randn(4000, 2, dtype=torch.float64, generator=chance).sort(dim=1).values
    ends[:9] = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 2).sort(dim=1).values
    lower, upper = ends[:, :1], ends[:, 1:]
    ramp, pieces = activations.RELU, activations.Piecewise((0.0,), (0.0, 1.0))
    given = tuple(torch.rand(2, 4000, 1, dtype=torch.float64, generator=chance) * 1.4 - 0.2)
    for below, above in (ramp.slopes(lower, upper), given):
        least, most = ramp.offsets(lower, upper, below, above)
        for one, other in zip((least, most), pieces.offsets(lower, upper, below, above), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    below, above, least, most = ramp.lines(lower, upper)
    points = lower + torch.linspace(0, 1, 101, dtype=torch.float64) * (upper - lower)
    assert bool((below * points + least <= points.clamp(min=0)).all())
    assert bool((above * points + most >= points.clamp(min=0)).all())
    chord = pieces.slopes(lower, upper)[1]
    torch.testing.assert_close(above[upper > lower], chord[upper > lower], rtol=0, atol=1e-13)
    torch.testing.assert_close(ramp.interval(lower, upper), pieces.interval(lower, upper), rtol=0, atol=0)
