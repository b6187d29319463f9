"""Each step of a backward pass, by itself: what it claims holds of files that err as much as they may.

The sums of the steps go from left to right here, and many of their terms are lost on the way. What is claimed is looked
at in float64, which rounds by far less than what any term of the theorem is there for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from guard_oracle import Array, Flushing, InOrder, evaluated
from onnx import helper
from soundness_trials.evaluation import Way

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.guards import backward, layers
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.linear import Weighted
from abscert_plugin.guards.values import Ends, Fact, Line, Rectified

Patch = pytest.MonkeyPatch
TINY = arithmetic.TINY
LOST = 0.99 * 2.0**-25  # what may be taken off 1 and leave it 1
MANY = 600


@dataclass
class Step:
    """A row of y = max(z, 0) on its way back to x, where z is W x + b as a file computes it.

    Args:
        row: of the entries of y.
        matrix: W, [outputs, inputs], or the one weight of a convolution, [1, 1], of as many places as the row has.
        low, high: ends of x.
        bias: b, for each output.
        bias_size: bound of its absolute terms; the sizes of b where it is None.
        roundings, underflow: of z in the file.
        powers: of two, times which ends of x and of z are stored.
    """

    row: Any
    matrix: Any
    low: Any
    high: Any
    bias: Any = None
    bias_size: Any = None
    roundings: int = 1
    underflow: float = 0.0
    powers: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.has_bias = self.bias is not None
        bias = self.bias if self.has_bias else np.zeros(len(self.row))
        size = np.abs(bias) if self.bias_size is None else self.bias_size
        self.row, self.matrix, self.low, self.high, self.bias, self.bias_size = (
            np.asarray(part, np.float32).astype(float)
            for part in (self.row, self.matrix, self.low, self.high, bias, size)
        )
        self.is_conv = self.matrix.shape == (1, 1) and len(self.row) > 1
        # by how much the file may be off
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        size = self._times(np.abs(self.matrix), largest) + self.bias_size
        self.errors = arithmetic.gamma(self.roundings) * size + self.underflow

    def _times(self, matrix: Array, x: Array) -> Array:
        found: Array = x * matrix[0, 0] if self.is_conv else matrix @ x
        return found

    def ends(self) -> tuple[Array, Array]:
        """Return ends of z that hold."""
        middle = self._times(self.matrix, (self.low + self.high) / 2) + self.bias
        spread = self._times(np.abs(self.matrix), (self.high - self.low) / 2) + self.errors
        down, up = (end.astype(np.float32) for end in (middle - spread, middle + spread))
        return np.nextafter(down, np.float32(-np.inf)), np.nextafter(up, np.float32(np.inf))

    def spare(self, way: Way) -> float:
        """Return by how much the claim stays below what the row makes of y, at least of the corners and files tried."""
        (*terms, made) = self._computed(way)
        told, worst, chance = sum(float(term.reshape(())) for term in terms), [], np.random.default_rng(0)
        for sides in (np.zeros(self.low.shape), np.ones(self.low.shape), *(chance.random((4, *self.low.shape)) < 0.5)):
            x = np.where(sides, self.high, self.low)
            for sign in (-1, 0, 1):
                error = sign * np.where(self.row > 0, self.errors, -self.errors)
                y = np.maximum(self._times(self.matrix, x) + self.bias + error, 0)
                worst.append(self.row @ y - told - made.reshape(-1).astype(float) @ x)
        return float(min(worst))

    def _computed(self, way: Way) -> list[Array]:
        emitter, count = Emitter((), 13), len(self.row)
        shape = (1, 1, count) if self.is_conv else (self.low.size,)
        shape_after = (1, 1, count) if self.is_conv else (count,)
        source = stored(emitter, self.low.reshape(shape), self.high.reshape(shape), self.powers[0])
        lower, upper = (end.reshape(shape_after) for end in self.ends())
        before = stored(emitter, lower, upper, self.powers[1])
        fact = Fact(self.roundings, self.underflow, before.top)
        bias, size = (part.reshape(1, *shape_after) if self.has_bias else None for part in (self.bias, self.bias_size))
        line = Line(source, shape, self._weighted(), bias, size, fact)
        turned = line.linear.turned(shape, shape_after)
        assert turned is not None
        row = emitter.constant(self.row.astype(np.float32)[None, None])
        way_back = backward.Pass(emitter, row, 1, float(np.abs(self.row).max()))
        backward.through(way_back, Rectified(line, before, shape_after), turned)
        return evaluation(emitter, [*way_back.terms, way_back.rows], way)

    def _weighted(self) -> Weighted:
        row_sum = float(np.abs(self.matrix).sum(axis=1).max())
        if self.is_conv:
            return Weighted("Conv", {}, self.matrix.reshape(1, 1, 1, 1), 1, row_sum, 0, 4, None)
        return Weighted("Gemm", {"transB": 1}, self.matrix, self.matrix.shape[1], row_sum, 0, 2, None)


def stored(emitter: Emitter, lower: Array, upper: Array, power: int = 0) -> Ends:
    names = [emitter.constant(np.ldexp(end, power).astype(np.float32)[None]) for end in (lower, upper)]
    top = 4 * float(np.maximum(np.abs(lower), np.abs(upper)).max()) + 1
    return Ends(names[0], names[1], power, top, bool((lower >= 0).all()))


def evaluation(emitter: Emitter, names: Sequence[str], way: Way) -> list[Array]:
    graph = helper.make_graph(emitter.nodes, "step", [], [], emitter.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with np.errstate(all="ignore"):
        values = evaluated(model, {}, way)
    return [values[name] for name in names]


def lost_after_one(count: int, size: float = LOST) -> Array:
    """Return 1 and what is lost beside it, one after another."""
    return np.array([1.0, *[size] * (count - 1)])


def step_by_chance(seed: int) -> Step:
    chance = np.random.default_rng(seed)
    outputs, inputs = chance.integers(1, 5, 2)
    low = chance.standard_normal(inputs) * 10.0 ** chance.uniform(-2, 2)
    low = np.abs(low) if seed % 3 == 0 else low
    width = chance.choice([0.0, 1e-6, 0.1, 3.0]) * chance.random(inputs)
    bias = chance.standard_normal(outputs) if seed % 2 else None
    return Step(
        chance.standard_normal(outputs) * (chance.random(outputs) < 0.9),
        chance.standard_normal((outputs, inputs)),
        low,
        low.astype(np.float32) + width,
        bias,
        None if bias is None else np.abs(bias) * chance.choice([1, 100]),
        int(chance.choice([1, 5, 1000])),
        float(chance.choice([0.0, 0.01])),
        (int(chance.integers(0, 3)), int(chance.integers(0, 3))),
    )


def test_a_step_keeps_what_files_that_err_may_give() -> None:
    for seed in range(30):
        for way in (InOrder(), Flushing()):
            assert step_by_chance(seed).spare(way) >= 0, seed


ones, zeros = np.ones, np.zeros
STEPS = {
    "W^T a": Step(lost_after_one(MANY, -LOST), ones((MANY, 1)), ones(1), ones(1)),
    "a b": Step(lost_after_one(MANY, -LOST), [[1e-20]], zeros(MANY), zeros(MANY), ones(MANY)),
    "a tau": Step(-lost_after_one(MANY, 2 * LOST), [[1.0]], -ones(MANY), ones(MANY)),
    "|a| D": Step(lost_after_one(4000), [[1.0]], ones(4000), ones(4000), roundings=900_000),
    "|W| X": Step([1.0], lost_after_one(4000)[None], ones(4000), ones(4000), roundings=900_000),
}
"""Each has a sum that loses many terms."""


@pytest.mark.parametrize("name", STEPS)
def test_terms_that_a_sum_loses_are_made_up_for(name: str, monkeypatch: Patch) -> None:
    assert STEPS[name].spare(InOrder()) >= 0
    monkeypatch.setattr(backward, "_gamma", lambda _: 0.0)
    assert STEPS[name].spare(InOrder()) < 0


def test_products_that_are_flushed_are_made_up_for(monkeypatch: Patch) -> None:
    step = Step([-(2.0**-70)], [[2.0**-70]], [2.0**20], [2.0**20])
    assert step.spare(Flushing()) >= 0
    monkeypatch.setattr(backward.Pass, "lost", lambda *_: None)
    assert step.spare(Flushing()) < 0


def test_a_slope_that_is_less_than_it_could_be_is_made_up_for() -> None:
    assert Step([-1.0], [[2.0**-80]], [-1.0], [1.0]).spare(InOrder()) >= 0  # narrower than the least width


def test_sums_that_round_too_much_are_refused() -> None:
    with pytest.raises(UnsupportedNodeError, match="too long"):
        Step([1.0], [[1.0]], [1.0], [1.0], roundings=10**6).spare(InOrder())


def test_ends_of_no_width_give_numbers() -> None:
    assert Step([1.0, -1.0], zeros((2, 1)), [0.0], [0.0]).spare(Flushing()) >= 0


@pytest.mark.parametrize(
    ("row", "weight", "value"), [(2.0**60, 1.0, 2.0**60), (2.0**60, 2.0**60, 2.0**-60), (1.0, 2.0**60, 2.0**60)]
)
def test_rows_that_could_overflow_are_refused(row: float, weight: float, value: float) -> None:
    with pytest.raises(UnsupportedNodeError, match="too large"):
        Step([row], [[weight]], [-value], [value]).spare(InOrder())


# --- where a pass ends ------------------------------------------------------------------------------------------------


def spare_at_ends(row: Any, low: Any, high: Any, way: Way, power: int = 0) -> float:
    """Return by how much the claim of an end stays below what the row makes of the values there, at least."""
    emitter, (row, low, high) = Emitter((), 13), (np.asarray(part, np.float32) for part in (row, low, high))
    way_back = backward.Pass(emitter, emitter.constant(row[None, None]), 1, float(np.abs(row).max()))
    backward.at_ends(way_back, stored(emitter, low, high, power), row.size)
    told = sum(float(term.reshape(())) for term in evaluation(emitter, way_back.terms, way))
    beside = 8 * TINY
    least = np.minimum(row.astype(float) * (low - beside), row.astype(float) * (high + beside))
    return float(least.sum()) - told


def test_an_end_keeps_all_values_between() -> None:
    for seed in range(20):
        chance, power = np.random.default_rng(seed), seed % 4
        row, low = chance.standard_normal((2, 1 + seed % 5)).astype(np.float32)
        high = low + chance.random(low.shape, np.float32) * np.float32(chance.choice([0, 1e-6, 1]))
        for way in (InOrder(), Flushing()):
            assert spare_at_ends(row, low, high, way, power) >= 0


def test_terms_that_an_end_loses_are_made_up_for(monkeypatch: Patch) -> None:
    given = lost_after_one(MANY, -LOST), ones(MANY), ones(MANY), InOrder()
    small = [-(2.0**-70)], [2.0**-70], [2.0**-70], Flushing()
    assert spare_at_ends(*given) >= 0
    assert spare_at_ends(*small) >= 0
    monkeypatch.setattr(backward.Pass, "lost", lambda *_: None)
    monkeypatch.setattr(backward, "_gamma", lambda _: 0.0)
    assert spare_at_ends(*given) < 0
    assert spare_at_ends(*small) < 0


def test_terms_that_the_last_sum_loses_are_made_up_for(monkeypatch: Patch) -> None:
    def spare() -> float:
        emitter, parts = Emitter((), 13), lost_after_one(40, -LOST)
        terms = [emitter.constant(np.full((1, 1, 1), part, np.float32)) for part in parts]
        way_back = backward.Pass(emitter, "", 1, 1.0, terms)
        (found,) = evaluation(emitter, [backward.summed(way_back)], InOrder())
        return float(parts.astype(np.float32).astype(float).sum()) - float(found.reshape(()))

    assert spare() >= 0
    monkeypatch.setattr(backward, "_gamma", lambda _: 0.0)
    assert spare() < 0


def test_what_the_last_node_may_be_off_by_is_taken_off() -> None:
    emitter, errors, found = Emitter((), 13), (0.0, 1.0, 1000.0), []
    given = [emitter.constant(np.array([[end]], np.float32)) for end in (-1.0, 2.0)]
    hidden = Line(Ends(given[0], given[1], 0, 8.0), (1,), dense(1), None, None, Fact(2, 0.0, 16.0))
    before = layers.line_ends(emitter, hidden)
    held = Ends(before.lower, before.upper, before.power, 16.0, origin=Rectified(hidden, before, (1,)))
    last = Line(held, (1,), dense(2), None, None, Fact(4, 0.0, 64.0))
    label = emitter.constant(np.array([[0]]))
    for error in errors:
        name = emitter.constant(np.full((1, 2), error, np.float32))
        margin = backward.margins(emitter, last, label, name, 2)
        assert margin is not None
        found.append(float(evaluation(emitter, [margin], InOrder())[0][0, 1]))
    assert found[1] <= found[0] - 1
    assert found[2] <= found[0] - 1000


def dense(outputs: int) -> Weighted:
    weights = np.arange(1.0, outputs + 1).reshape(outputs, 1)
    return Weighted("Gemm", {"transB": 1}, weights, 1, float(outputs), 0, 2, None)
