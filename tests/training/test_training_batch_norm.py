"""Interval arithmetic through BatchNorm: against layers folded by hand, against samples, and what it leaves alone."""

import copy
import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from abscert_plugin.bounds import intervals
from abscert_plugin.bounds.intervals import (
    Box,
    frozen_statistics,
    initialise_for_intervals,
    interval_margins,
)
from abscert_plugin.claim import Radius
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustLoss, RobustObjective
from baselines.pixels import PixelBalls

CLASSES = 3
# float64 sums in another order, of numbers of up to a thousand
CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


def network(seed: int) -> nn.Sequential:
    """Return a network with a BatchNorm of either kind, in float64; factors of both signs, any running statistics."""
    layers = [nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5)]
    made = nn.Sequential(*layers, nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 1, generator=generator)
        for layer in norms(made):
            layer.running_mean.normal_(0, 1, generator=generator)
            layer.running_var.uniform_(0.1, 3, generator=generator)
    return made


def norms(made: nn.Module) -> list[Any]:
    return [layer for layer in made.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]


def folded(made: nn.Sequential, statistics: list[tuple[Tensor, Tensor]]) -> nn.Sequential:
    """Return the network without BatchNorm: each is merged into the layer before it, by these means and variances."""
    layers: list[nn.Module] = []
    left = iter(statistics)
    for layer in copy.deepcopy(made):
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layers.append(layer)
            continue
        mean, variance = next(left)
        factor = layer.weight / (variance + layer.eps).sqrt()
        affine = cast(nn.Linear, layers[-1])  # or a Conv2d, of the same names
        with torch.no_grad():
            affine.bias.copy_((affine.bias - mean) * factor + layer.bias)
            affine.weight.mul_(factor.reshape(-1, *[1] * (affine.weight.ndim - 1)))
    return nn.Sequential(*layers)


def running(made: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    return [(layer.running_mean, layer.running_var) for layer in norms(made)]


def statistics_by_hand(made: nn.Sequential, clean: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return mean and population variance of each channel of a batch, layer by layer."""
    found: list[tuple[Tensor, Tensor]] = []
    for layer in made:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            channels = clean.transpose(0, 1).flatten(1)
            mean = channels.sum(dim=1) / channels.shape[1]
            variance = ((channels - mean[:, None]) ** 2).sum(dim=1) / channels.shape[1]
            found.append((mean, variance))
            shape = (-1, *[1] * (clean.ndim - 2))
            scaled = (clean - mean.reshape(shape)) / (variance + layer.eps).sqrt().reshape(shape)
            clean = scaled * layer.weight.reshape(shape) + layer.bias.reshape(shape)
        else:
            clean = layer(clean)
    return found


def boxes(seed: int, count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = 2 * torch.rand((count, 2, 4, 4), generator=generator, dtype=torch.float64) - 1
    width = 0.2 * torch.rand((count, 2, 4, 4), generator=generator, dtype=torch.float64)
    return center - width, center + width, torch.randint(CLASSES, (count,), generator=generator)


def sampled_margins(made: nn.Sequential, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """Return the least margins seen at random points and, for each margin, at the corner its gradient points to."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand((100, *low.shape), generator=generator, dtype=torch.float64)
    share[::2] = share[::2].round()
    middle = ((low + high) / 2).requires_grad_()
    corners = []
    for other in range(CLASSES):
        logits = made(middle)
        margin = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
        corners.append((torch.autograd.grad(margin.sum(), middle)[0] < 0).double())
    share = torch.cat([share, torch.stack(corners)])
    with torch.no_grad():
        logits = made((low + share * (high - low)).flatten(0, 1)).reshape(len(share), len(low), CLASSES)
    return (logits.gather(2, labels.expand(len(share), -1)[..., None]) - logits).amin(dim=0)


# --- evaluation ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_bounds_in_evaluation_are_those_of_folded_layers_and_hold_for_samples(seed: int) -> None:
    made, (low, high, labels) = network(seed).eval(), boxes(seed)
    found = interval_margins(made, Box.between(low, high), labels)
    expected = interval_margins(folded(made, running(made)), Box.between(low, high), labels)
    torch.testing.assert_close(found.lower, expected.lower, **CLOSE)
    for seen, wanted in zip(found.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(seen.lower, wanted.lower, **CLOSE)
        torch.testing.assert_close(seen.upper, wanted.upper, **CLOSE)
    assert (found.lower <= sampled_margins(made, low, high, labels) + 1e-9).all()
    # images beside the boxes are of no use in evaluation
    torch.testing.assert_close(interval_margins(made, Box.between(low, high), labels, low).lower, found.lower, **CLOSE)


def test_a_radius_of_one_percent_too_little_after_a_batch_norm_is_seen_by_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, CLASSES)).double().eval()
    low, high, labels = boxes(3)
    with torch.no_grad():
        cast(nn.BatchNorm2d, made[0]).weight.copy_(torch.tensor([-1.5, 0.5]))
        cast(Tensor, made[0].running_var).copy_(torch.tensor([0.3, 2.0]))
    least = sampled_margins(made, low, high, labels)
    sound = interval_margins(made, Box.between(low, high), labels).lower
    torch.testing.assert_close(sound, least, **CLOSE)  # affine: the corners are the worst
    right = intervals._normalised
    monkeypatch.setattr(intervals, "_normalised", lambda *given: Box((box := right(*given)).center, 0.99 * box.radius))
    assert not (interval_margins(made, Box.between(low, high), labels).lower <= least + 1e-9).all()


# --- training -----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_boxes_in_training_are_normalised_by_the_statistics_of_the_clean_batch(seed: int) -> None:
    made, (low, high, labels) = network(seed).train(), boxes(seed)
    clean = low + 0.3 * (high - low)  # not the middle: the box has other statistics
    with torch.no_grad():
        by_hand = folded(made, statistics_by_hand(made, clean))
        found = interval_margins(made, Box.between(low, high), labels, clean).lower
        expected = interval_margins(by_hand, Box.between(low, high), labels).lower
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)  # divided by deviations that may be small


def test_a_batch_of_points_has_the_margins_of_the_training_network() -> None:
    made, (clean, _, labels) = network(4).train(), boxes(4)
    found = interval_margins(made, Box.between(clean, clean), labels, clean).lower
    logits = made(clean)
    torch.testing.assert_close(found, logits.gather(1, labels[:, None]) - logits, **CLOSE)


def test_gradients_flow_through_the_statistics() -> None:
    made, (low, high, labels) = network(5).train(), boxes(5)
    clean = ((low + high) / 2).requires_grad_()
    box = Box.between(low, high)
    (gradient,) = torch.autograd.grad(interval_margins(made, box, labels, clean).lower.sum(), clean)
    step = torch.zeros_like(clean)
    step[0, 0, 1, 2] = 1e-6
    with torch.no_grad():
        ends = [float(interval_margins(made, box, labels, clean + move).lower.sum()) for move in (step, -step)]
    assert float(gradient[0, 0, 1, 2]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_interval_arithmetic_leaves_the_running_statistics(training: bool) -> None:
    made, (low, high, labels) = network(6).train(training), boxes(6)
    before = copy.deepcopy(made.state_dict())
    interval_margins(made, Box.between(low, high), labels, low)
    after = made.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(layer.training == training for layer in made.modules())


# --- the objective ------------------------------------------------------------------------------------------------

BEFORE, IN_IT, AFTER = 0, 30, 95


GOWAL: dict[str, Any] = {"natural_end": 0.5, "regulariser": 0.0}
MTL_IBP: dict[str, Any] = {"natural_end": 0.5, "loss": RobustLoss.MTL_IBP}
CROWN_IBP: dict[str, Any] = {**GOWAL, "bounds": BoundKind.CROWN_IBP, "bounds_end": 0.0}


@pytest.mark.parametrize(
    ("options", "step"),
    [
        *((GOWAL, step) for step in (BEFORE, IN_IT, AFTER)),
        *(({"loss": loss}, step) for loss in RobustLoss for step in (BEFORE, IN_IT, AFTER)),
        *((MTL_IBP, step) for step in (IN_IT, AFTER)),
        (CROWN_IBP, BEFORE),
        (CROWN_IBP, AFTER),
    ],
)
def test_a_step_counts_the_clean_batch_once(options: dict[str, Any], step: int) -> None:
    made = network(7).float().train()
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (6, 2, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    clean = 2 * images.float() / 255 - 1
    before = [mean.clone() for mean, _ in running(made)]
    seen = [mean for mean, _ in statistics_by_hand(made, clean)]
    config = RobustConfig(Radius.parse("0.1"), start=0.1, ramp=0.5, **options)
    RobustObjective("any", PixelBalls(255), config).loss(made, images, labels, Moment(step, 10, 10)).backward()
    assert [int(layer.num_batches_tracked) for layer in norms(made)] == [1, 1]
    for (mean, _), old, batch in zip(running(made), before, seen, strict=True):
        torch.testing.assert_close(mean, 0.9 * old + 0.1 * batch, rtol=1e-4, atol=1e-4)  # float32
    assert all(layer.training for layer in made.modules())


def test_linear_bounds_of_a_network_in_training_are_refused_with_what_to_use_instead() -> None:
    """A traced graph would keep the statistics that it was traced with."""
    made = network(7).float().train()
    images, labels = torch.zeros((6, 2, 4, 4), dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    objective = RobustObjective("any", PixelBalls(255), RobustConfig(Radius.parse("0.1"), **CROWN_IBP))
    with pytest.raises(UnsupportedModelError, match="not written for BatchNorm; use ibp, sabr or mtl-ibp"):
        objective.loss(made, images, labels, Moment(IN_IT, 10, 10))


# --- frozen statistics --------------------------------------------------------------------------------------------


def modes(made: nn.Module) -> list[bool]:
    return [layer.training for layer in made.modules()]


def test_frozen_layers_use_and_leave_their_running_statistics() -> None:
    made, (low, _, _) = network(8).train(), boxes(8)
    expected = copy.deepcopy(made).eval()(low)
    before = copy.deepcopy(made.state_dict())
    with frozen_statistics(made):
        torch.testing.assert_close(made(low), expected, **CLOSE)
    after = made.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not torch.allclose(made(low), expected)


@pytest.mark.parametrize("raises", [True, False])
def test_modes_are_as_before_after_freezing_also_where_an_error_is_raised(raises: bool) -> None:
    made = nn.Sequential(network(9), nn.Dropout(0.5)).train()
    norms(made)[1].eval()  # frozen by someone else
    before = modes(made)
    with pytest.raises(ZeroDivisionError) if raises else frozen_statistics(nn.ReLU()), frozen_statistics(made):
        assert [layer.training for layer in norms(made)] == [False, False]
        assert made[1].training  # Dropout is no BatchNorm
        assert 1 / (0 if raises else 1) == 1
    assert modes(made) == before


# --- first weights ------------------------------------------------------------------------------------------------


def test_first_weights_have_the_stated_deviation_and_the_last_layer_is_left() -> None:
    made = nn.Sequential(
        nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(256, 200), nn.Linear(200, 10)
    )
    before = copy.deepcopy(made)
    torch.manual_seed(0)
    initialise_for_intervals(made)
    for place, fan_in in ((0, 16 * 9), (4, 256)):
        weight = cast(Tensor, made[place].weight).detach()
        # of 9216 and 51200 draws: a relative error of 0.7 % and less, and one in 100 deviations
        assert float(weight.std()) == pytest.approx(math.sqrt(2 * math.pi) / fan_in, rel=0.03)
        assert abs(float(weight.mean())) < 0.05 * float(weight.std())
        # what the formula is for: absolute weights of a neuron sum to 2, half of which a ReLU takes away
        assert float(weight.abs().flatten(1).sum(dim=1).mean()) == pytest.approx(2.0, rel=0.03)
        assert torch.equal(cast(Tensor, made[place].bias), cast(Tensor, before[place].bias))
    assert torch.equal(cast(nn.Linear, made[5]).weight, cast(nn.Linear, before[5]).weight)
    assert torch.equal(cast(nn.Linear, made[5]).bias, cast(nn.Linear, before[5]).bias)
    assert torch.equal(cast(nn.BatchNorm2d, made[1]).weight, cast(nn.BatchNorm2d, before[1]).weight)
