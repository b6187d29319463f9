"""Every method in bfloat16: it trains, and the bounds of its loss stay in float32."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from box_oracle import lirpa_or_skip
from torch import Tensor, nn

import abscert_plugin as abscert
from abscert_plugin.claim import Radius
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustObjective
from baselines.adv_ibp import AdvIbp, Phase
from baselines.pixels import PixelBalls

lirpa_or_skip()
CPU = torch.device("cpu")
RADIUS = Radius.parse("0.05")
END, LATE = Moment(90, 10, 10), Moment(85, 10, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_in_bfloat16(name: str) -> None:
    random = np.random.default_rng(0)
    images, labels = random.random((48, 1, 6, 6), dtype=np.float32), random.integers(0, 3, 48)
    radius = 0.05 if METHODS.named(name).takes_radius else None
    trained = abscert.train(
        "cnn-2layer",
        (images, labels),
        method=name,
        radius=radius,
        classes=3,
        epochs=3,
        batch_size=16,
        precision="bfloat16",
    )
    assert trained.run.checkpoint.epoch == 3


def linear_loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    config = RobustConfig(RADIUS, bounds=BoundKind.CROWN_IBP, bounds_end=1.0, regulariser=0.0)
    return RobustObjective("crown-ibp", PixelBalls(255), config).loss(network, images, labels, END)


def fused_loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    config = RobustConfig(RADIUS, bounds=BoundKind.CROWN_IBP, bounds_end=1.0, regulariser=0.0, loss_fusion=True)
    return RobustObjective("crown-ibp", PixelBalls(255), config).loss(network, images, labels, END)


def adv_ibp_loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    method = AdvIbp(RADIUS, natural=0.0, attacked=0.0, ramp=0.9)
    assert method.phase(LATE) is Phase.BOUNDED
    return method.build(None, 255, CPU).loss(network, images, labels, LATE)


@pytest.mark.parametrize("loss", [linear_loss, fused_loss, adv_ibp_loss])
def test_gradients_of_bounds_are_those_of_float32(loss: Callable[..., Tensor]) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    images, labels = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8), torch.arange(8) % 5
    exact = torch.autograd.grad(loss(network, images, labels), list(network.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(network, images, labels)
    found = torch.autograd.grad(value, list(network.parameters()))
    for half, single in zip(found, exact, strict=True):
        torch.testing.assert_close(half, single)
