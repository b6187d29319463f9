"""The claim `ball` for plain images: against every 8-bit image of the ball, and float images all over it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import pytest
import torch
from ball_oracle import LEVELS, ball_ends, float32_above, float32_below, in_ball, levels_within, run_onnx_cached
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import with_weight
from torch import nn

from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.errors import GridError, VerifierError
from abscert_plugin.lirpa.bounds import Bounder, BoundMethod, SplitMargins
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.radius import Radius
from abscert_plugin.verification import plain as plain_module
from abscert_plugin.verification import relu_search
from abscert_plugin.verification import steps as steps_module
from abscert_plugin.verification.batch import Batch
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.plain import PlainBallVerifier
from abscert_plugin.verification.reach import Ball, Inputs
from abscert_plugin.verification.run import Artifact
from abscert_plugin.verification.steps import Budget

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

    def verifier(self, ball: Ball, budget: Budget = LONG, *, white_box: bool = True) -> PlainBallVerifier:
        opened = self.white_box if white_box else None
        return PlainBallVerifier(self.artifact.classifier, self.artifact.metadata, opened, ball, budget)

    def margins(self, images: np.ndarray, label: int) -> np.ndarray:
        """Return the label's margins, by onnxruntime itself."""
        (logits,) = run_onnx_cached(self.artifact.path, images)
        return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)


def plain(network: nn.Module, shape: tuple[int, int, int], classes: int = CLASSES) -> Plain:
    config = NetworkConfig("fc-3", Activation.RELU, shape, classes, takes_intervals=False)
    folder = Path(mkdtemp(prefix="abscert-plain-"))
    path = export_plain(network, config, "none", np.zeros((1, *shape), dtype=np.float32), folder).deploy
    artifact = Artifact.open(path, Provider.CPU, threads=1)
    return Plain(artifact, open_white_box(onnx.load_model(str(path)), path))


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


def check_decided(case: Plain, ball: Ball, images: np.ndarray, labels: np.ndarray, decided: list[Decided]) -> Counter:
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


def check(case: Plain, ball: Ball, seed: int, budget: Budget = LONG, *, white_box: bool = True) -> Counter:
    images, labels = batch_of(case, ball, seed)
    verifier = case.verifier(ball, budget, white_box=white_box)
    return check_decided(case, ball, images, labels, verifier.decide(images, labels, np.arange(len(images))))


def no_attack(network: object, ball: Ball, images: np.ndarray, *_: object) -> tuple[np.ndarray, np.ndarray]:
    """Return what an attack that finds nothing returns."""
    return images, np.full(len(images), np.inf, dtype=np.float32)


def nothing_known(self: Bounder, lower: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.full((len(lower), CLASSES - 1), -torch.inf)


@pytest.fixture
def only_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it all to branch and bound."""
    monkeypatch.setattr(plain_module, "pgd", no_attack)
    monkeypatch.setattr(steps_module, "_BOUND_METHODS", (BoundMethod.IBP,))
    monkeypatch.setattr(Bounder, "margins", nothing_known)


# --- verdicts ---------------------------------------------------------------------------------------------------------

cases = st.integers(0, 11).map(plain_case)
tiny_or_large = st.sampled_from(["0", "1e-9", "1/255", "3/255", "0.1", "0.3", "1"]).map(Fraction)
float_balls = (tiny_or_large | st.floats(0, 0.4).map(Fraction)).map(lambda radius: Ball(Radius(radius)))
small = st.sampled_from(["0", "1e-9", "1/255", "2/255", "4/255", "8/255", "0.03", "3/254", "1"]).map(Fraction)
uint8_balls = small.map(lambda radius: Ball(Radius(radius), Inputs.UINT8))
seeds = st.integers(0, 2**32)


@settings(max_examples=15)
@given(cases, float_balls, seeds)
def test_no_image_of_a_certified_ball_is_mislabelled(case: Plain, ball: Ball, seed: int) -> None:
    check(case, ball, seed)


@settings(max_examples=15)
@given(cases, uint8_balls, seeds)
def test_no_8_bit_image_of_a_certified_ball_is_mislabelled(case: Plain, ball: Ball, seed: int) -> None:
    check(case, ball, seed)


@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.usefixtures("only_the_search")
def test_verdicts_of_the_search_alone_are_true(inputs: Inputs) -> None:
    total: Counter = Counter()
    for number in range(6):
        for radius in ("2/255", "0.05"):
            total += check(plain_case(number), Ball(Radius.parse(radius), inputs), number)
    assert {method for _, method in total} == {"forward", "branch and bound"}
    assert total["certified", "branch and bound"] > 100
    assert total["falsified", "branch and bound"] > 5


def test_with_time_most_balls_are_decided_and_by_each_step() -> None:
    """Without this, the properties above might hold of verdicts that are all unknown."""
    total: Counter = Counter()
    for number in range(7):
        for radius in ("0", "1/255", "0.1", "0.25"):
            total += check(plain_case(number), Ball(Radius.parse(radius)), number)
    kinds = {kind: sum(total[item] for item in total if item[0] == kind) / total.total() for kind, _ in total}
    assert kinds.get("unknown", 0) < 0.05
    assert min(kinds["certified"], kinds["falsified"]) > 0.2  # of hundreds
    assert {("certified", "forward"), ("falsified", "forward"), ("falsified", "gradient attack")} <= set(total)
    assert {("certified", "ibp"), ("certified", "crown-ibp"), ("certified", "branch and bound")} <= set(total)
    assert ("falsified", "branch and bound") in total


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
    verifier = PlainBallVerifier(artifact.classifier, artifact.metadata, None, Ball(Radius.parse("0")), LONG)
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


def on_gray(case: Plain, ball: Ball) -> Counter:
    label = np.array([0])
    return check_decided(case, ball, GRAY, label, case.verifier(ball).decide(GRAY, label, np.array([0])))


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("search", [False, True])
def test_bounds_that_are_raised_are_seen(monkeypatch: pytest.MonkeyPatch, ball: Ball, search: bool) -> None:
    case = falling(-5e-4, HIGH)
    monkeypatch.setattr(plain_module, "pgd", no_attack)  # it would find the image before bounds are asked
    if search:
        monkeypatch.setattr(Bounder, "margins", nothing_known)
    assert on_gray(case, ball) == {("falsified", "branch and bound"): 1}
    margins, split_margins = Bounder.margins, Bounder.split_margins

    def raised(self: Bounder, *rest: object) -> SplitMargins:
        return replace(found := split_margins(self, *rest), bounds=found.bounds + 1e-3)

    monkeypatch.setattr(Bounder, "margins", lambda *arguments: margins(*arguments) + 1e-3)
    monkeypatch.setattr(Bounder, "split_margins", raised)
    with pytest.raises(AssertionError, match="certified, but"):
        on_gray(case, ball)


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
    ball, split = Ball(Radius.parse("1"), inputs), relu_search._split
    case = layered([[[1.0, 0.0]] * len(biases), [[0.0] * len(biases), weights]], [biases, [0.25, 0.0]])
    monkeypatch.setattr(plain_module, "pgd", no_attack)
    assert on_gray(case, ball) == {("unknown", "branch and bound"): 1}
    monkeypatch.setattr(relu_search, "_split", lambda branch: (split(branch)[kept],) * 2)
    with pytest.raises(AssertionError, match="certified, but"):
        on_gray(case, ball)


@pytest.mark.parametrize("ball", BALLS)
def test_ends_of_the_ball_that_are_rounded_inward_are_seen(monkeypatch: pytest.MonkeyPatch, ball: Ball) -> None:
    case, ends = falling(-5e-4, HIGH), Ball.ends
    assert on_gray(case, ball) == {("falsified", "gradient attack"): 1}

    def inward(self: Ball, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = ends(self, images)
        return low + np.float32(1e-3), high - np.float32(1e-3)

    monkeypatch.setattr(Ball, "ends", inward)
    with pytest.raises(AssertionError, match="certified, but"):
        on_gray(case, ball)


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.usefixtures("only_the_search")
def test_an_attack_that_is_believed_is_seen(monkeypatch: pytest.MonkeyPatch, ball: Ball) -> None:
    case = falling(0.1, HIGH)  # white images are mislabelled, and lie outside the ball

    def mistaken(network: object, ball: Ball, images: np.ndarray, *_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.ones_like(images), np.full(len(images), -1, dtype=np.float32)

    monkeypatch.setattr(plain_module, "pgd", mistaken)
    assert on_gray(case, ball) == {("certified", "branch and bound"): 1}

    def believed(self: Batch, row: int, image: np.ndarray, method: str) -> bool:
        self.falsify(row, image, "an image of the ball is mislabelled", method)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "replay", believed)
        with pytest.raises(AssertionError, match="gets its label"):
            on_gray(case, ball)
    monkeypatch.setattr(Ball, "into", lambda self, centers, images: images)
    monkeypatch.setattr(Ball, "contains", lambda self, center, image: True)
    with pytest.raises(AssertionError, match="lies outside the ball"):
        on_gray(case, ball)
