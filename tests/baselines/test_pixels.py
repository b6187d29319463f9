"""Plain pixels and their balls, as the networks of baselines see them."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import uint8_images
from torch import Tensor, nn
from torch.nn import functional

from baselines.pixels import PixelBalls

# float32 numbers of up to 2 that are rounded a few times
CLOSE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-6}


def stored_images(seed: int, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)


def network(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 1, generator=generator)
    return made


@given(
    uint8_images((3, 2, 2, 2), levels=16), st.sampled_from([16, 255]), st.sampled_from([0.0, 1 / 255, 0.05, 0.3, 1.0])
)
def test_boxes_are_the_balls_within_the_pixel_range(images: np.ndarray, levels: int, radius: float) -> None:
    images = images * np.uint8(levels // 16)
    stored, balls = torch.from_numpy(images), PixelBalls(levels)
    pixels = images.astype(np.float64) / levels
    box = balls.box(stored, radius)
    torch.testing.assert_close(balls.center(stored).double(), torch.from_numpy(2 * pixels - 1), **CLOSE)
    for found, end in ((box.lower, pixels - radius), (box.upper, pixels + radius)):
        torch.testing.assert_close(found.double(), torch.from_numpy(2 * end.clip(0, 1) - 1), **CLOSE)
    assert (box.radius >= 0).all()


def test_black_and_white_are_the_ends_of_the_training_scale() -> None:
    for levels in (16, 255):
        found = PixelBalls(levels).center(torch.tensor([[[[0, levels]]]], dtype=torch.uint8))
        assert found.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_adversarial_images_lie_in_the_ball_and_raise_the_loss(steps: int) -> None:
    stored, balls, made = stored_images(255, 64), PixelBalls(255), network()
    labels = made(balls.center(stored)).argmax(dim=1)
    box = balls.box(stored, 0.2)
    torch.manual_seed(0)
    found = balls.adversarial(made, box, labels, steps)
    assert (box.lower <= found).all()
    assert (found <= box.upper).all()
    assert not found.requires_grad
    before, after = (functional.cross_entropy(made(x), labels) for x in (balls.center(stored), found))
    assert after > before
    assert all(parameter.grad is None for parameter in made.parameters())


def test_a_single_step_is_of_one_and_a_quarter_radii() -> None:
    made, stored, balls = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), stored_images(3), PixelBalls(255)
    with torch.no_grad():
        cast(nn.Linear, made[1]).weight.copy_(torch.tensor([[-1.0, -1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0]]))
    box, labels = balls.box(stored, 0.1), torch.zeros(8, dtype=torch.int64)
    width = box.upper - box.lower
    found = balls.adversarial(made, box, labels, 1)
    assert (found >= box.lower + 0.6249 * width).all()  # every pixel rises, from anywhere in the ball
    assert (found < box.upper - 1e-3).any()


@pytest.mark.parametrize("steps", [2, 4])
def test_attacks_end_in_the_worst_corner_of_an_affine_network(steps: int) -> None:
    made, stored, balls = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), stored_images(3), PixelBalls(255)
    weight = torch.tensor([[1.0, -2.0, 0.5, -0.1], [0.0, 0.0, 0.0, 0.0]])
    with torch.no_grad():
        cast(nn.Linear, made[1]).weight.copy_(weight)
    box, labels = balls.box(stored, 0.1), torch.arange(8) % 2
    found = balls.adversarial(made, box, labels, steps)
    # the loss of label 0 rises against the weights, that of label 1 along them; 2.5 radii reach any end
    upward = (weight[0] > 0).reshape(1, 1, 2, 2) != (labels == 0).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(found, torch.where(upward, box.upper, box.lower), **CLOSE)


def test_a_ball_of_radius_0_holds_its_image_alone() -> None:
    stored, balls = stored_images(4), PixelBalls(255)
    box = balls.box(stored, 0.0)
    assert (box.radius == 0).all()
    found = balls.adversarial(network(), box, torch.zeros(8, dtype=torch.int64), 3)
    assert torch.equal(found, balls.center(stored))
