"""Bounds of hidden values end with the time of their image, and then certify nothing."""

import itertools
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ball_oracle import Tiny, tiny
from tiny_networks import SHAPE
from torch import nn

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod, BoundTimeError
from abscert_plugin.bounds.proof import tightening
from abscert_plugin.claim import Radius
from abscert_plugin.front import Reach
from abscert_plugin.grid import Grid
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell_cut import CellCut
from abscert_plugin.verification.enumeration import enumerate_cells
from abscert_plugin.verification.proving import Prover
from abscert_plugin.verification.search import Bounded, Branch, Problem
from abscert_plugin.verification.sign_cut import SignCut

BALL = Ball(Radius.parse("0.2"))
COUNT = 8
SCALE = 3.0  # intervals show nothing
BY_CROWN = Budget(60.0, exhaustive=1, attacks=False, leaf=1, bounds=(BoundMethod.CROWN,))


@pytest.fixture(scope="module")
def case() -> Tiny:
    """Return a network of two layers of sigmoids, of which linear bounds need hidden values."""
    torch.manual_seed(0)
    size = 2 * int(np.prod(SHAPE))
    layers = nn.Flatten(), nn.Linear(size, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 3)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(SCALE)
    return tiny(network, Grid(3))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((COUNT, *SHAPE)).astype(np.float32)


def asked(case: Tiny, images: np.ndarray) -> tuple[Prover, Reach, np.ndarray]:
    labels = case.artifact.run_images(images).argmax(axis=1)
    return Prover(case.artifact), case.deployed.front.reach(BALL, images), labels


def test_each_image_has_a_time_of_its_own(case: Tiny, images: np.ndarray) -> None:
    prover, reach, labels = asked(case, images)
    given = reach.lowest, reach.highest, labels, BoundMethod.CROWN
    whole = prover.least_margins(*given, is_open=True)
    seconds = [0.0, 1e6] * (COUNT // 2)
    found = prover.least_margins(*given, is_open=True, seconds=seconds)
    assert np.isfinite(whole).all()
    assert np.isneginf(found[::2]).all()
    np.testing.assert_array_equal(found[1::2], whole[1::2])


def test_what_takes_too_long_certifies_nothing(case: Tiny, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def methods() -> set[str]:
        labels = case.artifact.run_images(images).argmax(axis=1)
        decided = case.verifier(BALL, BY_CROWN).decide(images, labels, np.arange(COUNT))
        return {item.record.method for item in decided if item.record.verdict == "certified"}

    assert "crown" in methods()
    monkeypatch.setattr(tightening, "time", SimpleNamespace(perf_counter=lambda: float("inf")))
    assert "crown" not in methods()  # cells may still be run


def problems(case: Tiny, images: np.ndarray, seconds: Sequence[float]) -> dict[int, Problem]:
    _, reach, labels = asked(case, images)
    ends = zip(reach.lowest, reach.highest, labels.tolist(), seconds, strict=True)
    return {number: Problem(*problem) for number, problem in enumerate(ends)}


def test_a_search_by_hidden_values_has_a_time_for_each_problem(case: Tiny, images: np.ndarray) -> None:
    prover, _, _ = asked(case, images)

    def bounded(seconds: Sequence[float]) -> list[Bounded]:
        cut, given = SignCut(prover, case.deployed), problems(case, images, seconds)
        return cut.bound([Branch(number, problem, None) for number, problem in given.items()], seconds)

    whole, some = bounded([1e6] * COUNT), bounded([0.0, 1e6] * (COUNT // 2))
    assert {one.closed_by for one in whole} > {""}
    assert [(one.closed_by, one.bound) for one in some[1::2]] == [(one.closed_by, one.bound) for one in whole[1::2]]
    for one in some[::2]:
        assert (one.closed_by, one.bound, one.halves) == ("", -np.inf, None)
        assert "the time was up" in one.reason


@pytest.mark.parametrize("loose", [None, []])
def test_parts_of_a_box_are_not_bounded_once_the_time_is_up(
    case: Tiny, images: np.ndarray, loose: list[str] | None
) -> None:
    prover, reach, labels = asked(case, images)
    with pytest.raises(BoundTimeError, match="time was up"):
        prover.part_margins(reach.lowest[0], reach.highest[0], int(labels[0]), loose=loose, seconds=0.0)


def test_a_search_by_cells_bounds_hidden_values_in_the_time_that_is_left(case: Tiny, images: np.ndarray) -> None:
    prover, _, _ = asked(case, images)
    given = problems(case, images, [60.0] * COUNT)
    cut = CellCut(case.white_box.bounder, prover, case.deployed, 1, dict.fromkeys(given, BoundMethod.CROWN))
    branches = [Branch(number, problem, cut.root(problem)) for number, problem in given.items()]

    def closed(seconds: float) -> list[Bounded]:
        found = cut.bound(branches, [seconds] * COUNT)
        return [bounded for bounded in found if bounded.closed_by == "crown"]

    assert closed(1e6)
    assert not closed(0.0)


def test_linear_bounds_at_boxes_around_points_end_with_the_time(
    case: Tiny, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, given = 0.0, list[float]()
    prover, reach, labels = asked(case, images)

    def slow(self: Prover, lowest: np.ndarray, *others: Any, seconds: Sequence[float] = (), **options: Any) -> Any:
        del self, others, options
        nonlocal now
        given.extend(seconds)
        now += 1
        return np.full(len(lowest), -1.0)

    ends = prover._ends(reach.own, reach.own)
    monkeypatch.setattr(prover, "_ends", lambda *_: (ends[0], ends[1] + 1e-6))
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(Prover, "least_margins", slow)
    monkeypatch.setattr(Prover, "_one_by_one", lambda self, lower, *_: np.full(len(lower), -1.0))
    prover.at_points(reach.own, labels, np.ones(COUNT, dtype=np.float32), prover.lines_at_points[1:], 3.5)
    assert given == [2.5, 1.5, 0.5]


def test_linear_bounds_at_points_end_with_the_time(
    case: Tiny, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    prover, reach, labels = asked(case, images)
    held, classes = prover._ends(reach.own, reach.own)[0], torch.from_numpy(labels)
    looks = itertools.count()
    monkeypatch.setattr(tightening, "time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    whole = prover._proof.linear_margins_at(held, classes, 1000)
    each, looks = next(looks) // COUNT, itertools.count()
    some = prover._proof.linear_margins_at(held, classes, 1000, until=3 * each - 0.5)
    assert each > 0
    assert torch.equal(some[:3], whole[:3])
    assert bool(torch.isneginf(some[3:]).all())


def test_combinations_that_the_time_is_not_enough_for_are_a_time_out(
    case: Tiny, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = takes = 0.0
    given = list[float]()

    def unproven(self: Prover, points: np.ndarray, *others: Any, seconds: float, **options: Any) -> np.ndarray:
        del self, others, options
        nonlocal now
        given.append(seconds)
        now += takes
        return np.full(len(points), -np.inf)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(Prover, "at_points", unproven)
    problem = problems(case, images, [5.0] * COUNT)[0]
    assert "time" not in enumerate_cells(case.deployed, problem, lambda point: False).failure
    takes = 7.0
    assert enumerate_cells(case.deployed, problem, lambda point: False).failure == "time-out of the enumeration"
    assert given == [5.0, 5.0]
