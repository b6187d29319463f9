"""Tiny classifiers of plain images, exported and opened, and whether verdicts on their balls are true."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from ball_oracle import (
    LEVELS,
    ball_ends,
    float32_above,
    float32_below,
    in_ball,
    levels_within,
    new_folder,
    run_onnx_cached,
)
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import Deployed

CLASSES = 3
SHAPES = ((1, 1, 2), (1, 1, 3), (3, 1, 1), (1, 2, 2))
BATCH = 16
MOST_AT_ONCE = 2**16  # images of a ball that are all run; of larger ones, a part
LONG = Budget(60.0)


@dataclass(frozen=True)
class Plain:
    """A tiny classifier of plain images, exported and opened."""

    artifact: Artifact
    white_box: WhiteBox

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.artifact.metadata.image_shape

    def verifier(self, ball: Ball, budget: Budget = LONG, *, white_box: bool = True) -> BallVerifier:
        opened = self.white_box if white_box else None
        return BallVerifier(Deployed(self.artifact, is_black_box=not white_box), opened, ball, budget)

    def margins(self, images: np.ndarray, label: int) -> np.ndarray:
        """Return the label's margins, by onnxruntime itself."""
        (logits,) = run_onnx_cached(self.artifact.path, images)
        return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)


def plain(network: nn.Module, shape: tuple[int, int, int], classes: int = CLASSES) -> Plain:
    config = NetworkConfig("fc-3", Activation.RELU, shape, classes, takes_intervals=False)
    path = export_plain(network, config, "none", np.zeros((1, *shape), dtype=np.float32), new_folder()).deploy
    artifact = Artifact.open(path, Provider.CPU, threads=1)
    return Plain(artifact, open_white_box(artifact))


@cache
def plain_case(number: int) -> Plain:
    """Return a network of random weights; one of two convolves, one of three has one hidden layer."""
    shape = SHAPES[number % len(SHAPES)]
    channels, height, width = shape
    if number % 2:
        first, hidden = [nn.Conv2d(channels, 4, 3, padding=1), nn.Flatten()], 4 * height * width
    else:
        first, hidden = [nn.Flatten(), nn.Linear(channels * height * width, 8)], 8
    middle = [] if number % 3 == 0 else [nn.Linear(hidden, 8), nn.ReLU()]
    network = nn.Sequential(*first, nn.ReLU(), *middle, nn.Linear(hidden if not middle else 8, CLASSES))
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 1, generator=generator)
        example = 2 * torch.rand((500, *shape), generator=generator) - 1
        network[-1].bias -= network(example).mean(dim=0)  # so that no class takes all images
    return plain(network, shape)


def layered(weights: Sequence[Sequence[Sequence[float]]], biases: Sequence[Sequence[float]]) -> Plain:
    """Return a file with these weights for images of two pixels, on the training scale, with ReLU between layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(len(weight[0]), len(bias))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        layers += [*([nn.ReLU()] if len(layers) > 1 else []), layer]
    return plain(nn.Sequential(*layers), (1, 1, 2), len(biases[-1]))


def falling(worst: float, high: float) -> Plain:
    """Return a file of two classes: the margin of label 0 falls with both pixels, to `worst` where both are `high`."""
    return layered([[[-1.0, -1.0], [0.0, 0.0]]], [[worst + 2 * (2 * high - 1), 0.0]])


# --- the oracle -------------------------------------------------------------------------------------------------------


def images_of(ball: Ball, center: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return images of the ball: all of 8 bits, or a grid of floats with the corners, and random ones."""
    radius = ball.radius.pixel
    if ball.inputs is Inputs.UINT8:
        choices = [np.array(LEVELS)[levels_within(value, radius)] for value in center.ravel()]
        while np.prod([len(choice) for choice in choices]) > MOST_AT_ONCE:
            choices = [np.append(choice[::2], choice[-1:]) for choice in choices]
        return np.array(list(product(*choices)), dtype=np.float32).reshape(-1, *center.shape)
    ends = [ball_ends(value, radius) for value in center.ravel()]
    low, high = np.array([(float32_above(a), float32_below(b)) for a, b in ends]).T.reshape(2, -1)
    count = {2: 33, 3: 13, 4: 7}[center.size]
    share = np.array(list(product(np.linspace(0, 1, count), repeat=center.size)))
    share = np.concatenate([share, random.random((500, center.size))])
    images = (low + share * (high.astype(np.float64) - low)).astype(np.float32)
    return np.clip(images, low, high).reshape(-1, *center.shape)


def check_decided(
    case: Plain, ball: Ball, images: np.ndarray, labels: np.ndarray, decided: list[Decided]
) -> Counter[tuple[str, str | None]]:
    """Assert that every verdict is true; return how many there are of each kind and method."""
    assert len(decided) == len(images)
    random = np.random.default_rng(0)
    for item, image, label in zip(decided, images, labels.tolist(), strict=True):
        if item.record.verdict == "certified":
            assert case.margins(images_of(ball, image, random), label).min() > 0, "certified, but one is mislabelled"
        assert item.record.reason
        assert (item.counterexample is not None) == (item.record.verdict == "falsified")
        if item.counterexample is not None:
            assert in_ball(item.counterexample, image, ball), "a counterexample lies outside the ball"
            assert case.margins(item.counterexample[None], label)[0] < 0, "a counterexample gets its label"
    return Counter((str(item.record.verdict), item.record.method) for item in decided)


def batch_of(case: Plain, ball: Ball, seed: int, count: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Return images, a quarter of their pixels 0 or 1, and labels: what the file predicts, and every eighth any."""
    random = np.random.default_rng(seed)
    if ball.inputs is Inputs.UINT8:
        images = np.array(LEVELS)[random.integers(0, 256, (count, *case.shape))]
    else:
        images = random.random((count, *case.shape), dtype=np.float32)
    ends = random.integers(0, 2, images.shape).astype(np.float32)
    images = np.where(random.random(images.shape) < 1 / 4, ends, images)
    predictions = run_onnx_cached(case.artifact.path, images)[0].argmax(axis=1)
    anything = random.integers(0, CLASSES, count)
    return images, np.where(random.random(count) < 1 / 8, anything, predictions).astype(np.int64)


def check(
    case: Plain, ball: Ball, seed: int, budget: Budget = LONG, *, white_box: bool = True
) -> Counter[tuple[str, str | None]]:
    images, labels = batch_of(case, ball, seed)
    verifier = case.verifier(ball, budget, white_box=white_box)
    return check_decided(case, ball, images, labels, verifier.decide(images, labels, np.arange(len(images))))
