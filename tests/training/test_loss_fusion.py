"""Loss fusion: never below the loss anywhere in the box, by hand on affine networks, differentiable."""

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box, interval_margins
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.training import CrownIbpMargins
from abscert_plugin.training.loss_fusion import fused_cross_entropy
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustObjective
from baselines.crown_ibp import ENTRY, CrownIbp
from baselines.pixels import PixelBalls

load_lirpa()  # raises the recursion limit, which hypothesis would notice within a test
CLASSES = 5
ROUNDING = 2e-6  # of the largest margin, in float32


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )


def box_and_labels(seed: int, width: float) -> tuple[Box, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = 2 * torch.rand((4, 2, 4, 4), generator=generator) - 1
    radius = width * torch.rand((4, 2, 4, 4), generator=generator)
    return Box(center, radius), torch.randint(0, CLASSES, (4,), generator=generator)


def fused(net: nn.Module, box: Box, labels: Tensor, linear_weight: float) -> Tensor:
    linear = CrownIbpMargins(net, box.center, CLASSES)
    return fused_cross_entropy(linear, interval_margins(net, box, labels), box, labels, linear_weight)


def greatest_seen(net: nn.Module, box: Box, labels: Tensor, seed: int) -> float:
    """Return the mean of the greatest losses over corners and other points of each box."""
    generator = torch.Generator().manual_seed(seed)
    greatest = torch.full((len(labels),), -torch.inf)
    for number in range(300):
        share = 2 * torch.rand(box.center.shape, generator=generator) - 1
        points = box.center + box.radius * (share.sign() if number % 2 else share)
        greatest = torch.maximum(greatest, functional.cross_entropy(net(points), labels, reduction="none"))
    return float(greatest.mean())


@pytest.mark.slow
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    width=st.sampled_from([0.0, 1e-6, 1e-4, 0.01, 0.1, 0.5, 2.0]),
    linear_weight=st.sampled_from([0.0, 0.3, 1.0]),
    size=st.sampled_from([0.1, 1.0, 10.0]),
)
@torch.no_grad()
def test_no_point_of_a_box_has_a_greater_loss(seed: int, width: float, linear_weight: float, size: float) -> None:
    net = network(seed)
    cast(nn.Linear, net[-1]).weight.mul_(size)
    box, labels = box_and_labels(seed, width)
    found = float(fused(net, box, labels, linear_weight))
    largest = float(interval_margins(net, box, labels).lower.abs().max())
    assert found >= greatest_seen(net, box, labels, seed) - ROUNDING * max(1.0, largest)


@torch.no_grad()
def test_a_linear_bound_that_is_raised_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))  # one margin over one line: the bound is the loss at a corner
    box, labels = Box(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 2.0)), torch.tensor([0])
    greatest = greatest_seen(net, box, labels, 1)
    linear = CrownIbpMargins(net, box.center, 2)
    intervals = interval_margins(net, box, labels)
    assert float(fused_cross_entropy(linear, intervals, box, labels, 1.0)) == pytest.approx(greatest, abs=1e-5)
    weighted = CrownIbpMargins.weighted
    monkeypatch.setattr(CrownIbpMargins, "weighted", lambda *given: weighted(*given) + 1e-3)
    assert float(fused_cross_entropy(linear, intervals, box, labels, 1.0)) < greatest - 1e-4


@torch.no_grad()
def test_without_a_linear_part_it_is_the_loss_of_intervals() -> None:
    net = network(2)
    box, labels = box_and_labels(2, 0.2)
    expected = functional.cross_entropy(-interval_margins(net, box, labels).lower, labels)
    torch.testing.assert_close(fused(net, box, labels, 0.0), expected, rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("width", [0.05, 0.5])
def test_the_loss_of_an_affine_network_is_that_by_hand(width: float) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, CLASSES))
    box, labels = box_and_labels(3, width)
    layer = cast(nn.Linear, net[1])
    weight, bias = layer.weight.double().numpy(), layer.bias.double().numpy()
    center, radius = (part.flatten(1).double().numpy() for part in (box.center, box.radius))
    losses = []
    for x, r, label in zip(center, radius, labels.tolist(), strict=True):
        total, row, offset = 1.0, np.zeros(32), 0.0
        for other in range(CLASSES):
            if other == label:
                continue
            slope, margin = weight[label] - weight[other], bias[label] - bias[other]
            middle, spread = slope @ x + margin, np.abs(slope) @ r
            low, high = np.exp(-middle - spread), np.exp(-middle + spread)
            steep = (high - low) / (2 * spread)
            # exp(-m) <= high - steep (m - (middle - spread)), linear in the input
            total += high + steep * (middle - spread)
            row += steep * slope
            offset += steep * margin
        losses.append(np.log(total - (row @ x - np.abs(row) @ r + offset)))
    assert float(fused(net, box, labels, 1.0)) == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_its_gradient_is_the_slope_of_the_loss() -> None:
    net = network(4)
    box, labels = box_and_labels(4, 0.1)
    fused(net, box, labels, 0.7).backward()
    weights = list(net.parameters())
    slopes = [cast(Tensor, weight.grad).clone() for weight in weights]
    length = float(torch.cat([slope.flatten() for slope in slopes]).norm())

    def moved(step: float) -> float:
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(step * slope / length)
            found = float(fused(net, box, labels, 0.7))
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(step * slope / length)
        return found

    step = 2e-3
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(length, rel=0.03)


def test_the_objective_mixes_the_sums_by_the_progress() -> None:
    net = network(5)
    images = torch.randint(0, 256, (4, 2, 4, 4), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    method = CrownIbp(Radius.parse("0.1"), natural_end=0.0, start=0.0, ramp=1.0, loss_fusion=True)
    objective = RobustObjective("crown-ibp", PixelBalls(255), method.config())
    found = objective.loss(net, images, labels, Moment(step=25, steps_per_epoch=10, epochs=10))
    balls = PixelBalls(255)
    natural = functional.cross_entropy(net(balls.center(images)), labels)
    box = balls.box(images, 0.25 * method.radius.outward)
    expected = 0.75 * natural + 0.25 * fused(net, box, labels, 0.75)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_it_is_an_option_that_records_name_where_it_is_taken() -> None:
    assert ENTRY.create(Radius.parse("0.1"), {"loss_fusion": "true"}).describe()["loss_fusion"] is True
    assert "loss_fusion" not in ENTRY.create(Radius.parse("0.1"), {}).describe()


def test_it_needs_linear_bounds() -> None:
    with pytest.raises(ConfigError, match="expected bounds of crown-ibp with loss fusion"):
        RobustConfig(Radius.parse("0.1"), bounds=BoundKind.INTERVAL, loss_fusion=True)
