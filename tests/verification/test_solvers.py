"""Solvers of other packages: what they answer is checked before it is recorded, and what fails is `unknown`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from ball_oracle import Tiny, check_decided, tiny, tiny_case
from tiny_networks import SHAPE, constant_network, tiny_data
from torch import nn

from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Arithmetic, Claim, Inputs, Radius
from abscert_plugin.errors import BoundDefectError, ConfigError, VerifierError
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.verification import solvers
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.batch import BallBatch
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided, Decider
from abscert_plugin.verification.opening import BallQuestion, NetworkChoice
from abscert_plugin.verification.solvers import CheckedSolver, SolverEntry, open_solver

BALL = Ball(Radius.parse("0.2"))
GRAY = np.full((1, *SHAPE), 0.55, dtype=np.float32)  # with BALL and 3 cells: 16 combinations
Answer = Callable[[np.ndarray, np.ndarray, np.ndarray], Sequence[Decided]]


@dataclass(frozen=True)
class Says:
    """A solver that gives the answers of a function."""

    answer: Answer
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]

    def decide(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Sequence[Decided]:
        return self.answer(images, labels, index)


def row(index: int, label: int, verdict: str, ball: Ball = BALL, **other: Any) -> Record:
    facts: dict[str, Any] = {
        "prediction": label,
        "claim": Claim.BALL,
        "radius": float(ball.radius.given),
        "radius_scale": str(ball.radius.scale),
        "inputs": str(ball.inputs),
        "reason": "so it says",
        "method": "its own",
        "reachable_log2": None,
        "margin": None,
        "seconds": 0.0,
        "counterexample": "anything" if verdict == "falsified" else None,
        "schema": 1,
    }
    return Record(index=index, label=label, verdict=verdict, **(facts | other))


def always(verdict: str, image: Any = None, ball: Ball = BALL, **other: Any) -> Answer:
    def answer(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> list[Decided]:
        pairs = zip(index.tolist(), labels.tolist(), strict=True)
        facts = [{"index": at, "label": label, "verdict": verdict, "ball": ball} | other for at, label in pairs]
        return [Decided(row(**of_one), image) for of_one in facts]

    return answer


def checked(case: Tiny, answer: Answer, ball: Ball = BALL) -> CheckedSolver:
    return CheckedSolver("other", Says(answer, {}, {}), case.deployed, ball, Budget(60.0), {}, {})


def one(case: Tiny, answer: Answer, label: int = 0, image: np.ndarray = GRAY, ball: Ball = BALL) -> Decided:
    (item,) = checked(case, answer, ball).decide(image, np.array([label]), np.array([7]))
    return item


@pytest.fixture(scope="module")
def right() -> Tiny:
    """Return a classifier that gives every image the label 0, by a margin of 1."""
    return tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))


def threshold(at: float) -> Tiny:
    """Return a classifier of 3 cells whose margin of label 0 is `at` - sum of the lower edges (training scale)."""
    last = nn.Linear(8, 3)
    network = nn.Sequential(nn.Flatten(), last).requires_grad_(False)
    last.weight.zero_()
    last.bias.zero_()
    last.bias[0], last.bias[2] = at, -100.0
    last.weight[1, :4] = 1.0
    return tiny(network, Grid(3))


@pytest.fixture(scope="module")
def corner() -> Tiny:
    """Return a classifier that mislabels just the images whose pixels all lie in the last of 3 cells."""
    return threshold(1.0)


LAST = np.full(SHAPE, 0.7, dtype=np.float32)


# --- answers that hold ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "recorded"), [(None, None), (0.5, 0.5), (1.0, 1.0)])
def test_a_certificate_that_no_point_contradicts_is_recorded_under_its_name(
    right: Tiny, margin: float | None, recorded: float | None
) -> None:
    record = one(right, always("certified", margin=margin)).record
    assert (record.verdict, record.method, record.margin) == ("certified", "other", recorded)
    assert record.counterexample is None
    assert (record.index, record.label, record.prediction, record.radius) == (7, 0, 0, 0.2)


def test_a_counterexample_is_replayed_and_recorded(corner: Tiny) -> None:
    item = one(corner, always("falsified", LAST))
    record = item.record
    assert (record.verdict, record.method, record.counterexample) == (
        "falsified",
        "other",
        "counterexamples/00000007.npy",
    )
    assert record.margin is not None
    assert record.margin < 0
    assert item.counterexample is not None
    assert (item.counterexample == LAST).all()


def test_unknown_keeps_its_reason(right: Tiny) -> None:
    record = one(right, always("unknown", reason="out of ideas")).record
    assert (record.verdict, record.reason, record.method) == ("unknown", "out of ideas", "other")


def test_it_is_not_asked_for_what_the_file_decides_alone(right: Tiny) -> None:
    asked: list[int] = []

    def answer(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Sequence[Decided]:
        asked.extend(index.tolist())
        return always("certified")(images, labels, index)

    images = np.repeat(GRAY, 3, axis=0)
    found = checked(right, answer).decide(images, np.array([0, 1, 0]), np.array([4, 5, 6]))
    assert asked == [4, 6]
    assert [item.record.verdict for item in found] == ["certified", "falsified", "certified"]
    assert (found[1].record.method, found[1].record.counterexample) == ("forward", "itself")


@pytest.mark.parametrize("of_ball_alone", [True, False])
def test_no_finite_logits_at_a_point_certify_nothing(
    right: Tiny, monkeypatch: pytest.MonkeyPatch, of_ball_alone: bool
) -> None:
    run = BlackBox.run

    def run_with_nan(self: BlackBox, images: np.ndarray) -> np.ndarray:
        bright = np.asarray((images > 0.6).all(axis=(1, 2, 3)))
        return np.where(bright[:, None], np.float32(np.nan), run(self, images))

    monkeypatch.setattr(BlackBox, "run", run_with_nan)
    batch = BallBatch(right.deployed, right.deployed.front.reach(BALL, GRAY), np.array([0]), np.array([7]), 60.0)
    (item,) = batch.run(
        [batch.forward, lambda _: batch.certify({0: 0.5}, "a bound", "crown", Arithmetic.REAL, of_ball_alone)]
    )
    assert (item.record.verdict, item.record.reason) == ("unknown", "a logit is not a finite number")


def test_a_solver_named_forward_stores_its_counterexample(corner: Tiny) -> None:
    solver = CheckedSolver("forward", Says(always("falsified", LAST), {}, {}), corner.deployed, BALL, Budget(), {}, {})
    (item,) = solver.decide(GRAY, np.array([0]), np.array([7]))
    assert item.record.counterexample == "counterexamples/00000007.npy"


# --- answers that do not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [None, 0.5])
def test_a_certificate_that_a_point_contradicts_stops_the_run(corner: Tiny, margin: float | None) -> None:
    with pytest.raises(BoundDefectError, match=r"image 7 by other .* a defect"):
        one(corner, always("certified", margin=margin))


def test_points_around_the_ball_contradict_nothing() -> None:
    # 8-bit images within 1/255 of 115/255 have pixels in cells 0 and 2; images with one in cell 1 are mislabelled
    grid = Grid.from_inner_edges([114.2 / 255, 114.8 / 255])
    first, last, edge = nn.Linear(8, 3), nn.Linear(3, 3), float(grid.training_edges[1])
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).requires_grad_(False)
    for tensor in (first.weight, last.weight, first.bias, last.bias):
        tensor.zero_()
    first.weight[:, 0] = 400.0
    first.bias[:] = torch.tensor([1.0, 0.0, -1.0]) - 400.0 * edge
    last.weight[1] = torch.tensor([1.0, -2.0, 1.0])  # 1 at the edge of cell 1, 0 at the others
    last.bias[0] = 0.5
    case, ball = tiny(network, grid), Ball(Radius.parse("1/255"), Inputs.UINT8)
    assert [int(case.table[cell, 0, 0, 0].argmax()) for cell in range(3)] == [0, 1, 0]
    image = np.full((1, *SHAPE), np.float32(115) / np.float32(255))
    batch = BallBatch(case.deployed, case.deployed.front.reach(ball, image), np.array([0]), np.array([7]), 60.0)
    with pytest.raises(BoundDefectError):
        batch.certify({0: 0.4}, "a bound", "of the whole box", Arithmetic.REAL)
    item = one(case, always("certified", ball=ball, margin=0.4), 0, image, ball)
    assert item.record.verdict == "certified"


@pytest.mark.parametrize("margin", [0.0, -1.0, 1e-9, float("nan")])
def test_a_bound_within_the_floor_certifies_nothing(right: Tiny, margin: float) -> None:
    record = one(right, always("certified", margin=margin)).record
    assert record.verdict == "unknown"
    assert "not above the floor" in record.reason


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "no float32 image"),
        ("itself", "no float32 image"),
        (LAST[0], "no float32 image"),
        (LAST.astype(np.float64), "no float32 image"),
        (np.full(SHAPE, np.nan, dtype=np.float32), "no float32 image"),
        (np.full(SHAPE, 1.5, dtype=np.float32), "no float32 image"),
        (np.full(SHAPE, 0.9, dtype=np.float32), "outside the ball"),
        (GRAY[0], "not mislabelled"),
    ],
)
def test_a_counterexample_that_is_none_refutes_nothing(corner: Tiny, image: Any, words: str) -> None:
    def answer(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> list[Decided]:
        decided = object.__new__(Decided)
        object.__setattr__(decided, "record", row(7, 0, "falsified"))
        object.__setattr__(decided, "counterexample", image)
        return [decided]

    item = one(corner, answer)
    assert (item.record.verdict, item.record.method, item.counterexample) == ("unknown", "other", None)
    assert words in item.record.reason


def test_membership_is_exact(corner: Tiny) -> None:
    farthest = np.float32(0.75)
    while Fraction(float(farthest)) > Fraction(float(GRAY.flat[0])) + Fraction(1, 5):
        farthest = np.nextafter(farthest, np.float32(0))
    while Fraction(float(np.nextafter(farthest, np.float32(1)))) <= Fraction(float(GRAY.flat[0])) + Fraction(1, 5):
        farthest = np.nextafter(farthest, np.float32(1))
    inside = one(corner, always("falsified", np.full(SHAPE, farthest)))
    outside = one(corner, always("falsified", np.full(SHAPE, np.nextafter(farthest, np.float32(1)))))
    assert (inside.record.verdict, outside.record.verdict) == ("falsified", "unknown")


@pytest.mark.parametrize("verdict", ["certified", "falsified"])
@pytest.mark.parametrize(
    "other",
    [
        {"index": 8},
        {"label": 1},
        {"claim": "cell"},
        {"radius": 0.1},
        {"radius_scale": "training"},
        {"inputs": "uint8"},
    ],
)
def test_an_answer_to_another_question_decides_nothing(corner: Tiny, verdict: str, other: dict[str, Any]) -> None:
    record = one(corner, always(verdict, LAST if verdict == "falsified" else None, **other)).record
    assert record.verdict == "unknown"
    assert "it answered" in record.reason
    assert (record.index, record.label, record.claim, record.radius, record.inputs) == (7, 0, "ball", 0.2, "float")


def test_a_verdict_that_is_none_decides_nothing(right: Tiny) -> None:
    record = one(right, always("safe")).record
    assert (record.verdict, record.reason) == ("unknown", "it answered 'safe'")


def fails(*_: np.ndarray) -> Sequence[Decided]:
    raise RuntimeError("no\nluck")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fails, "RuntimeError: no luck"),
        (lambda *_: [], "expected 1 answers, got 0"),
        (lambda images, labels, index: 2 * list(always("certified")(images, labels, index)), "got 2"),
        (lambda *_: None, "TypeError"),
        (lambda *_: ["certified"], "Error: "),
        (always("certified", margin="high"), "TypeError"),
    ],
)
def test_an_error_of_the_solver_is_unknown_with_its_reason(right: Tiny, answer: Answer, words: str) -> None:
    record = one(right, answer).record
    assert (record.verdict, record.method) == ("unknown", "other")
    assert record.reason.startswith("the solver other failed: ")
    assert words in record.reason
    assert "\n" not in record.reason


def test_a_solver_cannot_change_what_it_is_asked_about(right: Tiny) -> None:
    def answer(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Sequence[Decided]:
        answers = always("certified")(images, labels, index)
        images[:], labels[:], index[:] = 0, 1, 0
        return answers

    images, labels, index = GRAY.copy(), np.array([0]), np.array([7])
    (item,) = checked(right, answer).decide(images, labels, index)
    assert item.record.verdict == "certified"
    assert ((images == GRAY).all(), labels[0], index[0]) == (True, 0, 7)


@pytest.mark.parametrize("number", range(6))
def test_our_verifier_asked_as_a_foreign_solver_is_true_to_the_oracle(number: int) -> None:
    case = tiny_case(number)
    verifier = case.verifier(BALL)
    images = np.random.default_rng(number).random((16, *SHAPE), dtype=np.float32)
    labels = case.labels(images, np.random.default_rng(number))
    solver = CheckedSolver("other", verifier, case.deployed, BALL, Budget(60.0), {}, {})
    decided = solver.decide(images, labels, np.arange(16))
    check_decided(case, BALL, images, labels, decided)
    own = verifier.decide(images, labels, np.arange(16))
    assert [item.record.verdict for item in decided] == [item.record.verdict for item in own]


# --- opening ----------------------------------------------------------------------------------------------------------


def entry(name: str, opened: Callable[..., Decider]) -> dict[str, SolverEntry]:
    return {name: SolverEntry(name, "for a test", opened)}


class Table(dict[str, SolverEntry]):
    def named(self, name: str) -> SolverEntry:
        return self[name]


def opened(
    case: Tiny, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], ball: Ball = BALL, **chosen: Any
) -> Decider:
    monkeypatch.setattr(solvers, "SOLVERS", Table(entry("other", make)))
    budget, choice = chosen.get("budget", Budget(3.0)), chosen.get("choice", NetworkChoice())
    return open_solver("other", BallQuestion(case.artifact, tiny_data(4), ball, budget, choice))[0]


def test_its_configuration_is_kept_and_cannot_hide_the_claim(right: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    says = Says(always("certified"), {"depth": (3, 4), "radius": "9", "solver": "abscert"}, {"itself": "1.0"})
    decider = opened(right, monkeypatch, lambda *_: says)
    expected = {"depth": [3, 4], "claim": "ball", "radius": "1/5", "inputs": "float", "solver": "other"}
    assert expected.items() <= decider.configuration.items()
    assert dict(decider.versions) == {"itself": "1.0"}


def test_one_that_cannot_be_opened_is_one_line(right: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Decider:
        raise RuntimeError("no\nlicence")

    with pytest.raises(ConfigError, match="the solver other cannot be opened: RuntimeError: no licence"):
        opened(right, monkeypatch, fail)
    with pytest.raises(ConfigError, match=r"cannot be opened: (AttributeError|TypeCheckError)"):
        opened(right, monkeypatch, lambda *_: object())
    with pytest.raises(ConfigError, match="cannot be opened: TypeError: Object of type set is not JSON serializable"):
        opened(right, monkeypatch, lambda *_: Says(fails, {"depth": {1}}, {}))

    def refuse(*_: object) -> Decider:
        raise VerifierError("expected a network of ReLU")

    with pytest.raises(VerifierError, match=r"^expected a network of ReLU$"):
        opened(right, monkeypatch, refuse)


@pytest.mark.parametrize(
    "chosen", [{"choice": NetworkChoice(black_box=True)}, {"budget": Budget(only=BoundMethod.CROWN)}]
)
def test_options_of_our_own_verifier_are_refused(
    right: Tiny, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="with --solver other"):
        opened(right, monkeypatch, lambda *_: Says(always("certified"), {}, {}), **chosen)


def test_our_own_is_the_verifier_and_its_configuration_names_no_solver(right: Tiny) -> None:
    decider, note = open_solver("abscert", BallQuestion(right.artifact, tiny_data(4), BALL, Budget()))
    assert (type(decider), note, "solver" in decider.configuration) == (BallVerifier, "", False)
    assert dict(decider.configuration) == dict(right.verifier(BALL, Budget()).configuration)
    assert dict(solvers.SOLVERS["abscert"].open(right.artifact, tiny_data(4), BALL, Budget()).configuration) == dict(
        decider.configuration
    )


def test_an_unknown_solver_lists_those_there_are(right: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"expected a solver: one of abscert.*; got 'fig'"):
        open_solver("fig", BallQuestion(right.artifact, tiny_data(4), BALL, Budget()))
