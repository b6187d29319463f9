"""Training without a certificate: cross-entropy by hand, attacks within the ball, margins that no seed moves."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box, interval_margins
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import error_rate
from abscert_plugin.training.objective import Moment, Objective
from baselines.pixels import PixelBalls
from baselines.plain import Pgd, Plain

CPU = torch.device("cpu")
RADIUS = 0.1
CLOSE: dict[str, Any] = {"rel": 1e-5, "abs": 1e-5}  # float32 sums of numbers around 1, against float64


def network(seed: int = 0) -> nn.Sequential:
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 1, generator=generator)
    return made


def batch(seed: int, count: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return images, torch.randint(3, (count,), generator=generator)


def pgd(**options: Any) -> Objective:
    return Pgd(Radius.parse(str(RADIUS)), **options).build(None, 255, CPU)


def at(step: int) -> Moment:
    return Moment(step, 10, 10)


def logits_by_hand(made: nn.Sequential, inputs: np.ndarray) -> np.ndarray:
    """Return the logits in float64."""
    first, last = cast(nn.Linear, made[1]), cast(nn.Linear, made[3])
    values = inputs.reshape(len(inputs), -1) @ first.weight.detach().double().numpy().T + first.bias.detach().numpy()
    return np.maximum(values, 0) @ last.weight.detach().double().numpy().T + last.bias.detach().numpy()


def cross_entropy_by_hand(made: nn.Sequential, inputs: np.ndarray, labels: Tensor) -> float:
    logits = logits_by_hand(made, inputs)
    own = logits[np.arange(len(logits)), labels.numpy()]
    return float((np.log(np.exp(logits).sum(axis=1)) - own).mean())


def clean(images: Tensor) -> np.ndarray:
    return 2 * images.numpy().astype(np.float64) / 255 - 1


# --- plain ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_plain_is_the_cross_entropy_at_any_moment() -> None:
    made, (images, labels), objective = network(1), batch(1), Plain().build(None, 255, CPU)
    expected = cross_entropy_by_hand(made, clean(images), labels)
    for step in (0, 50, 99):
        found = objective.loss(made, objective.encode(images), labels, at(step))
        assert found.item() == pytest.approx(expected, **CLOSE)


def test_the_margins_of_plain_are_those_of_the_images() -> None:
    made, (images, labels), objective = network(2), batch(2), Plain().build(None, 255, CPU)
    logits = logits_by_hand(made, clean(images))
    rows, own = np.arange(len(logits)), labels.numpy()
    others = logits.copy()
    others[rows, own] = -np.inf
    found = objective.margins(made, objective.encode(images), labels)
    assert found.tolist() == pytest.approx((logits[rows, own] - others.max(axis=1)).tolist(), **CLOSE)
    assert objective.claim == "clean"  # neither `cell` nor `ball`: it certifies nothing


def test_plain_has_no_options_and_leaves_the_network() -> None:
    made = network(3)
    before = [parameter.clone() for parameter in made.parameters()]
    Plain().prepare(made)
    assert all(torch.equal(old, new) for old, new in zip(before, made.parameters(), strict=True))
    assert Plain().describe() == {}


# --- pgd -----------------------------------------------------------------------------------------------------------


class Attacks:
    """The attacks that were made: the networks' modes, the steps and what was found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, Tensor]] = []
        made = PixelBalls.adversarial

        def recorded(balls: PixelBalls, net: nn.Module, box: Box, labels: Tensor, steps: int) -> Tensor:
            found = made(balls, net, box, labels, steps)
            self.calls.append((steps, found))
            return found

        monkeypatch.setattr(PixelBalls, "adversarial", recorded)


@pytest.mark.parametrize(("step", "risen"), [(0, 0.0), (10, 0.25), (20, 0.5), (40, 1.0), (90, 1.0)])
@pytest.mark.parametrize("attack_steps", [1, 5])
def test_the_loss_of_pgd_is_the_cross_entropy_of_attacks_in_the_ball(
    monkeypatch: pytest.MonkeyPatch, step: int, risen: float, attack_steps: int
) -> None:
    made, (images, labels), attacks = network(4), batch(4), Attacks(monkeypatch)
    found = pgd(attack_steps=attack_steps, ramp=0.4).loss(made, images, labels, at(step))
    ((steps, points),) = attacks.calls
    inputs = points.double().numpy()
    assert steps == attack_steps
    pixels = images.numpy() / 255
    assert (inputs >= 2 * np.maximum(pixels - risen * RADIUS, 0) - 1 - 1e-6).all()
    assert (inputs <= 2 * np.minimum(pixels + risen * RADIUS, 1) - 1 + 1e-6).all()
    before, after = (cross_entropy_by_hand(made, x, labels) for x in (clean(images), inputs))
    assert found.item() == pytest.approx(after, **CLOSE)
    assert after > before if risen else after == pytest.approx(before, **CLOSE)


def test_the_weights_of_pgd_follow_the_attacked_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (images, labels), attacks = network(5), batch(5), Attacks(monkeypatch)
    pgd().loss(made, images, labels, at(99)).backward()
    expected = torch.autograd.grad(functional.cross_entropy(made(attacks.calls[0][1]), labels), [*made.parameters()])
    for parameter, gradient in zip(made.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)


def test_a_step_of_pgd_counts_one_batch_of_attacked_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    (images, labels), attacks = batch(6), Attacks(monkeypatch)
    pgd().loss(made, images, labels, at(99))
    entering = made[1](attacks.calls[0][1].flatten(1)).detach()
    assert int(cast(Any, made[2]).num_batches_tracked) == 1
    torch.testing.assert_close(
        cast(nn.BatchNorm1d, made[2]).running_mean, 0.1 * entering.mean(dim=0), rtol=1e-5, atol=1e-6
    )
    assert made[2].training


def test_validation_margins_of_pgd_do_not_depend_on_the_random_state_and_leave_it() -> None:
    made, (images, labels), objective = network(7), batch(7), pgd()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        found.append(objective.margins(made, images, labels))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*found)


def test_validation_margins_of_pgd_lie_between_the_bound_of_the_ball_and_the_image() -> None:
    made, (images, labels), objective = network(8), batch(8, 200), pgd()
    found = objective.margins(made, images, labels).detach()
    box = PixelBalls(255).box(images, RADIUS)
    bound = interval_margins(made, box, labels).lower.detach().scatter(1, labels[:, None], torch.inf).amin(dim=1)
    logits = torch.from_numpy(logits_by_hand(made, clean(images)))
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    own = logits.gather(1, labels[:, None])[:, 0] - others
    assert (found >= bound - 1e-5).all()
    # attacks raise the loss, which for a few images may leave the greatest of the others where it is
    assert float((found < own).float().mean()) > 0.9


def test_the_error_rate_of_pgd_is_computed_where_the_loop_computes_it() -> None:
    data = load_data("digits", Split.TRAIN).first(50)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).train()
    methods = (Plain(), Pgd(Radius.parse("0.3")))
    clean_error, attacked_error = (
        error_rate(made, method.build(None, data.levels, CPU), Feed(data, CPU)) for method in methods
    )
    assert 0 < clean_error < 1
    assert attacked_error > clean_error
    assert made.training


@pytest.mark.parametrize("moment", [0, 50, 99])
def test_pgd_of_radius_0_is_plain(moment: int) -> None:
    made, (images, labels) = network(9), batch(9)
    objective = Pgd(Radius.parse("0")).build(None, 255, CPU)
    expected = cross_entropy_by_hand(made, clean(images), labels)
    assert objective.loss(made, images, labels, at(moment)).item() == pytest.approx(expected, **CLOSE)


def test_radii_of_either_scale_are_the_same_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (images, labels), attacks = network(10), batch(10), Attacks(monkeypatch)
    for radius in (Radius.parse("0.1"), Radius.parse("0.2", RadiusScale.TRAINING)):
        Pgd(radius).build(None, 255, CPU).margins(made, images, labels)
    (_, first), (_, second) = attacks.calls
    assert torch.equal(first, second)
    assert Pgd(Radius.parse("0.2", RadiusScale.TRAINING)).describe() == {
        "radius": "1/5",
        "radius_scale": "training",
        "attack_steps": 7,
        "ramp": 0.2,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attack_steps": 0}, "attack_steps of at least 1, got 0"),
        ({"ramp": 1.5}, "ramp from 0 to 1"),
        ({"ramp": math.nan}, "ramp from 0 to 1"),
    ],
)
def test_options_of_pgd_without_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Pgd(Radius.parse("0.1"), **options)
