"""Sums of functions of one value: closer than their terms, and never closer than what any evaluation may give."""

import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bent_sums import WIDTH, bent, number
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from sampled_graphs import Net, sampled

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof, bends
from abscert_plugin.bounds.proof.activations import Ramp
from abscert_plugin.bounds.proof.bends import BentSum
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.graph.nodes import read_graph


def proof_of(net: Net) -> Proof:
    return Proof(read_graph(net.logits(), Path("net.onnx")), "x", net.shape, 3)


def number_of(of: torch.Tensor, place: int) -> Fraction:
    return Fraction(float(of.expand(1, WIDTH)[0, place]))


def of_function(step: Any, point: Fraction) -> Fraction:
    """Return what Relu, Clip or LeakyRelu gives in real numbers."""
    function = step.function
    if isinstance(function, Ramp):
        return max(point, Fraction(0))
    if len(function.kinks) == 2:
        return min(max(point, Fraction(function.kinks[0])), Fraction(function.kinks[1]))
    return point * Fraction(float(function.pieces[0])) if point < 0 else point


class Ideal:
    """Ideal values of a plan's steps in rationals, where what functions read is off by what its chain allows.

    Args:
        proof: whose steps are followed.
        known: its enclosures.
        place: of the entry; all steps act entry by entry.
        chance: where errors come from.
    """

    def __init__(self, proof: Proof, known: Mapping[str, Enclosure], place: int, chance: random.Random) -> None:
        self._steps = {step.output: step for step in proof._plan.steps}
        self._known, self._place, self._chance = known, place, chance

    def value(self, name: str, source: str, point: Fraction) -> Fraction:
        """Return what a tensor is where `source` is, ideally, a point; other values are functions of that."""
        if name == source:
            return point
        step: Any = self._steps[name]
        kind = type(step).__name__
        if kind == "BentSum":
            return self.value(step.total, source, point)
        if kind == "Join":
            first, second = (self.value(part, source, point) for part in (step.first, step.second))
            return first + step.sign * second
        inner = self.value(step.input, source, point)
        if kind == "Affine":
            return inner * number_of(step.map.weights.center, self._place)
        if kind == "Shift":
            return inner * step.sign + (0 if step.bias is None else number_of(step.bias.lower, self._place))
        assert kind == "Activation"
        error = self._known[step.input].error()
        off = Fraction(0) if error is None else number_of(error, self._place)
        return of_function(step, inner + off * self._chance.choice((-1, 0, 1)))


def check(seed: int, radius: float) -> int:
    """Raise if an ideal value leaves the ends of a sum; return how many sums there are."""
    chance = random.Random(seed)
    net = Net(np.random.default_rng(seed), (WIDTH,))
    far = chance.choice((0.0, 1e4))
    net.add("Gemm", net.last, net.constant(np.eye(WIDTH) * chance.choice((1, 1e3)), np.float32), net.floats(WIDTH))
    net.add("Add", net.last, net.constant(far, np.float32))
    net.add("Sub", net.last, net.constant(far, np.float32))  # which leaves an error as of a large number
    bent(net, chance)
    proof = proof_of(net)
    center = torch.tensor([[number(chance) for _ in range(WIDTH)]])
    known = proof.intervals(center - radius, center + radius, refined=chance.random() < 0.5)
    sums = [step for step in proof._plan.steps if isinstance(step, BentSum)]
    for step in sums:
        for place in range(WIDTH):
            ideal, value = Ideal(proof, known, place, chance), known[step.source]
            low, high = number_of(value.lower, place), number_of(value.upper, place)
            points = [low, high, *(low + (high - low) * Fraction(chance.random()) for _ in range(3))]
            points += [bend for bend in bends_of(step, place) if low < bend < high]
            ends = [number_of(end, place) for end in (known[step.output].lower, known[step.output].upper)]
            for point in points:
                for _ in range(6):
                    assert ends[0] <= ideal.value(step.total, step.source, point) <= ends[1]
    return len(sums)


def bends_of(step: BentSum, place: int) -> list[Fraction]:
    found = []
    for term in step.terms:
        slope, offset = (number_of(of.reshape(1, -1), place) for of in (term.line.slope, term.line.offset))
        if term.function is not None and slope:
            found += [(Fraction(kink) - offset) / slope for kink in term.function.kinks]
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-6, 0.5, 20.0]))
def test_no_ideal_value_leaves_the_ends(seed: int, radius: float) -> None:
    check(seed, radius)


def check_many() -> None:
    for seed in range(60):
        check(seed, (0.0, 0.5)[seed % 2])


def test_there_are_such_sums() -> None:
    assert sum(check(seed, 0.5) > 0 for seed in range(20)) > 15


@pytest.mark.parametrize("seed", range(12))
def test_no_runtime_leaves_the_enclosures(seed: int) -> None:
    net = Net(np.random.default_rng(seed), (WIDTH,))
    net.add("Gemm", net.last, net.floats(WIDTH, WIDTH), net.floats(WIDTH))
    bent(net, random.Random(seed))
    net.add("Gemm", net.last, net.floats(WIDTH, WIDTH), net.floats(WIDTH))
    bent(net, random.Random(seed + 1000))
    assert sampled(net.logits(), net.random).excess <= 0


# --- with a term left out, an oracle sees it --------------------------------------------------------------------------


def no_error_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bends, "_apart", lambda function, entered: torch.zeros_like(entered.lower))


def no_bends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ramp, "kinks", ())


def no_own_rounding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bends, "_OWN", 0.0)


@pytest.mark.parametrize("mutation", [no_error_before, no_bends, no_own_rounding], ids=lambda of: of.__name__)
def test_an_oracle_sees_a_sum_without_a_term(
    monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        check_many()


# --- and it is worth it -----------------------------------------------------------------------------------------------


def ramp() -> Net:
    """Return a net of two ramps between 0 and 1 written out by ReLUs, of which one is subtracted from the other."""
    net = Net(np.random.default_rng(0), (2,))
    net.add("Mul", net.last, net.constant(10, np.float32))
    first = net.add("Relu", net.last)
    shifted = net.add("Sub", net.nodes[0].output[0], net.constant(1, np.float32))
    net.add("Sub", first, net.add("Relu", shifted))
    return net


def test_a_ramp_is_as_close_as_it_is() -> None:
    net = ramp()
    last = net.last
    proof = proof_of(net)
    box = torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 0.05]])
    lower, upper = proof.intervals(*box)[last].computed()
    assert torch.allclose(lower, torch.zeros(1, 2).double(), atol=1e-5)
    assert torch.allclose(upper, torch.tensor([[1.0, 0.5]]).double(), atol=1e-5)


def test_intervals_stop_at_a_sum() -> None:
    """A margin of two ramps, each between 0 and 1, is at least -1; term by term it would be -10."""
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    net = ramp()
    net.tensors.append(weight)
    net.add("MatMul", net.last, "w")
    model = net.model(net.last)
    graph = read_graph(model, Path("net.onnx"))
    box, labels = (torch.full((1, 2), -1.0), torch.full((1, 2), 1.0)), torch.tensor([0])
    for dtype in (torch.float64, torch.float32):
        for method in (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN):
            bound = float(Proof(graph, "x", (2,), 2, dtype).margins(*box, labels, method))
            assert -1.001 <= bound <= -1


def test_a_sum_of_functions_of_two_values_stays_as_it_is() -> None:
    net = Net(np.random.default_rng(0), (WIDTH,))
    first = net.add("Gemm", "x", net.floats(WIDTH, WIDTH))
    second = net.add("Gemm", "x", net.floats(WIDTH, WIDTH))
    net.add("Add", net.add("Relu", first), net.add("Relu", second))
    assert not any(isinstance(step, BentSum) for step in proof_of(net)._plan.steps)


@pytest.mark.parametrize("twice", [True, False])
def test_long_chains_of_sums_take_little(twice: bool) -> None:
    """Each sum that is read twice would double what there is to look at, and Python calls no function too deep."""
    net = Net(np.random.default_rng(0), (WIDTH,))
    first = net.add("Gemm", "x", net.floats(WIDTH, WIDTH))
    for _ in range(40 if twice else 500):
        read, constant = net.last, net.constant(0.1, np.float32)
        net.add("Sub", read, net.add("Mul", read, constant) if twice else constant)
    net.add("Add", net.last, net.add("Relu", first))
    proof_of(net)


def test_a_term_looks_back_no_farther_than_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 20 sums read is a line of 300 values; a file that is small would take minutes to open."""
    asked, factor = list[Any](), bends._factor
    net = Net(np.random.default_rng(0), (WIDTH,))
    for _ in range(300):
        net.add("Add", net.last, net.constant(0.1, np.float32))
    read, last = net.last, net.add("Relu", net.last)
    for _ in range(20):
        last = net.add("Add", last, net.add("Relu", read))

    def counted(step: Any) -> torch.Tensor | None:
        asked.append(step)
        return factor(step)

    monkeypatch.setattr(bends, "_factor", counted)
    proof_of(net)
    assert len(asked) < 2000
