"""A factor in front of a matrix product may go behind it (onnxruntime's FusedMatMul)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fused_files import POINT, is_covered, known, model, operators, run
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.bounds.parts import PartBounds
from abscert_plugin.bounds.proof import Proof, arithmetic
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.proof import margin_rows
from abscert_plugin.graph.nodes import read_graph


def scaled_product(small: int, other: int, before: int, behind: int, last: int, is_constant: bool) -> onnx.ModelProto:
    """Return (2^before a) b 2^behind 2^last, where a = 2^small relu(x) and b = 2^other relu(x) or a constant matrix.

    What is multiplied last is held before, so that no runtime takes that factor along.
    """
    nodes: list[tuple[Any, ...]] = [("Mul", "x es", "u"), ("Relu", "u", "a")]
    if is_constant:
        nodes += [("Mul", "a eb", "s"), ("MatMul", "s k", "p")]
    else:
        nodes += [("Mul", "x eo", "v"), ("Relu", "v", "w"), ("Reshape", "w matrix", "b"), ("Reshape", "a row", "r")]
        nodes += [("Mul", "r eb", "s"), ("MatMul", "s b", "p")]
    nodes += [("Mul", "p eh", "q"), ("Relu", "q", "h"), ("Mul", "h el", "y"), ("Flatten", "y", "f")]
    nodes += [("Slice", "f zero two one", "logits")]
    powers = {"es": small, "eo": other, "eb": before, "eh": behind, "el": last}
    constants: dict[str, Any] = {name: 2.0**power for name, power in powers.items()}
    constants |= {"k": np.full((4, 2), 2.0**other), "row": [0, 2, 2], "matrix": [0, 2, 2]}
    constants |= {"zero": [0], "two": [2], "one": [1]}
    used = {name for node in nodes for name in node[1].split()}
    return model(nodes, **{name: value for name, value in constants.items() if name in used})


CASES = {
    # powers of two: of a, of b, in front of the product, behind it, and last
    "the product overflows where its factor comes behind": (70, 62, -100, 0, -30),
    "the product underflows where its factor comes behind": (-80, -80, 60, 40, 60),
    "both are in range": (2, 3, -4, 1, 0),
}


@pytest.mark.parametrize("is_constant", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_factor_in_front_of_a_product_may_come_behind_it(name: str, is_constant: bool, tmp_path: Path) -> None:
    file = scaled_product(*CASES[name], is_constant)
    assert "FusedMatMul" in operators(file, tmp_path)
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)
    differ = not np.array_equal(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False))
    assert differ == (name != "both are in range")
    lower, upper = known(file)
    assert bool((np.isfinite(lower) & (upper - lower < 1e-5 * upper)).all()) == (name == "both are in range")


def test_it_does_in_front_of_sums_of_one_product_too() -> None:
    nodes = (
        ("MatMul", "x column", "c"),
        ("Mul", "c es", "u"),
        ("Relu", "u", "a"),
        ("Mul", "a eb", "s"),
        ("MatMul", "s k", "p"),
        ("Relu", "p", "h"),
        ("Mul", "h el", "logits"),
    )
    powers: dict[str, Any] = {"es": 2.0**70, "eb": 2.0**-100, "k": np.full((1, 2), 2.0**62), "el": 2.0**-30}
    file = model(nodes, column=np.full((4, 1), 0.5), **powers)
    assert not np.isfinite(run(file, POINT, is_fused=True)).all()
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)


@settings(max_examples=20)
@given(st.tuples(*[st.integers(-100, 100)] * 5), st.booleans())
def test_whatever_the_factors_every_evaluation_is_covered(
    powers: tuple[int, int, int, int, int], is_constant: bool
) -> None:
    file = scaled_product(*powers, is_constant)
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)


def without_gain_in_underflow(self: Affine, before: Any, reach: Any, gain: float = 1.0) -> Any:
    del gain
    return UNDERFLOW(self, before, reach)


def without_peak(self: Enclosure, peak: float = 1.0, top: float = arithmetic.LARGEST) -> Enclosure:
    del peak
    return CHECKED(self, 1.0, top)


UNDERFLOW, CHECKED = Affine.underflow_after, Enclosure.checked
MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str, bool]] = {
    "underflow of a chain": (Affine, "underflow_after", without_gain_in_underflow, "underflows", True),
    "overflow of a chain": (Enclosure, "checked", without_peak, "overflows", True),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_proof_that_leaves_it_out_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, changed, what, is_constant = MUTATIONS[name]
    monkeypatch.setattr(owner, attribute, changed)
    case = next(powers for told, powers in CASES.items() if what in told)
    assert not is_covered(scaled_product(*case, is_constant), is_fused=True)


def test_values_that_are_multiplied_have_drafts_of_parts() -> None:
    file = scaled_product(0, 0, 0, 0, 0, is_constant=False)
    proof = Proof(read_graph(file, Path("fused.onnx")), "x", (4,), 2)
    values = proof.intervals(torch.from_numpy(POINT - 1), torch.from_numpy(POINT), refined=True)
    bounds = PartBounds(proof, values, margin_rows(torch.tensor([0]), 2)[0])
    drafts = bounds.improved([bounds.whole()], np.ones((1, 1), dtype=bool), 2)
    assert float(bounds.proven(drafts.parts)[0, 0]) >= float(drafts.bounds[0, 0]) - 1e-4 > -10
