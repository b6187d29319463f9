"""The claim `ball` for plain images: against every 8-bit image of the ball, and float images all over it."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_oracle import (
    BATCH,
    CLASSES,
    LONG,
    Plain,
    batch_of,
    check,
    check_decided,
    falling,
    layered,
    plain_case,
)
from tiny_networks import with_weight

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.errors import BoundDefectError, GridError, VerifierError
from abscert_plugin.front import Reach
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.verification import refuting
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.batch import BallBatch
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.candidates import Candidates
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.part_margins import PartMargins
from abscert_plugin.verification.proving import Prover

NO_ATTACK = replace(LONG, attacks=False)
ONLY_SEARCH = replace(NO_ATTACK, bounds=())


# --- verdicts ---------------------------------------------------------------------------------------------------------

cases = st.integers(0, 11).map(plain_case)
tiny_or_large = st.sampled_from(["0", "1e-9", "1/255", "3/255", "0.1", "0.3", "1"]).map(Fraction)
float_balls = (tiny_or_large | st.floats(0, 0.4).map(Fraction)).map(lambda radius: Ball(Radius(radius)))
small = st.sampled_from(["0", "1e-9", "1/255", "2/255", "4/255", "8/255", "0.03", "3/254", "1"]).map(Fraction)
uint8_balls = small.map(lambda radius: Ball(Radius(radius), Inputs.UINT8))
seeds = st.integers(0, 2**32)


@pytest.mark.slow
@settings(max_examples=15)
@given(cases, float_balls, seeds)
def test_no_image_of_a_certified_ball_is_mislabelled(case: Plain, ball: Ball, seed: int) -> None:
    check(case, ball, seed)


@pytest.mark.slow
@settings(max_examples=15)
@given(cases, uint8_balls, seeds)
def test_no_8_bit_image_of_a_certified_ball_is_mislabelled(case: Plain, ball: Ball, seed: int) -> None:
    check(case, ball, seed)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", list(Inputs))
def test_verdicts_of_the_search_alone_are_true(inputs: Inputs) -> None:
    total = Counter[tuple[str, str | None]]()
    for number in range(6):
        for radius in ("2/255", "0.05"):
            total += check(plain_case(number), Ball(Radius.parse(radius), inputs), number, ONLY_SEARCH)
    assert {method for _, method in total} == {"forward", "branch and bound"}
    assert total["certified", "branch and bound"] > 100
    assert total["falsified", "branch and bound"] > 5


@pytest.mark.slow
def test_with_time_most_balls_are_decided_and_by_each_step() -> None:
    """Without this, the properties above might hold of verdicts that are all unknown."""
    total = Counter[tuple[str, str | None]]()
    for number in range(7):
        for radius in ("0", "1/255", "0.1", "0.25"):
            total += check(plain_case(number), Ball(Radius.parse(radius)), number)
    kinds = {kind: sum(total[item] for item in total if item[0] == kind) / total.total() for kind, _ in total}
    assert kinds.get("unknown", 0) < 0.05
    assert min(kinds["certified"], kinds["falsified"]) > 0.2  # of hundreds
    assert {("certified", "forward"), ("falsified", "forward"), ("falsified", "gradient attack")} <= set(total)
    assert {("certified", "ibp"), ("certified", "crown-ibp"), ("certified", "branch and bound")} <= set(total)


@pytest.mark.parametrize("inputs", list(Inputs))
def test_a_ball_of_one_image_is_decided_by_its_label(inputs: Inputs) -> None:
    for number in range(4):
        case, ball = plain_case(number), Ball(Radius.parse("1/600" if inputs is Inputs.UINT8 else "0"), inputs)
        images, labels = batch_of(case, ball, number)
        decided = case.verifier(ball).decide(images, labels, np.arange(BATCH))
        for item, image, label in zip(decided, images, labels, strict=True):
            margin = case.margins(image[None], label)[0]
            expected = "certified" if margin > 1e-4 else "falsified" if margin < -1e-4 else None
            assert expected in (None, item.record.verdict)
            assert item.record.method == "forward"


@pytest.mark.parametrize("inputs", list(Inputs))
def test_a_ball_of_all_images_is_certified_only_where_there_is_one_label(inputs: Inputs) -> None:
    ball = Ball(Radius.parse("1"), inputs)
    assert set(check(plain_case(0), ball, 0)) & {("falsified", "gradient attack"), ("falsified", "branch and bound")}
    case = falling(0.1, 1.0)
    images = np.zeros((1, 1, 1, 2), dtype=np.float32)
    labels = np.array([0])
    found = check_decided(case, ball, images, labels, case.verifier(ball).decide(images, labels, np.array([0])))
    assert {verdict for verdict, _ in found} == {"certified"}


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "white_box"), [(LONG, False), (Budget(0.0), True)])
def test_without_network_or_time_nothing_but_the_image_is_decided(budget: Budget, white_box: bool) -> None:
    total = check(plain_case(1), Ball(Radius.parse("0.05")), 0, budget, white_box=white_box)
    assert set(total) <= {("unknown", "none"), ("falsified", "forward"), ("unknown", "forward")}
    assert total["unknown", "none"] > 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_unknown(bad: float) -> None:
    case = plain_case(0)
    name = onnx.load_model(str(case.artifact.path)).graph.node[-1].input[2]
    artifact = Artifact.open(with_weight(case.artifact.path, name, np.array([0, bad, 0])), Provider.CPU)
    verifier = BallVerifier(Deployed(artifact), None, Ball(Radius.parse("0")), LONG)
    images = np.full((1, *case.shape), 0.5, dtype=np.float32)
    for label in range(CLASSES):
        (item,) = verifier.decide(images, np.array([label]), np.array([0]))
        assert (item.record.verdict, item.record.reason) == ("unknown", "a logit is not a finite number")


@pytest.mark.parametrize("works", [0, 1, 2])
def test_a_failing_backend_is_unknown_with_its_reason(monkeypatch: pytest.MonkeyPatch, works: int) -> None:
    case, ball = plain_case(2), Ball(Radius.parse("0.2"))
    images, labels = batch_of(case, ball, 1)
    verifier, run, calls = case.verifier(ball), BlackBox.run, []

    def fail(self: BlackBox, images: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) > works:
            raise VerifierError("onnxruntime failed")
        return run(self, images)

    monkeypatch.setattr(BlackBox, "run", fail)
    decided = verifier.decide(images, labels, np.arange(BATCH))
    assert len(calls) > works
    check_decided(case, ball, images, labels, decided)
    assert any((item.record.verdict, item.record.reason) == ("unknown", "onnxruntime failed") for item in decided)


@pytest.mark.parametrize("pixel", [np.nan, -0.5, 1.5, np.inf])
def test_a_pixel_outside_the_range_is_refused(pixel: float) -> None:
    images = np.zeros((1, *plain_case(0).shape), dtype=np.float32)
    images[0, 0, 0, 0] = pixel
    with pytest.raises(GridError, match="pixels in"):
        plain_case(0).verifier(Ball(Radius.parse("0.1"))).decide(images, np.array([0]), np.array([0]))


# --- planted bugs -----------------------------------------------------------------------------------------------------

GRAY = np.full((1, 1, 1, 2), 128 / 255, dtype=np.float32)
HIGH = 138 / 255
BALLS = [Ball(Radius.parse("10/255"), inputs) for inputs in Inputs]


def on_gray(case: Plain, ball: Ball, budget: Budget = LONG) -> Counter[tuple[str, str | None]]:
    label = np.array([0])
    return check_decided(case, ball, GRAY, label, case.verifier(ball, budget).decide(GRAY, label, np.array([0])))


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("search", [False, True])
def test_proofs_that_are_raised_are_seen(monkeypatch: pytest.MonkeyPatch, ball: Ball, search: bool) -> None:
    case = falling(-5e-4, HIGH)
    budget = ONLY_SEARCH if search else NO_ATTACK  # an attack would find the image before bounds are asked
    assert on_gray(case, ball, budget) == {("falsified", "branch and bound"): 1}
    margins, improved = LirpaBounder.margins, PartBounds.improved

    def raised(self: PartBounds, *rest: Any) -> Drafts:
        return replace(found := improved(self, *rest), bounds=found.bounds + 1e-3)

    monkeypatch.setattr(LirpaBounder, "margins", lambda *arguments: margins(*arguments) + 1e-3)
    monkeypatch.setattr(PartBounds, "improved", raised)
    assert on_gray(case, ball, budget) == {("falsified", "branch and bound"): 1}, "float32 bounds alone certify"
    for owner, name in ((Prover, "least_margins"), (PartMargins, "proven")):
        proven = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, proven=proven, **more: proven(*given, **more) + 1e-3)
    with pytest.raises(BoundDefectError, match="a defect of this bound"):
        on_gray(case, ball, budget)
    monkeypatch.setattr(BallBatch, "_points", lambda self, row: self.reach.own[[row] * 16])  # points that show nothing
    with pytest.raises(AssertionError, match="certified, but"):
        on_gray(case, ball, budget)


@pytest.mark.parametrize(
    ("kept", "biases", "weights"),
    [
        (0, [0.0, -0.5], [1.0, -2.0]),  # mislabels the first pixel x near 1/2 (training scale): where x > 0
        (1, [0.0, 0.5, 1.0], [1.0, -2.0, 1.0]),  # near -1/2: where x < 0
    ],
)
@pytest.mark.parametrize("inputs", list(Inputs))
def test_a_half_of_a_split_that_is_dropped_is_seen(
    monkeypatch: pytest.MonkeyPatch, kept: int, biases: list[float], weights: list[float], inputs: Inputs
) -> None:
    ball, halves = Ball(Radius.parse("1"), inputs), Part.halves
    case = layered([[[1.0, 0.0]] * len(biases), [[0.0] * len(biases), weights]], [biases, [0.25, 0.0]])
    assert on_gray(case, ball, NO_ATTACK) == {("unknown", "branch and bound"): 1}
    monkeypatch.setattr(Part, "halves", lambda *branch: (halves(*branch)[kept],) * 2)
    with pytest.raises((AssertionError, BoundDefectError), match=r"certified, but|a defect"):
        on_gray(case, ball, NO_ATTACK)


@pytest.mark.parametrize("ball", BALLS)
def test_ends_of_the_ball_that_are_rounded_inward_are_seen(monkeypatch: pytest.MonkeyPatch, ball: Ball) -> None:
    case, ends = falling(-5e-4, HIGH), Ball.ends
    assert on_gray(case, ball) == {("falsified", "gradient attack"): 1}

    def inward(self: Ball, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = ends(self, images)
        return low + np.float32(1e-3), high - np.float32(1e-3)

    monkeypatch.setattr(Ball, "ends", inward)
    with pytest.raises(AssertionError, match="certified, but"):  # no point of the narrower ball shows it
        on_gray(case, ball)


@pytest.mark.parametrize("ball", BALLS)
def test_an_attack_that_is_believed_is_seen(monkeypatch: pytest.MonkeyPatch, ball: Ball) -> None:
    case = falling(0.1, HIGH)  # white images are mislabelled, and lie outside the ball

    budget = replace(LONG, bounds=())

    def mistaken(network: object, reach: Reach, *_: object) -> Candidates:
        return Candidates(np.ones_like(reach.images), np.full(len(reach), -1, dtype=np.float32))

    monkeypatch.setattr(refuting, "gradient_attack", mistaken)
    assert on_gray(case, ball, budget) == {("certified", "branch and bound"): 1}

    def believed(self: BallBatch, row: int, point: np.ndarray, method: str) -> bool:
        image = self.reach.image_in(row, point)
        assert image is not None
        self._falsify(row, image, "an image of the ball is mislabelled", method)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(BallBatch, "refute", believed)
        with pytest.raises(AssertionError, match="gets its label"):
            on_gray(case, ball, budget)
    monkeypatch.setattr(Ball, "into", lambda self, centers, images: images)
    monkeypatch.setattr(Ball, "contains", lambda self, center, image: True)
    with pytest.raises(AssertionError, match="lies outside the ball"):
        on_gray(case, ball, budget)
