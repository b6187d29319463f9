"""Plain pixels and their balls, for IBP."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from abscert_plugin.radius import Radius
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.robust import RobustConfig
from baselines.ibp import PixelBalls, ibp


def images(levels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(levels)
    return torch.randint(0, levels + 1, (8, 1, 2, 2), generator=generator, dtype=torch.uint8)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("levels", [16, 255])
@pytest.mark.parametrize("radius", [0.0, 0.05, 0.3, 1.0])
def test_boxes_are_the_balls_within_the_pixel_range(levels: int, radius: float) -> None:
    stored, balls = images(levels), PixelBalls(levels)
    pixels = stored.double() / levels
    box = balls.box(stored, radius)
    # float32 numbers of up to 2 that are rounded a few times
    close = {"rtol": 0.0, "atol": 1e-6}
    torch.testing.assert_close(balls.center(stored).double(), 2 * pixels - 1, **close)
    torch.testing.assert_close(box.lower.double(), 2 * (pixels - radius).clamp(min=0) - 1, **close)
    torch.testing.assert_close(box.upper.double(), 2 * (pixels + radius).clamp(max=1) - 1, **close)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_adversarial_images_lie_in_the_ball_and_raise_the_loss(steps: int) -> None:
    stored, balls, made = images(255), PixelBalls(255), network()
    labels = made(balls.center(stored)).argmax(dim=1)
    box = balls.box(stored, 0.2)
    found = balls.adversarial(made, box, labels, steps)
    assert (box.lower <= found).all()
    assert (found <= box.upper).all()
    assert not found.requires_grad
    before, after = (functional.cross_entropy(made(x), labels) for x in (balls.center(stored), found))
    assert after > before


def test_margins_hold_for_sampled_images_of_the_ball() -> None:
    stored, made = images(255), network(1)
    labels = made(PixelBalls(255).center(stored)).argmax(dim=1)
    objective = ibp(255, RobustConfig(Radius.parse("0.05")))
    assert (objective.name, objective.claim) == ("ibp", "ball")
    pixels = stored.double() / 255
    share = torch.rand((500, *pixels.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share[::2] = share[::2].round()
    points = (pixels + 0.05 * (2 * share - 1)).clamp(0, 1)
    with torch.no_grad():
        logits = made((2 * points - 1).float().flatten(0, 1)).reshape(500, len(stored), 3)
        own = logits.gather(2, labels.expand(500, -1)[..., None])
        others = logits.scatter(2, labels.expand(500, -1)[..., None], -torch.inf).amax(dim=2)
        least = (own[..., 0] - others).amin(dim=0)
        found = objective.margins(made, objective.encode(stored), labels)
    assert (found <= least + 1e-5).all()  # float32 sums of numbers around 1
    assert not (found + 0.5 <= least).all()  # nor are they far below


def test_the_loss_begins_as_cross_entropy_and_ends_with_the_whole_ball() -> None:
    stored, made = images(255), network(2)
    labels = torch.arange(8) % 3
    objective = ibp(255, RobustConfig(Radius.parse("0.1"), start=0.0, ramp=0.5, regulariser=0.0))
    first, last = (objective.loss(made, stored, labels, Moment(step, 10, 1)) for step in (0, 9))
    clean = functional.cross_entropy(made(PixelBalls(255).center(stored)), labels)
    torch.testing.assert_close(first, clean, rtol=1e-6, atol=1e-6)
    assert last > clean
    worst = functional.softplus(-objective.margins(made, stored, labels)).mean()
    assert last >= worst - 1e-5  # the worst class alone is a part of the sum
