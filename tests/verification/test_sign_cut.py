"""Branch and bound by signs of hidden values alone, on boxes of images, against networks in float64 on many points."""

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sign_boxes import (
    CLASSES,
    FLOOR,
    LONG,
    SEEDS,
    SHAPE,
    WIDTHS,
    boxes,
    bump,
    check,
    crown,
    margins_of,
    network_of,
    randomised,
    search,
    verdict,
    verdicts,
)
from torch import nn

from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.bounds.proof.descent import Descent
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.part_margins import PartMargins
from abscert_plugin.verification.search import Problem


@pytest.mark.slow
def test_certified_boxes_hold_no_mislabelled_point_and_most_boxes_are_decided() -> None:
    total = Counter[tuple[str, bool]]()
    for seed in SEEDS:
        for width in WIDTHS:
            problems = boxes(seed, width)
            bounds = crown(seed, problems)
            found = verdicts(seed, problems)
            total.update((found[number], bounds[number] > FLOOR) for number in problems)
            for number, bound in bounds.items():
                assert found[number] == "certified" or bound <= 10 * FLOOR, "CROWN certifies what the search does not"
    certified, falsified, unknown = (total[kind, False] for kind in ("certified", "falsified", "unknown"))
    assert total["certified", True] > 60
    assert certified > 5  # which CROWN alone leaves open
    assert falsified > 20
    assert unknown < (certified + falsified) / 2


def test_a_box_that_is_a_point_is_decided_by_its_margin() -> None:
    for seed in SEEDS:
        problems = boxes(seed, 0.0)
        for number, found in verdicts(seed, problems).items():
            (margin,) = margins_of(network_of(seed), problems[number].lowest[None], problems[number].label)
            if abs(margin) > 10 * FLOOR:
                assert found == ("certified" if margin > 0 else "falsified")


@pytest.fixture
def _a_clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)


@pytest.mark.usefixtures("_a_clock_that_stands")
def test_no_time_leaves_the_first_bound_and_says_so() -> None:
    problems = boxes(2, 0.3, seconds=0.0)
    outcomes, found = search(network_of(2), problems)
    bounds = crown(2, problems)
    late = 0
    for number, outcome in outcomes.items():
        kind = verdict(outcome, number in found)
        assert outcome.branches == 1
        assert kind == "certified" or bounds[number] <= FLOOR
        if kind == "unknown":
            assert outcome.failure.startswith(("time-out of the branch and bound", "no ReLU"))
            late += outcome.failure.startswith("time-out")
    assert late > 0


def test_each_box_has_its_own_time() -> None:
    problems = boxes(2, 0.3)
    short = {
        number: Problem(item.lowest, item.highest, item.label, LONG if place % 2 else 0.0)
        for place, (number, item) in enumerate(problems.items())
    }
    outcomes, _ = search(network_of(2), short, believe=False)
    late = {
        number for number, outcome in outcomes.items() if outcome.failure.startswith(("time-out", "the time was up"))
    }
    assert late
    assert {short[number].seconds for number in late} == {0.0}
    assert any(outcome.branches > 1 for outcome in outcomes.values())


def test_a_network_without_relu_ends_with_a_reason() -> None:
    network = randomised(nn.Sequential(nn.Flatten(), nn.Linear(3, CLASSES)), 0)
    kinds = Counter[str]()
    for label in range(CLASSES):
        box = {0: Problem(np.full(SHAPE, 0, np.float32), np.full(SHAPE, 1, np.float32), label, LONG)}
        outcomes, found = search(network, box)
        kinds[verdict(outcomes[0], 0 in found)] += 1
        outcomes, _ = search(network, box, believe=False)
        assert verdict(outcomes[0], False) == "unknown"
        assert "no ReLU" in outcomes[0].failure
        assert "left to split" in outcomes[0].failure
    assert kinds["falsified"] == CLASSES


def test_a_relu_on_the_image_itself_is_no_crash() -> None:
    network = randomised(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, CLASSES)), 3)
    box = {0: Problem(np.full(SHAPE, 0, np.float32), np.full(SHAPE, 1, np.float32), 0, LONG)}
    outcomes, _ = search(network, box, believe=False)
    check(network, box, outcomes)
    assert verdict(outcomes[0], False) == "unknown"


def test_a_search_without_memory_goes_on_depth_first() -> None:
    problems = boxes(2, 0.3)
    plenty, found = search(network_of(2), problems)
    scarce, also_found = search(network_of(2), problems, budget=Budget(search_bytes=0))
    check(network_of(2), problems, scarce)
    assert any(outcome.branches > 8 for outcome in scarce.values())
    kinds = [
        (verdict(plenty[number], number in found), verdict(scarce[number], number in also_found)) for number in plenty
    ]
    assert not any(set(both) == {"certified", "falsified"} for both in kinds)
    assert sum(before == after for before, after in kinds) > len(kinds) / 2


@pytest.mark.usefixtures("_a_clock_that_stands")
def test_what_is_left_of_a_tree_is_told() -> None:
    problems = boxes(2, 0.3, seconds=0.0)
    outcomes, _ = search(network_of(2), problems, believe=False)
    told = {outcome.failure for outcome in outcomes.values() if outcome.failure.startswith("time-out")}
    assert told == {"time-out of the branch and bound, with 1 of its tree open"}


# --- order and batch --------------------------------------------------------------------------------------------------


def in_other_batches(seed: int, problems: dict[int, Problem]) -> list[set[str]]:
    """Return the verdicts that each box has: all at once, in reverse, and in batches of 1 and 5."""
    numbers = list(problems)
    found = [verdicts(seed, problems), verdicts(seed, {number: problems[number] for number in reversed(numbers)})]
    for size in (1, 5):
        parts: dict[int, str] = {}
        for start in range(0, len(numbers), size):
            parts |= verdicts(seed, {number: problems[number] for number in numbers[start : start + size]})
        found.append(parts)
    return [{kinds[number] for kinds in found} for number in numbers]


@pytest.mark.slow
def test_no_order_or_batch_turns_a_verdict_round() -> None:
    kinds = [kind for seed in (0, 3, 5) for kind in in_other_batches(seed, boxes(seed, 0.3))]
    assert {frozenset({"certified"}), frozenset({"falsified"})} <= {frozenset(kind) for kind in kinds}
    assert not any({"certified", "falsified"} <= kind for kind in kinds)


# --- planted bugs -----------------------------------------------------------------------------------------------------


def everything(seconds: float = LONG) -> dict[int, Problem]:
    return {0: Problem(np.full(SHAPE, 0, np.float32), np.full(SHAPE, 1, np.float32), 0, seconds)}


@pytest.mark.slow
def test_a_tanh_is_cut_until_its_bounds_are_near_and_a_gap_between_halves_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second logit is 0.39 where x = 0, about, and no larger elsewhere; intervals say 2."""
    right, wrong = (bump([0.05, -0.05], [1.0, -1.0], nn.Tanh(), 4.0, first) for first in (0.8, 0.35))
    outcomes, _ = search(right, everything(60.0), believe=False)
    check(right, everything(), outcomes)
    assert outcomes[0].certified
    assert outcomes[0].branches > 3
    assert margins_of(wrong, np.full((1, *SHAPE), 0.5, np.float32), 0)[0] < 0
    outcomes, _ = search(wrong, everything(0.5), believe=False)
    assert not outcomes[0].certified
    halves = Part.halves

    def apart(self: Part, place: int, value: float) -> tuple[Part, Part]:
        return halves(self, place, value - 2.0)[0], halves(self, place, value + 2.0)[1]

    monkeypatch.setattr(Part, "halves", apart)
    outcomes, _ = search(wrong, everything(60.0), believe=False)
    with pytest.raises(AssertionError, match="certified, but"):
        check(wrong, everything(), outcomes)


@pytest.mark.parametrize(
    ("kept", "biases", "weights"),
    [
        (0, [0.0, -0.5], [1.0, -2.0]),  # mislabels near 1/2: where x > 0
        (1, [0.0, 0.5, 1.0], [1.0, -2.0, 1.0]),  # mislabels near -1/2: where x < 0
    ],
)
def test_a_half_that_is_dropped_is_seen(
    monkeypatch: pytest.MonkeyPatch, kept: int, biases: list[float], weights: list[float]
) -> None:
    network, halves, box = bump(biases, weights, nn.ReLU()), Part.halves, everything()
    check(network, box, search(network, box, believe=False)[0])
    splits: list[int] = []

    def one_half(self: Part, place: int, value: float) -> tuple[Part, Part]:
        splits.append(place)
        return (halves(self, place, value)[kept],) * 2

    monkeypatch.setattr(Part, "halves", one_half)
    outcomes, _ = search(network, box, believe=False)
    assert splits
    with pytest.raises(AssertionError, match="certified, but"):
        check(network, box, outcomes)


def test_drafts_that_are_raised_certify_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    improved = PartBounds.improved

    def raised(self: PartBounds, *arguments: Any) -> Drafts:
        return replace(found := improved(self, *arguments), bounds=found.bounds + 10)

    monkeypatch.setattr(PartBounds, "improved", raised)
    problems = boxes(2, 0.3)
    outcomes, _ = search(network_of(2), problems)
    check(network_of(2), problems, outcomes)


def test_proofs_that_are_raised_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    proven = PartMargins.proven
    monkeypatch.setattr(PartMargins, "proven", lambda *arguments: proven(*arguments) + 1e-3)
    problems = boxes(2, 0.1)
    outcomes, _ = search(network_of(2), problems)
    with pytest.raises(AssertionError, match=r"certified, but|above a margin"):
        check(network_of(2), problems, outcomes)


def test_multipliers_of_the_wrong_sign_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Descent, "multiplied", wrong_sign)
    problems = boxes(2, 0.3)
    outcomes, _ = search(network_of(2), problems, believe=False)
    with pytest.raises(AssertionError, match=r"certified, but|above a margin"):
        check(network_of(2), problems, outcomes)


def wrong_sign(self: Descent, name: str, rows: torch.Tensor) -> torch.Tensor:
    known = self._multipliers.get(name)
    return rows if known is None else rows + known[0].unsqueeze(1)
