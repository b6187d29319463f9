"""The search by signs where memory, bounds or numbers fail."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sign_boxes import CLASSES, SHAPE, boxes, check, crown, network_of, search, verdict, verdicts

from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.bounds.proof.draft import Draft, Drafted
from abscert_plugin.errors import VerifierError
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.search import Problem

# --- failures ---------------------------------------------------------------------------------------------------------


def memory_for(count: int) -> Callable[..., Any]:
    """Return drafts that fit into memory for so many pairs of a part and a margin at once."""
    whole = PartBounds._optimised

    def limited(self: PartBounds, lines: Any, group: np.ndarray, steps: int) -> Any:
        if len(group) > count:
            raise MemoryError
        return whole(self, lines, group, steps)

    return limited


@pytest.mark.slow
@pytest.mark.parametrize("fits", [1, 3, 5])
def test_too_little_memory_halves_the_batches(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    problems = boxes(4, 0.3)
    undisturbed = verdicts(4, problems)
    with monkeypatch.context() as patch:
        patch.setattr(PartBounds, "_optimised", memory_for(fits))
        found = verdicts(4, problems)
    assert {"certified", "falsified"} <= set(found.values())
    for number in problems:
        assert {found[number], undisturbed[number]} != {"certified", "falsified"}
    assert sum(kind == "unknown" for kind in found.values()) <= 3 + sum(
        kind == "unknown" for kind in undisturbed.values()
    )


def test_no_memory_at_all_is_unknown_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartBounds, "_optimised", memory_for(0))
    outcomes, found = search(network_of(2), boxes(2, 0.3))
    assert not found
    told = "memory does not suffice for bounds by crown of 1 boxes; try fewer at once"
    assert {outcome.failure for outcome in outcomes.values() if not outcome.certified} == {told}


@pytest.mark.slow
@pytest.mark.parametrize("fits", [1, 3, 8])
def test_more_boxes_than_a_batch_are_all_bounded_when_memory_ends(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    budget = Budget(branches_at_once=8)
    count = budget.branches_at_once + 2
    low, high = np.full(SHAPE, 0, np.float32), np.full(SHAPE, 1, np.float32)
    problems = {number: Problem(low, high, number % CLASSES, 0.0) for number in range(count)}  # none has one label
    monkeypatch.setattr(PartBounds, "_optimised", memory_for(fits))
    outcomes, _ = search(network_of(3), problems, budget=budget)
    assert all(outcome.branches > 0 or outcome.failure for outcome in outcomes.values())
    check(network_of(3), problems, outcomes)


@pytest.mark.parametrize("works", range(3))
def test_bounds_that_fail_are_unknown_with_their_reason(monkeypatch: pytest.MonkeyPatch, works: int) -> None:
    whole, calls = PartBounds.improved, []

    def fail(self: PartBounds, *arguments: Any) -> Drafts:
        calls.append(1)
        if len(calls) > works:
            raise VerifierError("drafts failed")
        return whole(self, *arguments)

    monkeypatch.setattr(PartBounds, "improved", fail)
    problems = boxes(2, 0.3)
    outcomes, found = search(network_of(2), problems)
    check(network_of(2), problems, outcomes)
    kinds = Counter(verdict(outcome, number in found) for number, outcome in outcomes.items())
    assert kinds["unknown"] > 0
    assert any(outcome.failure == "drafts failed" for outcome in outcomes.values())


def test_bounds_that_are_no_numbers_certify_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drafted = Draft.bounds

    def not_numbers(self: Draft, *arguments: Any) -> Drafted:
        found = drafted(self, *arguments)
        return replace(found, bounds=found.bounds * torch.nan)

    monkeypatch.setattr(Draft, "bounds", not_numbers)
    problems = boxes(2, 0.3, seconds=0.2)
    outcomes, _ = search(network_of(2), problems, believe=False)
    bounds = crown(2, problems)
    assert any(not outcome.certified for outcome in outcomes.values())
    assert all(bounds[number] > 0 for number, outcome in outcomes.items() if outcome.certified)
