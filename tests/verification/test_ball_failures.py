"""The claim `ball` where something fails: only ever `unknown`; and planted bugs, which the oracle must see."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from ball_oracle import Tiny, check_decided, tiny, tiny_case
from tiny_networks import SHAPE, constant_network, export_tiny, tiny_network, with_weight
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.bounds.bounder import BoundMemoryError
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.claim import Radius
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.front import Cells, Reach
from abscert_plugin.grid import Grid, float32_within
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.verification import refuting
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.batch import BallBatch
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.candidates import Candidates
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.part_margins import PartMargins
from abscert_plugin.verification.proving import Prover

BALL = Ball(Radius.parse("0.2"))
NOT_RUN_WHOLE = Budget(60.0, exhaustive=1)
NO_ATTACK = replace(NOT_RUN_WHOLE, attacks=False, leaf=1)
ONLY_SEARCH = replace(NO_ATTACK, bounds=())
GRAY = np.full((1, *SHAPE), 0.45, dtype=np.float32)  # with BALL and 3 cells: 16 combinations


def check(case: Tiny, ball: Ball, images: np.ndarray, labels: np.ndarray, budget: Budget) -> None:
    verifier = case.verifier(ball, budget)
    decided = verifier.decide(images, labels, np.arange(len(images)))
    check_decided(case, ball, images, labels, decided)


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("white_box", [True, False])
@pytest.mark.parametrize(
    ("logits", "label", "verdict"),
    [([1.0, 1.0, 1.0], 0, "unknown"), ([1.0, 1.0, 0.0], 1, "unknown"), ([1.0, 1.0, 0.0], 2, "falsified")],
)
def test_ties_are_unknown(logits: list[float], label: int, verdict: str, white_box: bool) -> None:
    verifier = tiny(constant_network(logits), Grid(3)).verifier(BALL, white_box=white_box)
    (item,) = verifier.decide(GRAY, np.array([label]), np.array([0]))
    assert item.record.verdict == verdict
    assert ("within the floor" in item.record.reason) == (verdict == "unknown")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_unknown(tmp_path: Path, bad: float) -> None:
    path = with_weight(export_tiny(tiny_network(0), 3, tmp_path).deploy, "3.bias", np.array([0, bad, 0]))
    artifact = Artifact.open(path, Provider.CPU)
    verifier = BallVerifier(Deployed(artifact), None, BALL, Budget())
    for label in range(3):
        (item,) = verifier.decide(GRAY, np.array([label]), np.array([0]))
        assert (item.record.verdict, item.record.margin, item.counterexample) == ("unknown", None, None)
        assert item.record.reason == "a logit is not a finite number"


def nan_on_one_combination(case: Tiny) -> Callable[[BlackBox, np.ndarray], np.ndarray]:
    """Return a backend that gives no numbers where every pixel lies in the last cell that GRAY reaches."""
    run, worst = BlackBox.run, Grid(3).reachable(GRAY, 0.2)[1]

    def run_with_nan(self: BlackBox, images: np.ndarray) -> np.ndarray:
        logits = run(self, images).copy()
        logits[(Grid(3).cell(images) == worst).all(axis=(1, 2, 3))] = np.nan
        return logits

    return run_with_nan


@pytest.mark.parametrize("budget", [Budget(60.0), NOT_RUN_WHOLE])
@pytest.mark.parametrize("white_box", [True, False])
def test_one_combination_without_a_number_is_not_certified(
    monkeypatch: pytest.MonkeyPatch, budget: Budget, white_box: bool
) -> None:
    case = tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))
    verifier = case.verifier(BALL, budget, white_box=white_box)
    (before,) = verifier.decide(GRAY, np.array([0]), np.array([0]))
    assert before.record.verdict == "certified"
    if white_box:  # bounds of the network know nothing of the backend
        verifier = case.verifier(BALL, replace(budget, bounds=(), attacks=False))
    monkeypatch.setattr(BlackBox, "run", nan_on_one_combination(case))
    (after,) = verifier.decide(GRAY, np.array([0]), np.array([0]))
    assert (after.record.verdict, after.record.reason) == ("unknown", "a logit is not a finite number")


@pytest.mark.parametrize("works", range(4))
@pytest.mark.parametrize("white_box", [True, False])
def test_a_failing_backend_is_unknown_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, works: int, white_box: bool
) -> None:
    case = tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))
    verifier = case.verifier(BALL, replace(NOT_RUN_WHOLE, bounds=()), white_box=white_box)
    run, calls = BlackBox.run, []

    def fail(self: BlackBox, images: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) > works:
            raise VerifierError("onnxruntime failed: out of memory")
        return run(self, images)

    monkeypatch.setattr(BlackBox, "run", fail)
    (item,) = verifier.decide(GRAY, np.array([0]), np.array([0]))
    if len(calls) > works:
        assert (item.record.verdict, item.record.reason) == ("unknown", "onnxruntime failed: out of memory")
    else:
        assert item.record.verdict == "certified"
    assert works > 0 or item.record.verdict == "unknown"


def test_the_interval_network_is_refused(tmp_path: Path) -> None:
    abstract = export_tiny(tiny_network(0), 3, tmp_path).abstract
    assert abstract is not None
    artifact = Artifact.open(abstract, Provider.CPU)
    with pytest.raises(UnsupportedModelError, match=r"expected a deploy\.onnx"):
        Deployed(artifact)


def limited(most: int, sizes: list[int]) -> dict[str, Callable[..., object]]:
    """Return methods of a bounder that has memory for so many boxes, and note how many it was asked for."""
    former = {name: getattr(LirpaBounder, name) for name in ("margins", "linear_margins")}

    def limit(name: str) -> Callable[..., object]:
        def bound(self: LirpaBounder, lower: torch.Tensor, *arguments: Any) -> object:
            sizes.append(len(lower))
            if len(lower) > most:
                raise BoundMemoryError("memory does not suffice; try fewer at once")
            return former[name](self, lower, *arguments)

        return bound

    return {name: limit(name) for name in former}


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3, 0])
@pytest.mark.parametrize("only_search", [True, False])
def test_too_little_memory_halves_the_batch_and_no_memory_is_unknown(
    monkeypatch: pytest.MonkeyPatch, most: int, only_search: bool
) -> None:
    case = tiny_case(3)
    random = np.random.default_rng(0)
    images = random.random((16, *SHAPE), dtype=np.float32)
    labels = case.labels(images, random)
    sizes: list[int] = []
    for name, method in limited(most, sizes).items():
        monkeypatch.setattr(LirpaBounder, name, method)
    verifier = case.verifier(BALL, ONLY_SEARCH if only_search else NO_ATTACK)
    decided = verifier.decide(images, labels, np.arange(16))
    assert max(sizes) > most
    assert min(sizes) == 1 or most > 1
    unknown = [item.record.reason for item in decided if item.record.verdict == "unknown"]
    if most:
        assert any(
            item.record.verdict == "certified" and cast(float, item.record.reachable_log2) > 0 for item in decided
        )
        check_decided(case, BALL, images, labels, decided)
    else:
        assert unknown
        assert all("memory does not suffice" in reason for reason in unknown)


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 5, 20])
def test_more_images_than_are_searched_at_once_are_all_bounded_when_memory_ends(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A branch that no call takes has no bound, and an image without open branches would count as certified."""
    case = tiny_case(3)
    random = np.random.default_rng(1)
    budget = replace(ONLY_SEARCH, branches_at_once=8)
    count = 2 * budget.branches_at_once + 7
    images = random.random((count, *SHAPE), dtype=np.float32)
    labels = case.labels(images, random)
    for name, method in limited(most, []).items():
        monkeypatch.setattr(LirpaBounder, name, method)
    verifier = case.verifier(BALL, budget)
    decided = verifier.decide(images, labels, np.arange(count))
    searched = [item for item in decided if item.record.method == "branch and bound"]
    assert len(searched) > budget.branches_at_once
    assert all(item.record.margin is not None for item in searched)
    check_decided(case, BALL, images, labels, decided)


def test_bounds_that_fail_leave_the_image_to_running_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LirpaBounder, *arguments: Any) -> object:
        raise VerifierError("auto_LiRPA failed")

    monkeypatch.setattr(LirpaBounder, "margins", fail)
    monkeypatch.setattr(LirpaBounder, "linear_margins", fail)
    case = tiny_case(3)
    images = np.random.default_rng(1).random((16, *SHAPE), dtype=np.float32)
    check_labels = case.labels(images, np.random.default_rng(0))
    decided = case.verifier(BALL, NOT_RUN_WHOLE).decide(images, check_labels, np.arange(16))
    check_decided(case, BALL, images, check_labels, decided)
    assert all(item.record.reachable_log2 is not None for item in decided)
    # more than the 64 combinations of a leaf: the search gives up, and all of them are run
    assert any(item.record.method == "exhaustive" and (item.record.reachable_log2 or 0) > 6 for item in decided)


# --- planted bugs -------------------------------------------------------------------------------------------------


def seen(ball: Ball, budget: Budget, number: int = 3, count: int = 60) -> bool:
    """Return whether the oracle's check sees that verdicts are wrong."""
    case, random = tiny_case(number), np.random.default_rng(0)
    images = random.random((count, *SHAPE), dtype=np.float32)
    try:
        check(case, ball, images, case.labels(images, random), budget)
    except AssertionError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget(60.0), NOT_RUN_WHOLE])
@pytest.mark.parametrize("end", ["lowest", "highest"])
def test_a_reachable_cell_that_is_dropped_is_seen(monkeypatch: pytest.MonkeyPatch, budget: Budget, end: str) -> None:
    assert not seen(BALL, budget)
    reach = Cells.reach

    def dropping(self: Cells, ball: Ball, images: np.ndarray) -> Reach:
        whole = reach(self, ball, images)
        ends: dict[str, Any] = {end: whole.own}
        return replace(whole, **ends)

    monkeypatch.setattr(Cells, "reach", dropping)
    assert seen(BALL, budget)


def nearly_right(worst: float) -> tuple[Tiny, np.ndarray]:
    """Return a linear network of two classes whose margin falls to `worst` on one combination that GRAY reaches."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    ends = Grid(3).ends(Grid(3).reachable(GRAY, 0.2)[0])
    with torch.no_grad():
        cast(nn.Linear, network[1]).weight.zero_()
        cast(nn.Linear, network[1]).weight[0] = 0.25
        cast(nn.Linear, network[1]).bias.copy_(torch.tensor([worst - 0.25 * float(ends.sum()), 0.0]))
    return tiny(network, Grid(3), classes=2), np.array([0])


@pytest.mark.parametrize("only_search", [True, False])
def test_proofs_that_are_raised_are_seen(monkeypatch: pytest.MonkeyPatch, only_search: bool) -> None:
    case, label = nearly_right(-5e-4)
    budget = ONLY_SEARCH if only_search else NO_ATTACK  # an attack would find the image before bounds are asked
    check(case, BALL, GRAY, label, budget)
    margins = Prover.least_margins

    def raised(*given: Any, **more: Any) -> np.ndarray:
        found: np.ndarray = margins(*given, **more) + 1e-3
        return found

    proven, improved = PartMargins.proven, PartBounds.improved

    def drafted(*given: Any) -> Drafts:
        found = improved(*given)
        return replace(found, bounds=found.bounds + np.float32(1e-3))

    monkeypatch.setattr(Prover, "least_margins", raised)
    monkeypatch.setattr(PartMargins, "proven", lambda *given: proven(*given) + 1e-3)
    monkeypatch.setattr(PartBounds, "improved", drafted)
    monkeypatch.setattr(BallBatch, "_points", lambda self, row: self.reach.own[[row] * 16])  # points that show nothing
    with pytest.raises(AssertionError, match="certified, but"):
        check(case, BALL, GRAY, label, budget)


def test_an_end_of_the_ball_that_is_rounded_inward_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    edge, radius = float(Grid(3).edges[1]), 0.125
    images = np.full((1, *SHAPE), edge - radius, dtype=np.float32)  # reaches the edge, and that alone
    ball = Ball(Radius.parse("0.125"))
    weights = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():  # class 1 as soon as one pixel leaves the first cell
        cast(nn.Linear, weights[1]).weight.zero_()
        cast(nn.Linear, weights[1]).weight[1] = 1.0
        cast(nn.Linear, weights[1]).bias.copy_(torch.tensor([0.0, 5.0]))
    case = tiny(weights, Grid(3), classes=2)
    check(case, ball, images, np.array([0]), Budget(60.0))

    def inward(self: Grid, pixels: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = float32_within(pixels, Fraction(distance))
        return self.cell(np.nextafter(low, np.float32(1))), self.cell(np.nextafter(high, np.float32(0)))

    monkeypatch.setattr(Grid, "reachable", inward)
    with pytest.raises(AssertionError, match="certified, but"):
        check(case, ball, images, np.array([0]), Budget(60.0))


def test_a_counterexample_that_is_not_replayed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = replace(NOT_RUN_WHOLE, bounds=())  # which would certify it before the attack
    case = tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))

    def mistaken(network: object, reach: Reach, labels: np.ndarray, *_: object) -> Candidates:
        return Candidates(reach.highest, np.full(len(reach), -1, dtype=np.float32))

    monkeypatch.setattr(refuting, "gradient_attack", mistaken)
    check(case, BALL, GRAY, np.array([0]), budget)

    def believed(self: BallBatch, row: int, cells: np.ndarray, method: str) -> bool:
        image = self.reach.image_in(row, cells)
        if image is not None:
            self._falsify(row, image, "an image of the ball is mislabelled", method)
        return image is not None

    monkeypatch.setattr(BallBatch, "refute", believed)
    with pytest.raises(AssertionError, match="falsified, but"):
        check(case, BALL, GRAY, np.array([0]), budget)


def test_only_rounding_that_reaches_a_mislabelled_combination_is_unknown() -> None:
    """No float32 lies between the ball's end and the edge: the edge's cell is not reached, but not left out either."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        cast(nn.Linear, network[1]).weight.zero_()
        cast(nn.Linear, network[1]).weight[1] = 1.0
        # class 1 as soon as one pixel is in the last cell
        cast(nn.Linear, network[1]).bias.copy_(torch.tensor([0.0, 3.0]))
    case = tiny(network, Grid(2), classes=2)
    ball = Ball(Radius.parse("0.249999999999"))
    images = np.full((1, *SHAPE), 0.25, dtype=np.float32)
    for budget in (Budget(60.0), NOT_RUN_WHOLE):
        (item,) = case.verifier(ball, budget).decide(images, np.array([0]), np.array([0]))
        assert item.record.verdict == "unknown"
        assert "only rounding of the ball's ends reaches it" in item.record.reason


def test_a_network_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    path = export_tiny(tiny_network(0), 3, tmp_path).deploy
    model = onnx.load_model(str(path))
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "scores"
    model.graph.node.append(onnx.helper.make_node("Asinh", ["scores"], ["logits"]))
    changed = tmp_path / "changed.onnx"
    onnx.save_model(model, str(changed))
    with pytest.raises(UnsupportedModelError, match="Asinh"):
        open_white_box(Artifact.open(changed, Provider.CPU))
