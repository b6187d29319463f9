"""Bounds of parts of a box, whatever their lines and multipliers, against points whose hidden values fit the cuts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part import LEVELS, Cuts, Part, cut
from abscert_plugin.bounds.parts import PartBounds
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.descent import Descent
from abscert_plugin.bounds.proof.draft import Draft, Drafted
from abscert_plugin.bounds.proof.enclosure import held
from abscert_plugin.bounds.proof.proof import margin_rows
from abscert_plugin.bounds.proof.s_shaped import SShaped
from abscert_plugin.graph.nodes import read_graph

FEATURES, WIDTH, CLASSES = 3, 5, 3
RELUS = 2 * WIDTH
POINTS = 3000
EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda z: z.clip(min=0),
    "Tanh": np.tanh,
    "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}
KINDS = (("Relu", "Relu"), ("Tanh", "Tanh"), ("Sigmoid", "Sigmoid"), ("Tanh", "Relu"), ("Relu", "Sigmoid"))


class Case:
    """A network of two hidden layers with a way around the second one, a box, and a part of it."""

    def __init__(self, seed: int, *activations: str) -> None:
        self.random = random = np.random.default_rng(seed)
        self.activations = activations or ("Relu", "Relu")
        shapes = (FEATURES, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH, CLASSES), (CLASSES,)
        self.weights = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
        self.proof = Proof(read_graph(self._model(), Path("net.onnx")), "x", (FEATURES,), CLASSES)
        center, width = random.standard_normal(FEATURES), random.choice([0.1, 0.5, 2.0])
        self.lower, self.upper = (
            torch.from_numpy((center + sign * width)[None].astype(np.float32)) for sign in (-1, 1)
        )
        values = self.proof.intervals(self.lower, self.upper, refined=True)
        self.bounds = PartBounds(self.proof, values, margin_rows(torch.tensor([0]), CLASSES)[0])

    def _model(self) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Gemm", ["x", "w0", "w1"], ["z0"]),
            helper.make_node(self.activations[0], ["z0"], ["h0"]),
            helper.make_node("Gemm", ["h0", "w2", "w3"], ["z1"]),
            helper.make_node(self.activations[1], ["z1"], ["h1"]),
            helper.make_node("Add", ["h0", "h1"], ["sum"]),
            helper.make_node("Gemm", ["sum", "w4", "w5"], ["y"]),
        ]
        tensors = [numpy_helper.from_array(array, f"w{place}") for place, array in enumerate(self.weights)]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
            for name, size in (("x", FEATURES), ("y", CLASSES))
        ]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])

    def part(self) -> Part:
        """Return a part round what some point has, with lines drawn by chance."""
        bent = self.bounds.bent
        known = self.random.permutation(bent)[: self.random.integers(0, len(bent) + 1)]
        point = self._hidden(self.lower.numpy() + self.random.random((1, FEATURES)) * (self.upper - self.lower).numpy())
        cuts: Cuts = {}
        for place in map(int, (*known, *known[:2])):
            value = self.bounds.where_to_cut(cuts, place)
            if value is not None:
                cuts = cut(cuts, place, value)[int(point[0][0, self.order[place]] >= value)]
        slopes = self.random.integers(0, LEVELS + 1, (CLASSES - 1, len(bent))).astype(np.uint8)
        sizes = self.random.choice([0.0, 0.1, 1.0, 30.0], (CLASSES - 1, len(cuts)))
        both = [np.isfinite(known.low) and np.isfinite(known.high) for known in cuts.values()]
        signs = np.where(both, self.random.choice([-1.0, 1.0], sizes.shape), 1.0)
        return Part(slopes, cuts, (signs * sizes * self.random.random(sizes.shape)).astype(np.float32))

    @property
    def order(self) -> np.ndarray:
        """The hidden values in the order of places, ReLUs first."""
        first, second = np.arange(RELUS).reshape(2, WIDTH)
        is_second_first = self.activations[1] == "Relu" != self.activations[0]
        return np.concatenate([second, first] if is_second_first else [first, second])

    def _hidden(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what activations read, and the margins of class 0, in float64."""
        w = [array.astype(np.float64) for array in self.weights]
        first = points @ w[0] + w[1]
        outer = EXACT[self.activations[0]](first)
        second = outer @ w[2] + w[3]
        logits = (outer + EXACT[self.activations[1]](second)) @ w[4] + w[5]
        return np.concatenate([first, second], axis=1), logits[:, :1] - logits[:, 1:]

    def least(self, part: Part) -> np.ndarray:
        """Return the least margins seen at points of the box whose hidden values lie in the part."""
        share = self.random.random((POINTS, FEATURES))
        share[: POINTS // 2] = share[: POINTS // 2].round()
        read, margins = self._hidden(self.lower.numpy() + share * (self.upper - self.lower).numpy())
        has = np.ones(POINTS, dtype=bool)
        for place, (low, high, _) in part.cuts.items():
            has &= (read[:, self.order[place]] >= low) & (read[:, self.order[place]] <= high)
        return np.where(has[:, None], margins, np.inf).min(axis=0)

    def fault(self) -> bool:
        """Return whether a proven bound lies above a margin that was seen, by drawn lines and by those of steps."""
        part = self.part()
        better = self.bounds.improved([part], np.ones((1, CLASSES - 1), dtype=bool), 5).parts
        return bool((self.bounds.proven([part, *better]) > self.least(part)).any())


@pytest.mark.slow
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), activations=st.sampled_from(KINDS))
def test_no_margin_of_a_part_lies_below_its_bound(seed: int, activations: tuple[str, str]) -> None:
    assert not Case(seed, *activations).fault()


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_multipliers_and_slopes_without_meaning_are_seen(monkeypatch: pytest.MonkeyPatch, activation: str) -> None:
    multiplied = Descent.multiplied
    monkeypatch.setattr(Descent, "multiplied", lambda self, name, rows: 2 * rows - multiplied(self, name, rows))
    assert any(Case(seed, activation, activation).fault() for seed in range(40)), "a wrong sign is not seen"


def test_ends_of_cuts_that_are_left_out_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = PartBounds._spread

    def without(self: PartBounds, lines: Any, dtype: torch.dtype) -> Any:
        slopes, multipliers = spread(self, lines, dtype)
        return slopes, {name: (known, 0 * ends) for name, (known, ends) in multipliers.items()}

    monkeypatch.setattr(PartBounds, "_spread", without)
    assert any(Case(seed, "Tanh", "Sigmoid").fault() for seed in range(40))


def test_tangents_that_lie_too_high_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = SShaped.offsets

    def raised(self: SShaped, *what: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        below, above = offsets(self, *what)
        return below + 0.05 * (what[1] - what[0]), above

    monkeypatch.setattr(SShaped, "offsets", raised)
    assert any(Case(seed, "Tanh", "Tanh").fault() for seed in range(40))


def test_what_rows_were_rounded_by_is_taken_off_though_they_cancel() -> None:
    ends = torch.full((1, 1), 1e6, dtype=torch.float64)
    rows = torch.ones((1, 1, 1), dtype=torch.float64)
    descent = Descent({"z": held(-ends, ends)}, {}, multipliers={"z": (rows[0], 0 * rows[0])})
    descent.send("z", descent.multiplied("z", rows))
    assert float(descent.run([], "z", torch.zeros_like(rows), {"z"})) <= -(2.0**-53) * 1e6


def test_a_sign_that_is_taken_for_the_other_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = PartBounds._ends
    monkeypatch.setattr(
        PartBounds,
        "_ends",
        lambda self, lines, dtype: {name: (-high, -low) for name, (low, high) in ends(self, lines, dtype).items()},
    )
    assert any(Case(seed).fault() for seed in range(40))


@pytest.mark.parametrize("activations", [("Relu", "Relu"), ("Tanh", "Sigmoid")])
def test_steps_make_bounds_better_and_drafts_say_what_is_proven(activations: tuple[str, str]) -> None:
    gains = []
    for seed in range(10):
        case = Case(seed, *activations)
        whole = case.bounds.whole()
        wanted = np.ones((1, CLASSES - 1), dtype=bool)
        before, after = (case.bounds.improved([whole], wanted, steps) for steps in (0, 20))
        assert (after.bounds >= before.bounds - 1e-5).all(), "the lines of CROWN are among those that are tried"
        gains.append(float((after.bounds - before.bounds).max()))
        for drafts in (before, after):
            proven = case.bounds.proven(drafts.parts)
            assert (drafts.bounds <= proven + 1e-3 * (1 + np.abs(proven))).all(), "intervals may be better alone"
        every = margin_rows(torch.tensor([0]), CLASSES)
        values = case.proof.intervals(case.lower, case.upper, refined=True)
        crown = case.proof.lower_bounds(values, every, BoundMethod.CROWN).numpy()
        if activations == ("Relu", "Relu"):
            assert (case.bounds.proven(before.parts) >= crown - 1e-9).all()
    assert max(gains) > 0.1


def test_memory_that_ends_makes_groups_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(3)
    parts = [case.bounds.whole()] * 5
    wanted = np.ones((5, CLASSES - 1), dtype=bool)
    plenty = case.bounds.improved(parts, wanted, 2)
    drafted, sizes = Draft.bounds, []

    def scarce(self: Draft, rows: torch.Tensor, *rest: object) -> Drafted:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise MemoryError
        return drafted(self, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Draft, "bounds", scarce)
    again = case.bounds.improved(parts, wanted, 2)
    np.testing.assert_allclose(again.bounds, plenty.bounds, rtol=1e-4)
    assert max(sizes) == 10
    monkeypatch.setattr(Draft, "bounds", lambda *arguments: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        case.bounds.improved(parts[:1], wanted[:1], 2)


def test_lines_that_no_row_gets_to_are_left_as_they_are() -> None:
    random, half = np.random.default_rng(0), numpy_helper.from_array(np.array(0.5, np.float32), "half")
    weights = [random.standard_normal(shape).astype(np.float32) for shape in ((FEATURES, WIDTH), (WIDTH, CLASSES))]
    tensors = [half, *(numpy_helper.from_array(array, f"w{place}") for place, array in enumerate(weights))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Mod", ["h", "half"], ["m"], fmod=1),
        helper.make_node("MatMul", ["m", "w1"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", FEATURES), ("y", CLASSES))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    proof = Proof(read_graph(model, Path("net.onnx")), "x", (FEATURES,), CLASSES)
    values = proof.intervals(-torch.ones(1, FEATURES), torch.ones(1, FEATURES), refined=True)
    bounds = PartBounds(proof, values, margin_rows(torch.tensor([0]), CLASSES)[0])
    whole = bounds.whole()
    assert whole.slopes.size
    (found,) = bounds.improved([whole], np.ones((1, CLASSES - 1), dtype=bool), 5).parts
    assert (found.slopes == whole.slopes).all()
    by_intervals = proof.lower_bounds(values, bounds._rows.unsqueeze(0), BoundMethod.IBP).numpy()
    assert np.array_equal(bounds.proven([found]), by_intervals)
