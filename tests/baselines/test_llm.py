"""LLM: its two passes against a loss written out here, its margins against samples, and draws that a seed decides."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.slopes import SlopedMargins
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment
from baselines.llm import Llm
from baselines.pixels import PixelBalls

try:
    lirpa_version()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

CPU = torch.device("cpu")
CLASSES = 3
RADIUS = Radius.parse("0.1")
START, MIDDLE, END = Moment(0, 10, 10), Moment(25, 10, 10), Moment(100, 10, 10)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, CLASSES))


def stored(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return images, torch.randint(CLASSES, (count,), generator=generator)


@pytest.mark.parametrize("moment", [MIDDLE, END])
def test_the_loss_is_that_of_slopes_at_the_ends_that_lower_the_first_pass(moment: Moment) -> None:
    made, (images, labels) = network(), stored()
    radius = RADIUS.outward * min(1.0, moment.step / 50)
    box = PixelBalls(255).box(images, radius)
    bounds = SlopedMargins(made, box.center, CLASSES)
    objective = Llm(RADIUS, start=0.0, ramp=0.5).build(None, 255, CPU)
    objective.loss(made, images, labels, START)  # traced here
    torch.manual_seed(7)
    found = objective.loss(made, images, labels, moment)
    torch.manual_seed(7)
    slopes = [slope.requires_grad_() for slope in bounds.random_slopes(len(labels))]
    first = functional.cross_entropy(-bounds.lower(box.lower, box.upper, labels, tuple(slopes)), labels)
    gradients = torch.autograd.grad(first, slopes)
    chosen = []
    for slope, gradient in zip(slopes, gradients, strict=True):
        flat = slope.detach().clone()
        flat[gradient < 0] = 1
        flat[gradient > 0] = 0
        assert bool((gradient != 0).any())
        chosen.append(flat)
    second = functional.cross_entropy(-bounds.lower(box.lower, box.upper, labels, tuple(chosen)), labels)
    torch.testing.assert_close(found, second, rtol=1e-6, atol=1e-6)  # float32 numbers around 1
    assert float(found.detach()) < float(first.detach())
    parameters = list(made.parameters())
    for one, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(second, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # as above


def test_at_radius_0_the_loss_is_cross_entropy_and_so_are_the_bounds() -> None:
    made, (images, labels) = network(), stored()
    objective = Llm(RADIUS, start=0.5, ramp=0.0).build(None, 255, CPU)
    expected = functional.cross_entropy(made(PixelBalls(255).center(images)), labels)
    assert torch.equal(objective.loss(made, images, labels, START), expected)
    box = PixelBalls(255).box(images, 0.0)
    bounds = SlopedMargins(made, box.center, CLASSES)
    margins = bounds.lower(box.lower, box.upper, labels, bounds.random_slopes(len(labels)))
    # float32 sums in another order
    torch.testing.assert_close(functional.cross_entropy(-margins, labels), expected, rtol=1e-5, atol=1e-5)


def test_one_seed_gives_one_loss_whatever_went_before() -> None:
    made, (images, labels) = network(), stored()
    losses = []
    for before in range(3):
        objective = Llm(RADIUS, start=0.0, ramp=0.5).build(None, 255, CPU)
        for _ in range(before):
            objective.loss(made, images, labels, MIDDLE)
            objective.margins(made, images, labels)
        torch.manual_seed(3)
        losses.append(objective.loss(made, images, labels, END).detach())
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    torch.manual_seed(4)
    assert not torch.equal(objective.loss(made, images, labels, END), losses[0])


def test_margins_hold_for_sampled_images_and_are_the_same_each_time() -> None:
    made, (images, labels) = network(1), stored(230, seed=1)
    objective = Llm(Radius.parse("0.05")).build(None, 255, CPU)
    assert (objective.name, objective.claim) == ("llm", "ball")
    drawn = torch.get_rng_state()
    with torch.inference_mode():  # as the loop calls it
        found = objective.margins(made, objective.encode(images), labels.clone())
        again = objective.margins(made, objective.encode(images), labels)
    assert found.shape == (230,)
    assert torch.equal(found, again)
    assert torch.equal(torch.get_rng_state(), drawn)
    pixels = images.double() / 255
    share = torch.rand((100, *pixels.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share[::2] = share[::2].round()
    points = (pixels + 0.05 * (2 * share - 1)).clamp(0, 1)
    with torch.no_grad():
        logits = made((2 * points - 1).float().flatten(0, 1)).reshape(100, 230, CLASSES)
    places = labels.expand(100, -1)[..., None]
    others = logits.scatter(2, places, -torch.inf).amax(dim=2)
    least = (logits.gather(2, places)[..., 0] - others).amin(dim=0)
    assert (found <= least + 1e-5).all()  # float32 sums of numbers around 1
    assert not (found + 0.5 <= least).all()  # nor are they far below


def test_training_on_digits_lowers_the_loss() -> None:
    data = load_data("digits", Split.TRAIN, None)
    batch = data.take(np.arange(64))
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    objective = Llm(Radius.parse("0.05"), start=0.0, ramp=0.0).build(None, data.levels, CPU)
    optimiser = torch.optim.Adam(made.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        loss = objective.loss(made, images, labels, END)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_loss_under_autocast_is_the_same() -> None:
    made, (images, labels) = network(), stored()
    objective = Llm(RADIUS, start=0.0, ramp=0.0).build(None, 255, CPU)
    torch.manual_seed(5)
    expected = objective.loss(made, images, labels, END)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective.loss(made, images, labels, END), expected)


def test_options_are_read_described_and_checked() -> None:
    made = METHODS.named("llm").create(RADIUS, {"start": "0.1", "ramp": "0.4"})
    assert made == Llm(RADIUS, 0.1, 0.4)
    assert made.describe() == {"radius": "1/10", "radius_scale": "pixel", "start": 0.1, "ramp": 0.4}
    assert (made.claim, made.takes_intervals) == ("ball", False)
    with pytest.raises(ConfigError, match="start and ramp within"):
        Llm(RADIUS, 0.6, 0.6)
    made.prepare(network())
    with pytest.raises(ConfigError, match="--activation relu"):
        made.prepare(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)))
