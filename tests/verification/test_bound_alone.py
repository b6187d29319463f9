"""Deciding by one bound alone, as papers report a method: true verdicts, tighter from bound to bound, no other step."""

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
import torch
from ball_oracle import check_decided as check_cells
from ball_oracle import tiny_case
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_oracle import Plain, batch_of, check, check_decided, falling, plain_case

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.forward import crown_lbp_margins
from abscert_plugin.claim import Radius
from abscert_plugin.errors import BoundDefectError
from abscert_plugin.lirpa import bounds as bounds_module
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.verification.batch import BallBatch
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.proving import Prover

BALL = Ball(Radius.parse("0.1"))
TIGHTER = (BoundMethod.CROWN_IBP, BoundMethod.CROWN_LBP, BoundMethod.OPTIMISED)


def alone(method: BoundMethod) -> Budget:
    return Budget(60.0, only=method)


def names_of(method: BoundMethod) -> set[str]:
    """Return what rows may name: where CROWN suffices, nothing was optimised."""
    return {str(method), "crown"} if method is BoundMethod.OPTIMISED else {str(method)}


def decided_by(case: Plain, method: BoundMethod, seed: int, ball: Ball = BALL) -> list[Decided]:
    images, labels = batch_of(case, ball, seed)
    return case.verifier(ball, alone(method)).decide(images, labels, np.arange(len(images)))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(BoundMethod))
@settings(max_examples=8)
@given(
    case=st.integers(0, 11).map(plain_case),
    ball=st.sampled_from(["0", "1/255", "0.05", "0.1", "0.3", "1"]).map(lambda text: Ball(Radius.parse(text))),
    seed=st.integers(0, 2**32),
)
def test_no_image_of_a_ball_that_a_bound_certifies_is_mislabelled(
    method: BoundMethod, case: Plain, ball: Ball, seed: int
) -> None:
    kinds = check(case, ball, seed, alone(method))
    assert {name for _, name in kinds} <= {"forward", *names_of(method)}  # no attack, no search, no other bound


@pytest.mark.slow
@pytest.mark.parametrize("method", list(BoundMethod))
def test_each_bound_certifies_some_and_leaves_some_open(method: BoundMethod) -> None:
    total = Counter[tuple[str, str | None]]()
    for number in range(6):
        total += check(plain_case(number), BALL, number, alone(method))
    assert sum(total["certified", name] for name in names_of(method)) > 5
    assert total["unknown", str(method)] > 5


@pytest.mark.slow
def test_no_tighter_bound_is_below_a_looser_one() -> None:
    """With two hidden layers at most, the planes of LBP are CROWN's own, and both beat intervals."""
    gains = Counter[BoundMethod]()
    for number in range(6):
        case = plain_case(number)
        rows = {method: decided_by(case, method, number) for method in BoundMethod}
        images, labels = batch_of(case, BALL, number)
        lower, upper = map(torch.from_numpy, case.artifact.front.reach(BALL, images).box())
        known = case.white_box.bounder.margins(lower, upper, torch.from_numpy(labels), BoundMethod.CROWN).amin(dim=1)
        for place, crown in enumerate(rows[BoundMethod.CROWN]):
            if crown.record.method == "forward":
                continue
            margins = {method: cast(float, rows[method][place].record.margin) for method in BoundMethod}
            slack = 2e-5 * max(1, *map(abs, margins.values()))
            is_shown = {name: rows[name][place].record.verdict == "certified" for name in BoundMethod}
            if is_shown[BoundMethod.CROWN_LBP]:  # by a proof, in which intervals come first
                assert margins[BoundMethod.CROWN_LBP] == pytest.approx(margins[BoundMethod.CROWN], abs=slack)
            else:
                assert margins[BoundMethod.CROWN_LBP] == pytest.approx(float(known[place]), abs=slack)
            # a proof takes errors off, and tightens hidden values more
            assert is_shown[BoundMethod.CROWN] or margins[BoundMethod.CROWN] >= float(known[place]) - 10 * slack
            assert margins[BoundMethod.CROWN] <= margins[BoundMethod.OPTIMISED] + slack
            gains[BoundMethod.OPTIMISED] += margins[BoundMethod.OPTIMISED] > margins[BoundMethod.CROWN] + slack
            gains[BoundMethod.CROWN_LBP] += margins[BoundMethod.CROWN_LBP] > margins[BoundMethod.CROWN_IBP] + slack
            gains[BoundMethod.CROWN_IBP] += margins[BoundMethod.CROWN_IBP] > margins[BoundMethod.IBP] + slack
    assert min(gains[method] for method in TIGHTER) > 3  # each is above the one before, now and then


@pytest.mark.parametrize("method", list(BoundMethod))
def test_cells_are_decided_by_one_bound_too(method: BoundMethod) -> None:
    case, random = tiny_case(1), np.random.default_rng(0)
    images = random.random((12, *case.artifact.metadata.image_shape), dtype=np.float32)
    labels = case.labels(images, random)
    verifier = case.verifier(BALL, alone(method))
    decided = verifier.decide(images, labels, np.arange(12))
    certified = [item.record.verdict == "certified" for item in decided]
    open_rows = [item.record.verdict == "unknown" for item in decided]
    for item in decided:
        assert item.record.method in ("forward", *names_of(method))
    keep = [place for place in range(12) if not open_rows[place]]
    check_cells(case, BALL, images[keep], labels[keep], [decided[place] for place in keep], verifier.floor)
    assert any(certified)
    assert verifier.configuration["bound"] == str(method)


def raise_float32_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    margins, compute = crown_lbp_margins, LirpaBounder._compute

    def raised(self: LirpaBounder, *rest: Any) -> tuple[object, object]:
        bounds, slopes = compute(self, *rest)
        return bounds + 1, slopes

    monkeypatch.setattr(bounds_module, "crown_lbp_margins", lambda *given: margins(*given) + 1)
    monkeypatch.setattr(LirpaBounder, "_compute", raised)


@pytest.mark.parametrize("method", list(BoundMethod))
def test_a_proof_that_is_raised_is_seen(monkeypatch: pytest.MonkeyPatch, method: BoundMethod) -> None:
    gray = np.full((1, 1, 1, 2), 128 / 255, dtype=np.float32)
    case, ball, label = falling(-5e-4, 138 / 255), Ball(Radius.parse("10/255")), np.array([0])

    def decided() -> Counter[tuple[str, str | None]]:
        rows = case.verifier(ball, alone(method)).decide(gray, label, np.array([0]))
        return check_decided(case, ball, gray, label, rows)

    assert decided() == {("unknown", str(method)): 1}
    raise_float32_bounds(monkeypatch)
    assert decided() == {("unknown", str(method)): 1}, "float32 bounds alone certify"
    margins = Prover.least_margins
    monkeypatch.setattr(Prover, "least_margins", lambda *given, **more: margins(*given, **more) + 1e-3)
    with pytest.raises(BoundDefectError, match="a defect of this bound"):
        decided()
    monkeypatch.setattr(BallBatch, "_points", lambda self, row: self.reach.own[[row] * 16])  # points that show nothing
    with pytest.raises(AssertionError, match="certified, but"):
        decided()
