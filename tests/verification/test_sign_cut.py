"""Branch and bound by signs of hidden values alone, on boxes of images, against networks in float64 on many points."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, cast

import numpy as np
import pytest
import torch
from plain_oracle import plain
from torch import nn

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.bounds.proof.descent import Descent
from abscert_plugin.bounds.proof.draft import Draft, Drafted
from abscert_plugin.errors import VerifierError
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.part_margins import PartMargins
from abscert_plugin.verification.search import Outcome, Problem, Search
from abscert_plugin.verification.sign_cut import SignCut

load_lirpa()  # it raises the recursion limit once
SHAPE = (1, 1, 3)
CLASSES = 3
FLOOR = 1e-4
LONG = 5.0
DEFAULT = Budget()
SEEDS = range(6)
WIDTHS = (0.0, 0.1, 0.3, 1.0)
CPU = torch.device("cpu")


def randomised(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.normal_(0, 1, generator=generator)
    return network


@cache
def network_of(seed: int) -> nn.Module:
    """Return a network whose margins are far from linear; every other one convolves."""
    first: list[nn.Module] = [nn.Conv2d(1, 4, (1, 2)), nn.Flatten()] if seed % 2 else [nn.Flatten(), nn.Linear(3, 8)]
    layers = [*first, nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)]
    return randomised(nn.Sequential(*layers), seed)


@cache
def bounder_of(seed: int) -> LirpaBounder:
    return LirpaBounder(network_of(seed), SHAPE, CLASSES, CPU)


@cache
def deployed_of(network: nn.Module) -> Deployed:
    return Deployed(plain(network, SHAPE, CLASSES).artifact)


def margins_of(network: nn.Module, images: np.ndarray, label: int) -> np.ndarray:
    """Return the label's margins in float64, of images on the pixel scale."""
    with torch.no_grad():
        logits = copy.deepcopy(network).double()(2 * torch.from_numpy(images).double() - 1).numpy()
    return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)


def boxes(seed: int, width: float, count: int = 12, seconds: float = LONG) -> dict[int, Problem]:
    """Return boxes round random centres, labelled as the network labels the centre, and every sixth one at random."""
    random = np.random.default_rng([seed, int(1000 * width)])
    centers = random.random((count, *SHAPE)).astype(np.float32)
    centers[0] = np.rint(centers[0])  # a corner of the domain
    with torch.no_grad():
        labels = network_of(seed)(2 * torch.from_numpy(centers) - 1).argmax(dim=1).numpy()
    labels = np.where(np.arange(count) % 6 == 5, random.integers(0, CLASSES, count), labels)
    low, high = (np.clip(centers + np.float32(sign * width / 2), 0, 1) for sign in (-1, 1))
    return {7 * row: Problem(low[row], high[row], int(labels[row]), seconds) for row in range(count)}


def points_of(problem: Problem, seed: int = 0) -> np.ndarray:
    """Return a grid over a box, its corners among it, and random points."""
    low, high = problem.lowest.reshape(-1), problem.highest.reshape(-1)
    share = np.array(list(product(np.linspace(0, 1, 11), repeat=low.size)))
    share = np.concatenate([share, np.random.default_rng(seed).random((1000, low.size))])
    return (low + share * (high.astype(np.float64) - low)).reshape(-1, *SHAPE)


def search(
    network: nn.Module,
    problems: dict[int, Problem],
    believe: bool = True,
    budget: Budget = DEFAULT,
) -> tuple[dict[int, Outcome], dict[int, np.ndarray]]:
    """Return the outcomes, and the corners that were confirmed to be mislabelled: none where `believe` is false."""
    found: dict[int, np.ndarray] = {}

    def refutes(number: int, image: np.ndarray) -> bool:
        problem = problems[number]
        assert ((problem.lowest <= image) & (image <= problem.highest)).all(), "a corner lies outside its box"
        assert number not in found, "a box that was refuted is searched on"
        if not believe or margins_of(network, image[None], problem.label)[0] >= -FLOOR:
            return False
        found[number] = image
        return True

    deployed = deployed_of(network)
    assert deployed.prover is not None
    return Search(SignCut(deployed.prover, deployed), refutes, budget).run(problems), found


def verdict(outcome: Outcome, is_refuted: bool) -> str:
    assert outcome.is_done
    assert not (outcome.certified and is_refuted)
    assert bool(outcome.failure) == (not outcome.certified and not is_refuted), "only an open end has a reason"
    return "certified" if outcome.certified else "falsified" if is_refuted else "unknown"


def check(network: nn.Module, problems: dict[int, Problem], outcomes: dict[int, Outcome]) -> None:
    """Assert that no sampled point of a certified box is mislabelled."""
    assert outcomes.keys() == problems.keys()
    for number, outcome in outcomes.items():
        if outcome.certified:
            least = margins_of(network, points_of(problems[number]), problems[number].label).min()
            assert least > 0, "certified, but a point of the box is mislabelled"
            assert outcome.margin <= least + 1e-5, "the bound that was relied on is above a margin in the box"


def verdicts(seed: int, problems: dict[int, Problem]) -> dict[int, str]:
    outcomes, found = search(network_of(seed), problems)
    check(network_of(seed), problems, outcomes)
    return {number: verdict(outcome, number in found) for number, outcome in outcomes.items()}


def crown(seed: int, problems: dict[int, Problem]) -> dict[int, float]:
    """Return the least bound of CROWN alone."""
    lower, upper = (
        torch.from_numpy(2 * np.stack([getattr(item, end) for item in problems.values()]) - 1)
        for end in ("lowest", "highest")
    )
    labels = torch.tensor([problem.label for problem in problems.values()])
    least = bounder_of(seed).margins(lower, upper, labels, BoundMethod.CROWN).amin(dim=1)
    return dict(zip(problems, least.tolist(), strict=True))


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
    assert total["certified", True] > 100
    assert certified > 5  # which CROWN alone leaves open
    assert falsified > 50
    assert unknown < (certified + falsified) / 2


def test_a_box_that_is_a_point_is_decided_by_its_margin() -> None:
    for seed in SEEDS:
        problems = boxes(seed, 0.0)
        for number, found in verdicts(seed, problems).items():
            (margin,) = margins_of(network_of(seed), problems[number].lowest[None], problems[number].label)
            if abs(margin) > 10 * FLOOR:
                assert found == ("certified" if margin > 0 else "falsified")


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
    late = {number for number, outcome in outcomes.items() if outcome.failure.startswith("time-out")}
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


def test_what_is_left_of_a_tree_is_told() -> None:
    problems = boxes(2, 0.3, seconds=1e-9)
    outcomes, _ = search(network_of(2), problems, believe=False)
    told = {outcome.failure for outcome in outcomes.values() if outcome.failure.startswith("time-out")}
    assert told == {"time-out of the branch and bound, with 1 of its tree open"}


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
@pytest.mark.parametrize("fits", [1, 20, 32])
def test_more_boxes_than_a_batch_are_all_bounded_when_memory_ends(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    count = Budget().branches_at_once + 2
    low, high = np.full(SHAPE, 0, np.float32), np.full(SHAPE, 1, np.float32)
    problems = {number: Problem(low, high, number % CLASSES, 0.0) for number in range(count)}  # none has one label
    monkeypatch.setattr(PartBounds, "_optimised", memory_for(fits))
    outcomes, _ = search(network_of(3), problems)
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


def bump(biases: list[float], weights: list[float]) -> nn.Sequential:
    """Return a network whose logit 0 is 1/4, and logit 1 is weights . relu(x + biases) of the first pixel x."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, len(biases)), nn.ReLU(), nn.Linear(len(biases), CLASSES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        cast(nn.Linear, network[1]).weight[:, 0] = 1
        cast(nn.Linear, network[1]).bias.copy_(torch.tensor(biases))
        cast(nn.Linear, network[3]).weight[1] = torch.tensor(weights)
        cast(nn.Linear, network[3]).bias.copy_(torch.tensor([0.25, 0.0, -1.0]))
    return network


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
    network, halves = bump(biases, weights), Part.halves
    box = {0: Problem(np.full(SHAPE, 0, np.float32), np.full(SHAPE, 1, np.float32), 0, LONG)}
    check(network, box, search(network, box, believe=False)[0])
    splits: list[int] = []

    def one_half(self: Part, place: int) -> tuple[Part, Part]:
        splits.append(place)
        return (halves(self, place)[kept],) * 2

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
    return rows if known is None else rows + known.unsqueeze(1)
