"""LBP's training: what becomes of the activations at each moment, the loss itself, and a training that is resumed."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from box_oracle import lirpa_or_skip
from torch import Tensor, nn

import abscert_plugin as abscert
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.networks.param_ramp import LEAST_BEND_POINT, ParamRamp, ramps_of
from abscert_plugin.training.method import Method
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.robust import RobustObjective
from baselines.lbp import Lbp
from baselines.pixels import PixelBalls

lirpa_or_skip()
CPU = torch.device("cpu")
RADIUS = Radius.parse("0.05")
EPOCHS, STEPS, BATCH = 20, 3, 6
TOTAL = EPOCHS * STEPS


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 2, 2, 1, 1),
            ParamRamp((2, 4, 4)),
            nn.Flatten(),
            nn.Linear(32, 4),
            ParamRamp((4,)),
            nn.Linear(4, 3),
        )


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return stored images and labels of a step; every epoch has the same."""
    generator = torch.Generator().manual_seed(step % STEPS)
    images = torch.randint(0, 256, (BATCH, 1, 3, 3), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 3, (BATCH,), generator=generator)


def loss_at(made: nn.Module, objective: Objective, step: int) -> Tensor:
    images, labels = batch(step)
    return objective.loss(made, objective.encode(images), labels, Moment(step, STEPS, EPOCHS))


def train(made: nn.Module, method: Lbp, steps: Iterable[int]) -> None:
    """Train by plain gradient steps, with an objective of its own, as a resumed training has."""
    objective = method.build(None, 255, CPU)
    made.train()
    for step in steps:
        made.zero_grad()
        loss_at(made, objective, step).backward()
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)


def activations_of(made: nn.Sequential, place: int, step: int) -> Tensor:
    """Return what a layer gives for the images of a step."""
    with torch.no_grad():
        return made[: place + 1](PixelBalls(255).center(batch(step)[0]))


# --- the activations -------------------------------------------------------------------------------------------------


def test_bends_begin_at_their_moment_at_the_mean_activations_of_the_epoch_before() -> None:
    made, method = network(), Lbp(RADIUS, bend_at=0.1)
    seen = []
    for step in range(2 * STEPS):
        if step >= STEPS:
            seen.append(activations_of(made, 4, step))
        train(made, method, [step])
        assert not any(layer.is_bent for layer in ramps_of(made))
    loss_at(made, method.build(None, 255, CPU), 2 * STEPS)
    assert all(layer.is_bent for layer in ramps_of(made))
    mean = torch.cat(seen).mean(dim=0)
    assert (torch.cat(seen) < 0).any()
    torch.testing.assert_close(
        cast(ParamRamp, made[4]).bend_point.detach(), mean.clamp(min=LEAST_BEND_POINT), rtol=1e-5, atol=1e-6
    )
    assert [int(layer.seen_count) for layer in ramps_of(made)] == [STEPS * BATCH] * 2
    before = [layer.bend_point.detach().clone() for layer in ramps_of(made)]
    train(made, method, range(2 * STEPS, 4 * STEPS))
    # from here on they are trained
    assert all(not torch.equal(layer.bend_point, old) for layer, old in zip(ramps_of(made), before, strict=True))


def test_bends_that_begin_at_once_are_set_from_the_first_batch() -> None:
    made = network()
    mean = activations_of(made, 1, 0).mean(dim=0)
    loss_at(made, Lbp(RADIUS, bend_at=0.0).build(None, 255, CPU), 0)
    torch.testing.assert_close(
        cast(ParamRamp, made[1]).bend_point.detach(), mean.clamp(min=LEAST_BEND_POINT), rtol=1e-5, atol=1e-6
    )


def test_bends_at_the_end_never_begin() -> None:
    made = network()
    train(made, Lbp(RADIUS, bend_at=1.0), range(TOTAL))
    assert not any(layer.is_bent for layer in ramps_of(made))


def test_the_slope_goes_from_its_first_to_its_last_value_from_epoch_70_to_140_of_200() -> None:
    made, method = network(), Lbp(RADIUS, eta=0.2, eta_end=0.1)
    method.prepare(made)
    slopes = [float(cast(ParamRamp, made[1]).eta)]
    objective = method.build(None, 255, CPU)
    for step in range(TOTAL):
        loss_at(made, objective, step)
        slopes.append(float(cast(ParamRamp, made[4]).eta))
    before, after = int(0.35 * TOTAL), int(0.7 * TOTAL)
    assert slopes[: before + 1] == pytest.approx([0.2] * (before + 1))
    assert slopes[after + 1 :] == pytest.approx([0.1] * (TOTAL - after))
    assert slopes == sorted(slopes, reverse=True)
    assert 0.1 < slopes[(before + after) // 2] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("stop", [4, 10, 14, 31])
def test_a_training_that_is_resumed_ends_as_one_that_is_not(stop: int) -> None:
    """Stopped before anything is collected, in the midst of it, after the bend, and while eta falls."""
    method = Lbp(RADIUS, bend_at=0.2, start=0.1, ramp=0.4)
    undisturbed, first, second = network(), network(), network(8)
    for made in (undisturbed, first, second):
        method.prepare(made)
    train(undisturbed, method, range(TOTAL))
    train(first, method, range(stop))
    second.load_state_dict(first.state_dict())
    train(second, method, range(stop, TOTAL))
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in undisturbed.state_dict().items())
    assert not torch.equal(state["1.bend_point"], first.state_dict()["1.bend_point"])


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_crown_ibps_and_its_gradients_reach_the_bend_points() -> None:
    made, method = network(), Lbp(RADIUS, bend_at=0.0, start=0.0, ramp=0.5)
    objective = method.build(None, 255, CPU)
    found = loss_at(made, objective, TOTAL // 4)
    found.backward()  # the next trace writes to the weights
    crown_ibp = RobustObjective("crown-ibp", PixelBalls(255), method.config())
    assert torch.equal(found, loss_at(made, crown_ibp, TOTAL // 4))
    assert all(bool(cast(Tensor, layer.bend_point.grad).any()) for layer in ramps_of(made))


def test_margins_hold_for_sampled_images_of_the_ball() -> None:
    made, method = network(3), Lbp(RADIUS, bend_at=0.0)
    objective = method.build(None, 255, CPU)
    train(made, method, range(5))
    images, labels = batch(1)
    made.eval()
    with torch.inference_mode():
        found = objective.margins(made, objective.encode(images), labels)
        box = PixelBalls(255).box(images, 0.05)
        for sample in range(200):
            share = torch.rand(box.center.shape, generator=torch.Generator().manual_seed(sample)).round()
            logits = made(torch.lerp(box.lower, box.upper, share))
            own = logits.gather(1, labels[:, None])
            least = own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
            assert (found <= least + 1e-5).all()  # float32 sums of numbers around 1


# --- options ---------------------------------------------------------------------------------------------------------


def test_the_table_has_it_with_its_activation() -> None:
    entry = METHODS.named("lbp")
    assert entry.activation is Activation.PARAM_RAMP
    method = entry.create(RADIUS, {"eta": "0.05", "bend_at": "0.1", "natural_end": "0.25"})
    assert isinstance(method, Method)
    assert method == Lbp(RADIUS, eta=0.05, bend_at=0.1, natural_end=0.25)
    described = method.describe()
    assert {name: described[name] for name in ("eta", "eta_end", "bend_at", "natural_end", "bounds", "radius")} == {
        "eta": 0.05,
        "eta_end": 0.0,
        "bend_at": 0.1,
        "natural_end": 0.25,
        "bounds": "crown-ibp",
        "radius": "1/20",
    }


@pytest.mark.parametrize("name", ["eta", "eta_end", "bend_at", "natural_end"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_options_without_a_meaning_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} from 0 to 1"):
        Lbp(RADIUS, **{name: value})


def test_networks_without_its_activation_are_refused() -> None:
    made = NetworkConfig("fc-3-code", Activation.RELU, (1, 3, 3), 3, takes_intervals=False).build(0)
    method = Lbp(RADIUS)
    with pytest.raises(ConfigError, match="use --activation param-ramp"):
        method.prepare(made)
    with pytest.raises(ConfigError, match="use --activation param-ramp"):
        loss_at(made, method.build(None, 255, CPU), 0)


@pytest.mark.slow
def test_averaged_weights_are_validated_with_the_bends_of_their_buffers_after_a_kill_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 128)
    images = 0.3 * random.random((128, 1, 8, 8), dtype=np.float32)
    images[np.arange(128)[:, None], 0, 2 * labels[:, None] + [0, 1]] += 0.7

    def trained(folder: str, epochs: int, resume: bool = False) -> list[float]:
        options: dict[str, Any] = {"method": "lbp", "radius": 0.02, "classes": 4, "epochs": 5, "batch_size": 32}
        options |= {"average": 0.9, "bend_at": 0.2, "out": tmp_path / folder, "resume": resume}
        abscert.train("cnn-2layer", (images, labels), **options, progress=lambda epoch: epoch.epoch == epochs)
        rows = (tmp_path / folder / "history.jsonl").read_text().splitlines()
        return [json.loads(row)["validation_error"] for row in rows]

    undisturbed = trained("whole", 5)
    trained("killed", 3)
    assert trained("killed", 5, resume=True) == undisturbed
