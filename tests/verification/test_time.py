"""The time-out is a promise for each image: what is spent on one is charged to it alone. The clock is the test's."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
from ball_oracle import tiny
from tiny_networks import SHAPE, constant_network

from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.bounds.bounder import BoundMemoryError
from abscert_plugin.claim import Radius
from abscert_plugin.errors import VerifierError
from abscert_plugin.grid import Grid
from abscert_plugin.verification.attack import score_attack
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.evidence import TreeNode
from abscert_plugin.verification.search import Bounded, Branch, Problem, Search

BALL = Ball(Radius.parse("0.2"))


class Clock:
    """A clock that stands still but for what is added."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock on which every forward pass takes a second."""
    clock, run = Clock(monkeypatch), BlackBox.run

    def slow(self: BlackBox, images: np.ndarray) -> np.ndarray:
        clock.now += 1
        return run(self, images)

    monkeypatch.setattr(BlackBox, "run", slow)
    return clock


@pytest.mark.usefixtures("clock")
def test_an_image_is_not_charged_for_another_one() -> None:
    case = tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))
    images = np.full((3, *SHAPE), 0.1, dtype=np.float32)
    images[0] = 0.45  # 16 combinations
    images[1:, 0, 0, 0] = 0.45  # 2 of them
    verifier = case.verifier(BALL, Budget(6.0), white_box=False)
    case.black_box.batch_size = 1
    first, *others = [item.record for item in verifier.decide(images, np.zeros(3, dtype=np.int64), np.arange(3))]
    assert (first.verdict, first.reason) == ("unknown", "time-out of the enumeration")
    assert 6 <= first.seconds <= 8
    for record in others:
        assert (record.verdict, record.method) == ("certified", "exhaustive")
        assert record.seconds == pytest.approx(1 / 3 + 2)


@pytest.mark.usefixtures("clock")
def test_an_image_whose_time_is_up_begins_no_further_step() -> None:
    case = tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))
    images = np.full((2, *SHAPE), 0.45, dtype=np.float32)
    decided = case.verifier(BALL, Budget(0.5, exhaustive=1), white_box=False).decide(
        images, np.zeros(2, dtype=np.int64), np.arange(2)
    )
    assert [(item.record.reason, item.record.seconds) for item in decided] == [("time-out of 0.5 s", 0.5)] * 2


def test_an_attack_ends_with_the_time(clock: Clock) -> None:
    case = tiny(constant_network([1.0, 0.0, 0.0]), Grid(3))
    reach = case.artifact.front.reach(BALL, np.full((2, *SHAPE), 0.45, dtype=np.float32))
    start = clock.now
    score_attack(case.deployed, reach, np.zeros(2, dtype=np.int64), np.arange(2), 100, start + 10)
    assert 10 < clock.now - start < 13


class FailingCut:
    """A cut whose bounds take seven seconds and then fail."""

    is_complete = True

    def __init__(self, clock: Clock, error: VerifierError) -> None:
        self._clock = clock
        self._error = error

    def root(self, problem: Problem) -> None:
        return None

    def evidence(self, number: int, tree: TreeNode) -> None:
        return None

    def bound(self, branches: Sequence[Branch], seconds: Sequence[float]) -> list[Bounded]:
        self._clock.now += 7
        raise self._error


@pytest.mark.parametrize(("error", "seconds"), [(VerifierError("no"), 3.5), (BoundMemoryError("full"), 3.5 + 7)])
def test_a_bound_that_fails_is_charged_too(
    monkeypatch: pytest.MonkeyPatch, error: VerifierError, seconds: float
) -> None:
    cells = np.zeros(SHAPE, dtype=np.uint8)
    problems = {number: Problem(cells, cells, 0, 60.0) for number in range(2)}
    search = Search(FailingCut(Clock(monkeypatch), error), lambda number, point: False, Budget())
    for outcome in search.run(problems).values():
        assert not outcome.certified
        assert outcome.seconds == seconds
