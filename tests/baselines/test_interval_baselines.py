"""IBP, CROWN-IBP, SABR and MTL-IBP: each loss written out by hand in numpy, each margin against samples."""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from abscert_plugin.bounds import intervals
from abscert_plugin.bounds.intervals import Box
from abscert_plugin.claim import Radius
from abscert_plugin.training import robust
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment, Objective
from baselines.pixels import PixelBalls

CPU = torch.device("cpu")
RADIUS = 0.1
RISE = {"start": "0.2", "ramp": "0.5"}
# of 100 steps: none, just begun, either side of the smoothed rise's bend, the end
BEFORE, BEGUN, EARLY, LATE, AFTER = 10, 25, 30, 55, 80
CLOSE: dict[str, Any] = {"rel": 2e-5, "abs": 2e-5}  # float32 sums of numbers around 1, against float64

Array = np.ndarray


def network(seed: int, scale: float = 0.5) -> nn.Sequential:
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, scale, generator=generator)
    return made


def batch(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return images, torch.randint(3, (count,), generator=generator)


def objective(name: str, options: Mapping[str, str]) -> Objective:
    return METHODS.named(name).create(Radius.parse(str(RADIUS)), {**RISE, **options}).build(None, 255, CPU)


def at(step: int) -> Moment:
    return Moment(step, 10, 10)


# --- by hand, in float64 -------------------------------------------------------------------------------------------


def progress(step: int, smooth: bool) -> float:
    """Return how far the radius has risen: from step 20 to step 70; smoothed, the bend is at a quarter of that."""
    share = min(max((step - 20) / 50, 0), 1)
    if not smooth:
        return share
    return 16**2 * share**4 / 13 if share <= 0.25 else 1 / 13 + 16 / 13 * (share - 0.25)


def ends(images: Tensor, radius: float) -> tuple[Array, Array]:
    pixels = images.numpy().reshape(len(images), -1).astype(np.float64) / 255
    return 2 * np.maximum(pixels - radius, 0) - 1, 2 * np.minimum(pixels + radius, 1) - 1


def layers(made: nn.Sequential) -> list[tuple[Array, Array]]:
    linear = [layer for layer in made if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in linear]


def affine(weight: Array, bias: Array, low: Array, high: Array) -> tuple[Array, Array]:
    up, down = np.maximum(weight, 0), np.minimum(weight, 0)
    return low @ up.T + high @ down.T + bias, high @ up.T + low @ down.T + bias


def before_activations(made: nn.Sequential, low: Array, high: Array) -> list[tuple[Array, Array]]:
    found = []
    for weight, bias in layers(made)[:-1]:
        low, high = affine(weight, bias, low, high)
        found.append((low, high))
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    return found


def interval_margins(made: nn.Sequential, low: Array, high: Array, labels: Array) -> Array:
    """Return lower bounds of the margins; the last layer is merged with the differences of logits."""
    low, high = (np.maximum(end, 0) for end in before_activations(made, low, high)[-1])
    weight, bias = layers(made)[-1]
    rows = [affine(weight[y] - weight, bias[y] - bias, low[i], high[i])[0] for i, y in enumerate(labels)]
    return np.array(rows)


def crown_ibp_margins(made: nn.Sequential, low: Array, high: Array, labels: Array) -> Array:
    """Return lower bounds by one pass backwards per image and margin, over interval bounds of the hidden layers."""
    *hidden, (last, last_bias) = layers(made)
    before = before_activations(made, low, high)
    found = np.zeros((len(labels), len(last)))
    for image, label in enumerate(labels):
        for other in range(len(last)):
            row, constant = last[label] - last[other], last_bias[label] - last_bias[other]
            for (weight, bias), (lows, highs) in zip(reversed(hidden), reversed(before), strict=True):
                slopes = np.zeros(len(bias))
                for neuron, (least, most) in enumerate(zip(lows[image], highs[image], strict=True)):
                    if least >= 0:
                        slopes[neuron] = 1
                    elif most > 0 and row[neuron] >= 0:
                        slopes[neuron] = float(most > -least)  # adaptive: the line of less area
                    elif most > 0:
                        slopes[neuron] = most / (most - least)
                        constant += row[neuron] * -least * slopes[neuron]
                row = row * slopes
                constant += row @ bias
                row = row @ weight
            middle, half = (low[image] + high[image]) / 2, (high[image] - low[image]) / 2
            found[image, other] = row @ middle - np.abs(row) @ half + constant
    return found


def robust_loss(margins: Array) -> float:
    """Return log(1 + sum over the other classes of exp(-margin)), on average; the label's own margin is 0."""
    return float(np.log(np.exp(-margins).sum(axis=1)).mean())


def cross_entropy(made: nn.Sequential, inputs: Array, labels: Array) -> float:
    point = inputs.reshape(len(inputs), -1)
    return robust_loss(interval_margins(made, point, point, labels))


def regulariser(made: nn.Sequential, low: Array, high: Array) -> float:
    """Return L_tight + L_relu of Shi et al. 2021, tau = 0.5."""

    def short(value: float) -> float:
        return max(0.0, 0.5 - value) / 0.5

    def ratio(first: float, second: float) -> float:
        return min(first / second, second / first) if first > 0 and second > 0 else 1.0

    total = 0.0
    before = before_activations(made, low, high)
    for lows, highs in before:
        middle, entering = (lows + highs) / 2, (high - low).mean() / 2
        above, below = lows > 0, highs < 0
        spread = (middle - middle.mean()) ** 2
        total += short(entering / max((highs - lows).mean() / 2, 1e-12))
        total += short(ratio((middle * above).mean(), -(middle * below).mean()))
        total += short(ratio((spread * above).sum(), (spread * below).sum()))
    return total / len(before)


# --- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [BEFORE, BEGUN, EARLY, LATE, AFTER])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_loss_of_ibp_without_fast_is_that_by_hand(step: int, seed: int) -> None:
    made, (images, labels) = network(seed), batch(seed)
    share = progress(step, smooth=False)
    kappa = 1 - 0.5 * share
    natural = cross_entropy(made, ends(images, 0)[0], labels.numpy())
    robust_part = robust_loss(interval_margins(made, *ends(images, share * RADIUS), labels.numpy()))
    found = objective("ibp", {"fast": "false"}).loss(made, images, labels, at(step))
    assert found.item() == pytest.approx(kappa * natural + (1 - kappa) * robust_part, **CLOSE)


@pytest.mark.parametrize("step", [EARLY, LATE, AFTER])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_loss_of_fast_ibp_is_that_by_hand(step: int, seed: int) -> None:
    made, (images, labels) = network(seed), batch(seed)
    share = progress(step, smooth=True)
    box = ends(images, share * RADIUS)
    # of the image alone there is no part once the radius rises
    expected = robust_loss(interval_margins(made, *box, labels.numpy())) + 0.5 * (1 - share) * regulariser(made, *box)
    found = objective("ibp", {}).loss(made, images, labels, at(step))
    assert found.item() == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("name", ["ibp", "sabr", "mtl-ibp"])
def test_the_regulariser_measures_the_growth_of_boxes_before_the_radius_rises(name: str) -> None:
    made, (images, labels) = network(1), batch(1)
    expected = cross_entropy(made, ends(images, 0)[0], labels.numpy()) + 0.5 * regulariser(made, *ends(images, 1e-6))
    found = objective(name, {}).loss(made, images, labels, at(BEFORE))
    # the ends of a box of 1e-6 round by some percent in float32
    assert found.item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("step", [BEFORE, EARLY, LATE, AFTER])
@pytest.mark.parametrize("natural_end", [0.0, 0.5])
@pytest.mark.parametrize("bounds_end", [0.0, 0.5, 1.0])
def test_the_loss_of_crown_ibp_is_that_by_hand(step: int, natural_end: float, bounds_end: float) -> None:
    made, (images, labels) = network(3), batch(3)
    share = progress(step, smooth=False)
    beta, kappa = 1 - share * (1 - bounds_end), 1 - share * (1 - natural_end)
    box = ends(images, share * RADIUS)
    linear, interval = (bound(made, *box, labels.numpy()) for bound in (crown_ibp_margins, interval_margins))
    natural = cross_entropy(made, ends(images, 0)[0], labels.numpy())
    expected = kappa * natural + (1 - kappa) * robust_loss(beta * linear + (1 - beta) * interval)
    options = {"natural_end": str(natural_end), "bounds_end": str(bounds_end)}
    found = objective("crown-ibp", options).loss(made, images, labels, at(step))
    assert found.item() == pytest.approx(expected, **CLOSE)
    assert step == BEFORE or robust_loss(interval) > robust_loss(linear) + 1e-3


@pytest.mark.parametrize("bounds_end", [0.0, 1.0])
def test_margins_of_crown_ibp_are_by_the_bounds_that_it_ends_with(bounds_end: float) -> None:
    made, (images, labels) = network(4), batch(4)
    box = ends(images, RADIUS)
    bounds = interval_margins(made, *box, labels.numpy())
    if bounds_end:
        bounds = np.maximum(bounds, crown_ibp_margins(made, *box, labels.numpy()))
    bounds[np.arange(len(labels)), labels.numpy()] = np.inf
    found = objective("crown-ibp", {"bounds_end": str(bounds_end)}).margins(made, images, labels)
    assert found.tolist() == pytest.approx(bounds.min(axis=1).tolist(), **CLOSE)


class Attacks:
    """Attacks that are made and remembered: the steps, the box and what was found; or other points in their stead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, instead: Callable[[Box], Tensor] | None = None) -> None:
        self.steps, self.found = 0, torch.empty(0)
        made = PixelBalls.adversarial

        def recorded(balls: PixelBalls, net: nn.Module, box: Box, labels: Tensor, steps: int) -> Tensor:
            self.steps = steps
            self.found = made(balls, net, box, labels, steps) if instead is None else instead(box)
            return self.found

        monkeypatch.setattr(PixelBalls, "adversarial", recorded)

    def points(self) -> Array:
        return self.found.flatten(1).double().numpy()


def inside(points: Array, images: Tensor, radius: float) -> bool:
    low, high = ends(images, radius)
    return bool((points >= low - 1e-6).all() and (points <= high + 1e-6).all())


@pytest.mark.parametrize("step", [EARLY, LATE, AFTER])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_of_mtl_ibp_is_that_by_hand(monkeypatch: pytest.MonkeyPatch, step: int, share: float) -> None:
    made, (images, labels), attacks = network(5), batch(5), Attacks(monkeypatch)
    found = objective("mtl-ibp", {"share": str(share), "attack_steps": "4"}).loss(made, images, labels, at(step))
    risen = progress(step, smooth=True)
    box = ends(images, risen * RADIUS)
    assert attacks.steps == 4
    assert inside(attacks.points(), images, risen * RADIUS)
    natural = cross_entropy(made, ends(images, 0)[0], labels.numpy())
    attacked = cross_entropy(made, attacks.points(), labels.numpy())
    assert attacked > natural
    robust_part = (1 - share) * attacked + share * robust_loss(interval_margins(made, *box, labels.numpy()))
    expected = robust_part + 0.5 * (1 - risen) * regulariser(made, *box)
    assert found.item() == pytest.approx(expected, **CLOSE)


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[Box]:
    """Return the boxes that a loss asks interval bounds of."""
    seen: list[Box] = []
    right = intervals.interval_margins

    def recorded(net: nn.Sequential, box: Box, *rest: Tensor) -> object:
        seen.append(box)
        return right(net, box, *rest)

    monkeypatch.setattr(robust, "interval_margins", recorded)
    return seen


@pytest.mark.parametrize("step", [EARLY, LATE, AFTER])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_box_of_sabr_has_its_share_of_the_ball_and_lies_in_it(
    monkeypatch: pytest.MonkeyPatch, boxes: list[Box], step: int, share: float
) -> None:
    made, (images, labels), attacks = network(6), batch(6), Attacks(monkeypatch)
    loss = objective("sabr", {"share": str(share)}).loss(made, images, labels, at(step))
    risen = progress(step, smooth=True)
    low, high = (end.flatten(1).double().numpy() for end in (boxes[0].lower, boxes[0].upper))
    ball_low, ball_high = ends(images, risen * RADIUS)
    for points in (attacks.points(), low, high):
        assert inside(points, images, risen * RADIUS)
    np.testing.assert_allclose(high - low, share * (ball_high - ball_low), rtol=0, atol=1e-6)  # float32 ends
    # the point that was attacked is in it
    assert (low - 1e-6 <= attacks.points()).all()
    assert (attacks.points() <= high + 1e-6).all()
    expected = robust_loss(interval_margins(made, low, high, labels.numpy()))
    expected += 0.5 * (1 - risen) * regulariser(made, low, high)
    assert loss.item() == pytest.approx(expected, **CLOSE)


def test_a_point_well_inside_the_ball_is_the_centre_of_the_box_of_sabr(
    monkeypatch: pytest.MonkeyPatch, boxes: list[Box]
) -> None:
    made, (images, labels) = network(6), batch(6)
    attacks = Attacks(monkeypatch, lambda box: box.center + 0.25 * box.radius)
    objective("sabr", {"share": "0.3"}).loss(made, images, labels, at(AFTER))
    torch.testing.assert_close(boxes[0].center, attacks.found, rtol=0, atol=1e-6)


# --- margins -------------------------------------------------------------------------------------------------------

CASES = [
    ("ibp", {}),
    ("ibp", {"fast": "false"}),
    ("crown-ibp", {}),
    ("crown-ibp", {"bounds_end": "1"}),
    ("sabr", {}),
    ("mtl-ibp", {}),
    ("taps", {}),
    ("staps", {}),
]


def sampled_margins(made: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the least margin seen in each ball: at random points, corners, and those that gradients point to."""
    low, high = (torch.from_numpy(end).float().reshape(images.shape) for end in ends(images, RADIUS))
    generator = torch.Generator().manual_seed(0)
    share = torch.rand((300, *low.shape), generator=generator)
    share[::2] = share[::2].round()
    middle = ((low + high) / 2).requires_grad_()
    corners = []
    for other in range(3):
        logits = made(middle)
        margin = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
        corners.append((torch.autograd.grad(margin.sum(), middle)[0] < 0).float())
    share = torch.cat([share, torch.stack(corners)])
    with torch.no_grad():
        logits = made((low + share * (high - low)).flatten(0, 1)).reshape(len(share), len(low), 3)
    own = labels.expand(len(share), -1)[..., None]
    others = logits.scatter(2, own, -torch.inf).amax(dim=2)
    return (logits.gather(2, own)[..., 0] - others).amin(dim=0)


def are_sound(name: str, options: Mapping[str, str], made: nn.Module, seed: int) -> bool:
    (images, labels), judge = batch(seed, 20), objective(name, options)
    with torch.no_grad():
        found = judge.margins(made, judge.encode(images), labels)
    assert (judge.name, judge.claim) == (name, "ball")
    return bool((found <= sampled_margins(made, images, labels) + 1e-5).all())  # float32 numbers around 1


@pytest.mark.parametrize(("name", "options"), CASES)
def test_margins_hold_for_sampled_images_of_the_ball(name: str, options: dict[str, str]) -> None:
    assert all(are_sound(name, options, network(seed), seed) for seed in range(10))


def tight_network() -> nn.Sequential:
    """Return a network whose interval bounds are attained: a pixel per neuron, all of them active."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        cast(nn.Linear, made[1]).weight.copy_(torch.diag(torch.tensor([1.0, -2.0, 1.5, 0.5])))
        cast(nn.Linear, made[1]).bias.fill_(5.0)
        cast(nn.Linear, made[3]).weight.copy_(
            torch.tensor([[1.0, 2.0, -3.0, 0.5], [-2.0, 1.0, 1.0, 4.0], [0.5, -1.0, 2.0, -2.0]])
        )
    return made


@pytest.mark.parametrize(("name", "options"), CASES[:3] + CASES[4:])
def test_samples_see_a_radius_of_one_percent_too_little(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, str]
) -> None:
    assert are_sound(name, options, tight_network(), 8)
    right = intervals._LAYERS[nn.Linear]

    def shrunk(layer: nn.Linear, box: Box) -> Box:
        whole = right(layer, box)
        return Box(whole.center, 0.99 * whole.radius)

    monkeypatch.setattr(intervals, "_LAYERS", {**intervals._LAYERS, nn.Linear: shrunk})
    assert not are_sound(name, options, tight_network(), 8)


@pytest.mark.parametrize("name", ["ibp", "crown-ibp", "sabr", "mtl-ibp", "taps", "staps"])
def test_first_weights_are_shi_et_als_where_the_method_says_so(name: str) -> None:
    made = nn.Sequential(nn.Flatten(), nn.Linear(400, 100), nn.ReLU(), nn.Linear(100, 3))
    before = cast(nn.Linear, made[1]).weight.detach().clone()
    torch.manual_seed(0)
    METHODS.named(name).create(Radius.parse("0.1"), {}).prepare(made)
    if name == "crown-ibp":
        assert torch.equal(cast(nn.Linear, made[1]).weight, before)
    else:
        assert float(cast(nn.Linear, made[1]).weight.detach().std()) == pytest.approx(
            math.sqrt(2 * math.pi) / 400, rel=0.02
        )
