"""CROWN-IBP as the bounds of a loss: sound for the weights as they are now, and differentiable in them."""

import torch
from torch import nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box, interval_margins
from abscert_plugin.claim import Radius
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.training import CrownIbpMargins
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.reachable import ReachableCells
from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustObjective

CPU = torch.device("cpu")
CLASSES = 3


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))


def margins(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = network(inputs)
    return logits.gather(1, labels[:, None]) - logits


def box_and_labels(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = 2 * torch.rand((5, 2, 4, 4), generator=generator) - 1
    radius = 0.2 * torch.rand((5, 2, 4, 4), generator=generator)
    return center - radius, center + radius, torch.randint(0, CLASSES, (5,), generator=generator)


def test_bounds_hold_and_follow_the_weights() -> None:
    network = conv_net()
    lower, upper, labels = box_and_labels(1)
    bounds = CrownIbpMargins(network, lower, CLASSES)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    for step in range(3):
        found = bounds.lower(lower, upper, labels)
        assert torch.equal(found.gather(1, labels[:, None]), torch.zeros(5, 1))
        assert (found >= interval_margins(network, Box.between(lower, upper), labels).lower - 1e-5).all()
        for sample in range(200):
            share = torch.rand(lower.shape, generator=torch.Generator().manual_seed(sample))
            seen = margins(network, lower + (upper - lower) * share.round() if sample % 2 else lower, labels)
            assert (found <= seen + 1e-5).all(), step
        optimiser.zero_grad()
        (-found).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
        optimiser.step()
        assert not torch.allclose(bounds.lower(lower, upper, labels), found)


def test_the_loss_mixes_both_bounds_by_the_progress() -> None:
    network = conv_net()
    images = torch.randint(0, 256, (5, 1, 4, 4), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1])
    balls = ReachableCells(Grid(3), 255, CPU)
    config = RobustConfig(Radius.parse("0.2"), start=0.0, ramp=1.0, regulariser=0.0, bounds=BoundKind.CROWN_IBP)
    objective = RobustObjective("reachable", balls, config)
    found = objective.loss(network, images, labels, Moment(step=25, steps_per_epoch=10, epochs=10))
    found.backward()
    box = balls.box(images, 0.25 * 0.2)
    linear = CrownIbpMargins(network, box.center, CLASSES).lower(box.lower, box.upper, labels)
    mixed = 0.75 * linear + 0.25 * interval_margins(network, box, labels).lower
    natural = functional.cross_entropy(network(balls.center(images)), labels)
    assert torch.allclose(found, 0.75 * natural + 0.25 * functional.cross_entropy(-mixed, labels), rtol=1e-5)
    at_the_end = objective.loss(network, images, labels, Moment(step=100, steps_per_epoch=10, epochs=10))
    whole = interval_margins(network, balls.box(images, 0.2), labels).lower
    assert torch.allclose(at_the_end, functional.cross_entropy(-whole, labels), rtol=1e-5)
