"""AdvIBP: the geometry of joined gradients, FOSC by hand, phases, and the loss's gradient against the explicit one."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from abscert_plugin.bounds.intervals import interval_margins
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment
from baselines.adv_ibp import AdvIbp, Phase, first_order_condition, objective_weights
from baselines.pixels import PixelBalls

CPU = torch.device("cpu")
RADIUS = Radius.parse("0.1")
JOINT_ONLY = {"natural": 0.0, "attacked": 0.0, "ramp": 0.0}
START = Moment(0, 10, 10)
YES, NO = torch.tensor(True), torch.tensor(False)


# --- the joined gradient ------------------------------------------------------------------------------------------


def gradients(seed: int, length: int, sizes: tuple[float, float]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn((2, length), generator=generator, dtype=torch.float64)
    return pair[0] * sizes[0], pair[1] * sizes[1]


def joined(attack: Tensor, bound: Tensor, converged: Tensor) -> Tensor:
    weights = objective_weights(attack, bound, converged)
    return weights[0] * attack + weights[1] * bound


pairs = st.builds(
    gradients,
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 3, 50]),
    st.tuples(*2 * [st.sampled_from([1e-6, 0.3, 1.0, 20.0])]),
)


@settings(max_examples=200)
@given(pairs, st.booleans())
def test_gradients_that_agree_are_joined_along_their_bisector(pair: tuple[Tensor, Tensor], converged: bool) -> None:
    attack, bound = pair
    assume(float(attack @ bound) > 0)
    found = joined(attack, bound, torch.tensor(converged))
    bisector = attack / attack.norm() + bound / bound.norm()
    expected = bisector * (bisector @ (attack + bound) / 2 / (bisector @ bisector))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0.0)  # float64, no sum loses digits
    cosines = [float(found @ part / found.norm() / part.norm()) for part in pair]
    assert cosines[0] == pytest.approx(cosines[1], rel=1e-9)
    assert cosines[0] > 0.7  # at most half of a right angle


@settings(max_examples=200)
@given(pairs)
def test_gradients_that_conflict_leave_one_that_is_orthogonal_to_the_other(pair: tuple[Tensor, Tensor]) -> None:
    attack, bound = pair
    if float(attack @ bound) > 0:
        attack = -attack
    for found, kept, other in ((joined(attack, bound, YES), attack, bound), (joined(attack, bound, NO), bound, attack)):
        rounding = 1e-12 * float(kept.norm())
        assert abs(float(found @ other)) <= rounding * float(other.norm())
        assert float(found @ kept) >= -rounding * float(kept.norm())
        torch.testing.assert_close(found, kept - (kept @ other) / (other @ other) * other, rtol=1e-9, atol=rounding)
        assert all(float(weight) >= 0 for weight in objective_weights(attack, bound, YES))


@pytest.mark.parametrize("converged", [YES, NO])
def test_a_gradient_of_zero_drops_its_term(converged: Tensor) -> None:
    some, zero = torch.tensor([3.0, -4.0]), torch.zeros(2)
    assert torch.equal(torch.stack(objective_weights(some, zero, converged)), torch.tensor([1.0, 0.0]))
    assert torch.equal(torch.stack(objective_weights(zero, some, converged)), torch.tensor([0.0, 1.0]))
    assert torch.equal(torch.stack(objective_weights(zero, zero, converged)), torch.zeros(2))


def test_orthogonal_gradients_leave_the_one_that_leads() -> None:
    attack, bound = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0])
    assert torch.equal(joined(attack, bound, YES), attack)
    assert torch.equal(joined(attack, bound, NO), bound)


# --- FOSC ---------------------------------------------------------------------------------------------------------


def test_the_first_order_condition_of_a_linear_model_is_that_by_hand() -> None:
    """The loss log(1 + exp(-w x)) has the gradient -w / (1 + exp(w x)): its maximum in the ball is at -sign(w)."""
    weights, center, radius = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([[0.1, 0.2, -0.3]]), 0.25
    for steps, factor in ((-1.0, 0.0), (0.0, 1.0), (1.0, 2.0), (-0.5, 0.5)):
        point = (center + steps * radius * weights.sign()).requires_grad_()
        (gradient,) = torch.autograd.grad(functional.softplus(-(point @ weights)).sum(), point)
        found = first_order_condition(point.detach(), center, radius, gradient)
        size = 3.5 / (1 + math.exp(float(point.detach() @ weights)))  # |w|_1 is 3.5
        assert found.tolist() == pytest.approx([factor * radius * size], abs=1e-6)


# --- phases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "phase", "attack", "bound", "threshold"),
    [
        (0, Phase.NATURAL, 0.0, 0.0, 1.0),
        (9, Phase.NATURAL, 0.0, 0.0, 1.0),
        (10, Phase.ATTACKED, 0.0, 0.0, 1.0),
        (
            20,
            Phase.ATTACKED,
            1 / 13,
            0.0,
            1.0,
        ),  # a quarter of a smoothed rise: a power of 4 that goes on as its tangent
        (35, Phase.ATTACKED, 1 / 13 * (1 + 16 * 0.375), 0.0, 1.0),
        (49, Phase.ATTACKED, 1 / 13 * (1 + 16 * 0.725), 0.0, 1.0),
        (50, Phase.BOUNDED, 1.0, 0.0, 1.0),
        (62.25, Phase.BOUNDED, 1.0, 1 / 13, 1.0),
        (98, Phase.BOUNDED, 1.0, 1 / 13 * (1 + 16 * (48 / 49 - 0.25)), 1.0),
        (99, Phase.JOINT, 1.0, 1.0, 1.0),
        (109, Phase.JOINT, 1.0, 1.0, 1.0),
        (133.5, Phase.JOINT, 1.0, 1.0, 0.5),
        (158, Phase.JOINT, 1.0, 1.0, 0.0),
        (249, Phase.JOINT, 1.0, 1.0, 0.0),
    ],
)
def test_phases_are_those_of_250_epochs_on_mnist(
    epoch: float, phase: Phase, attack: float, bound: float, threshold: float
) -> None:
    options, moment = AdvIbp(RADIUS, threshold=1e-3), Moment(round(epoch * 1000), 1000, 250)
    assert options.phase(moment) is phase
    assert options.attack_progress(moment) == pytest.approx(attack, abs=1e-9)
    assert options.bound_progress(moment) == pytest.approx(bound, abs=1e-9)
    assert options.threshold_at(moment) == pytest.approx(1e-3 * threshold, abs=1e-12)


def test_a_short_training_has_every_phase() -> None:
    options = AdvIbp(RADIUS)
    seen = [options.phase(Moment(step, 10, 5)) for step in range(50)]
    assert list(dict.fromkeys(seen)) == list(Phase)
    assert AdvIbp(RADIUS, **JOINT_ONLY).phase(START) is Phase.JOINT
    # the whole training in a phase that is not the last
    assert AdvIbp(RADIUS, natural=0.5, attacked=0.5, ramp=0.0).threshold_at(Moment(99, 10, 10)) == 1e-4


# --- the loss -----------------------------------------------------------------------------------------------------


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def stored(seed: int = 0, count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return images, torch.randint(3, (count,), generator=generator)


def attack(made: nn.Sequential, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Return the images after one step of 1.25 radii from anywhere in the ball, on the pixel scale and back."""
    torch.manual_seed(9)
    pixels = images / 255
    low, high = (pixels - radius).clamp(min=0), (pixels + radius).clamp(max=1)
    start = (pixels - radius + 2 * radius * torch.rand_like(low)).requires_grad_()
    (slope,) = torch.autograd.grad(functional.cross_entropy(made(2 * start - 1), labels), start)
    moved = start.detach() + 1.25 * radius * slope.sign()
    return 2 * torch.minimum(torch.maximum(moved, low), high) - 1


def attack_loss(made: nn.Sequential, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    return functional.cross_entropy(made(attack(made, images, labels, radius)), labels)


def bound_loss(made: nn.Sequential, images: Tensor, labels: Tensor, radius: float, levels: int = 255) -> Tensor:
    margins = interval_margins(made, PixelBalls(levels).box(images, radius), labels).lower
    return functional.cross_entropy(-margins, labels)


def gradient(loss: Tensor, made: nn.Module) -> Tensor:
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(made.parameters()))])


def settled(seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a network that has been trained on attacks for a while, so that gradients may conflict, and its images."""
    made, (images, labels) = network(seed), stored(seed)
    optimiser = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(50):
        optimiser.zero_grad()
        attack_loss(made, images, labels, 0.1).backward()
        optimiser.step()
    optimiser.zero_grad()
    return made, images, labels


def condition(made: nn.Sequential, images: Tensor, labels: Tensor, radius: float) -> float:
    """Return the mean FOSC of one batch's attack, by loops, of the mean loss."""
    attacked = attack(made, images, labels, radius).requires_grad_()
    (slope,) = torch.autograd.grad(functional.cross_entropy(made(attacked), labels), attacked)
    total = 0.0
    for image, origin, at in zip(attacked.detach(), PixelBalls(255).center(images), slope, strict=True):
        moved = (image - origin).flatten().tolist()
        for step, part in zip(moved, at.flatten().tolist(), strict=True):
            total += 2 * radius * abs(part) - step * part
    return total / len(images)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_gradient_of_the_joint_loss_is_the_weighted_one(seed: int, factor: float) -> None:
    made, images, labels = settled(seed)
    threshold = factor * condition(made, images, labels, 0.1)
    objective = AdvIbp(RADIUS, **JOINT_ONLY, threshold=threshold).build(None, 255, CPU)
    losses = attack_loss(made, images, labels, 0.1), bound_loss(made, images, labels, 0.1)
    first, second = (gradient(loss, made) for loss in losses)
    weights = objective_weights(first, second, torch.tensor(factor > 1))
    torch.manual_seed(9)
    found = objective.loss(made, images, labels, START)
    expected = weights[0] * losses[0] + weights[1] * losses[1]
    # float32 sums of a few numbers of their size
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    explicit = weights[0] * first + weights[1] * second
    found.backward()
    got = parameters_to_vector([cast(Tensor, parameter.grad) for parameter in made.parameters()])
    torch.testing.assert_close(got, explicit, rtol=1e-4, atol=1e-5 * float(explicit.abs().max()))


def test_those_cases_hold_gradients_that_agree_and_that_conflict() -> None:
    signs = set()
    for seed in range(6):
        made, images, labels = settled(seed)
        losses = attack_loss(made, images, labels, 0.1), bound_loss(made, images, labels, 0.1)
        first, second = (gradient(loss, made) for loss in losses)
        signs.add(bool(first @ second > 0))
    assert signs == {True, False}


def test_each_phase_has_its_loss() -> None:
    made, (images, labels) = network(1), stored(1)
    options = AdvIbp(RADIUS, natural=0.25, attacked=0.25, ramp=0.25)
    objective = options.build(None, 255, CPU)

    def loss(step: int) -> Tensor:
        torch.manual_seed(9)
        return objective.loss(made, images, labels, Moment(step, 10, 10))

    natural = functional.cross_entropy(made(PixelBalls(255).center(images)), labels)
    rise = 1 / 13 * (1 + 16 * (0.6 - 0.25))  # 15 of 25 steps of a smoothed rise
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}  # float32 sums of a few numbers
    torch.testing.assert_close(loss(24), natural, **close)
    torch.testing.assert_close(loss(40), attack_loss(made, images, labels, 0.1 * rise), **close)
    torch.testing.assert_close(loss(65), bound_loss(made, images, labels, 0.1 * rise), **close)


def test_one_seed_gives_one_gradient_whatever_went_before() -> None:
    made, (images, labels) = network(2), stored(2)
    found = []
    for before in range(2):
        objective = AdvIbp(RADIUS, **JOINT_ONLY).build(None, 255, CPU)
        for _ in range(before):
            objective.loss(made, *stored(3), START)
        torch.manual_seed(4)
        found.append(gradient(objective.loss(made, images, labels, START), made))
    assert torch.equal(*found)


def test_parameters_that_are_not_trained_have_no_part() -> None:
    made, (images, labels) = network(2), stored(2)
    made[1].weight.requires_grad_(False)
    AdvIbp(RADIUS, **JOINT_ONLY).build(None, 255, CPU).loss(made, images, labels, START).backward()
    assert made[1].weight.grad is None
    assert made[3].weight.grad is not None


def test_the_phase_of_bounds_records_the_statistics_of_the_images() -> None:
    torch.manual_seed(0)
    made, (images, labels) = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, momentum=1.0), nn.Linear(4, 3)), stored(4)
    options = AdvIbp(RADIUS, natural=0.0, attacked=0.0, ramp=1.0)
    options.build(None, 255, CPU).loss(made, images, labels, Moment(50, 10, 10)).backward()
    expected = PixelBalls(255).center(images).flatten(1).mean(dim=0)
    torch.testing.assert_close(made[1].running_mean, expected, rtol=1e-5, atol=1e-6)  # float32 sums of 8 numbers


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_training_on_digits_lowers_both_losses(threshold: float) -> None:
    data = load_data("digits", Split.TRAIN, None)
    batch = data.take(np.arange(128))
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    objective = AdvIbp(Radius.parse("0.05"), **JOINT_ONLY, threshold=threshold).build(None, data.levels, CPU)
    optimiser = torch.optim.Adam(made.parameters(), lr=5e-3)

    def both() -> list[float]:
        natural = functional.cross_entropy(made(PixelBalls(data.levels).center(images)), labels)
        return [float(loss.detach()) for loss in (natural, bound_loss(made, images, labels, 0.05, data.levels))]

    before = both()
    for _ in range(40):
        loss = objective.loss(made, images, labels, START)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = both()
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.7 * before[1]


def test_margins_are_those_of_intervals_over_the_whole_ball() -> None:
    made, (images, labels) = network(3), stored(3)
    objective = AdvIbp(RADIUS).build(None, 255, CPU)
    assert (objective.name, objective.claim) == ("adv-ibp", "ball")
    with torch.inference_mode():
        found = objective.margins(made, objective.encode(images), labels)
        bounds = interval_margins(made, PixelBalls(255).box(images, 0.1), labels).lower
    others = bounds.scatter(1, labels[:, None], torch.inf).amin(dim=1)
    torch.testing.assert_close(found, others, rtol=1e-6, atol=1e-6)  # the radius, rounded outward


# --- options ------------------------------------------------------------------------------------------------------


def test_options_are_read_and_described() -> None:
    made = METHODS.named("adv-ibp").create(RADIUS, {"natural": "0.1", "threshold": "1e-5"})
    assert made == AdvIbp(RADIUS, natural=0.1, threshold=1e-5)
    assert (made.claim, made.takes_intervals) == ("ball", False)
    assert made.describe() == {
        "radius": "1/10",
        "radius_scale": "pixel",
        "natural": 0.1,
        "attacked": 0.16,
        "ramp": 0.196,
        "threshold": 1e-5,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"natural": -0.1}, "natural from 0 to 1"),
        ({"attacked": math.nan}, "attacked from 0 to 1"),
        ({"ramp": 1.5}, "ramp from 0 to 1"),
        ({"natural": 0.5, "attacked": 0.4, "ramp": 0.2}, "within the training, got 1.1 of it"),
        ({"threshold": -1.0}, "threshold of at least 0"),
        ({"threshold": math.inf}, "threshold of at least 0"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdvIbp(RADIUS, **options)


def test_a_network_that_is_no_sequence_is_refused() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs)

    with pytest.raises(ConfigError, match="a sequence of layers, got Wrapped"):
        AdvIbp(RADIUS, **JOINT_ONLY).build(None, 255, CPU).loss(Wrapped(), *stored(), START)
