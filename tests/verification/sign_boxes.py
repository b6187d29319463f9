"""Boxes of images for the search by signs, small networks, and what decides them beside it."""

import copy
from functools import cache
from itertools import product

import numpy as np
import torch
from plain_oracle import plain
from torch import nn

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.search import Outcome, Problem, Search
from abscert_plugin.verification.sign_cut import SignCut

load_lirpa()  # it raises the recursion limit once
SHAPE = (1, 1, 3)
CLASSES = 3
FLOOR = 1e-4
LONG = 5.0
DEFAULT = Budget()
SEEDS = range(4)
WIDTHS = (0.0, 0.1, 0.3)
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


def bump(
    biases: list[float], weights: list[float], bend: nn.Module, gain: float = 1.0, first: float = 0.25
) -> nn.Sequential:
    """Return a network whose logit 0 is `first`; logit 1 is weights . bend(gain (x + biases)) of the first pixel x."""
    inner, outer = nn.Linear(3, len(biases)), nn.Linear(len(biases), CLASSES)
    with torch.no_grad():
        for parameter in (*inner.parameters(), *outer.parameters()):
            parameter.zero_()
        inner.weight[:, 0] = gain
        inner.bias.copy_(gain * torch.tensor(biases))
        outer.weight[1] = torch.tensor(weights)
        outer.bias.copy_(torch.tensor([first, 0.0, -1.0]))
    return nn.Sequential(nn.Flatten(), inner, bend, outer).requires_grad_(False)
