"""The optimisers: SGD with momentum steps by its formula and resumes, Adam is described as it was before SGD came."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_trainings import CPU, RecordingObjective, Watcher, same_checkpoint, small_config, softmax_network, tiny_job

from abscert_plugin.grid import Grid
from abscert_plugin.networks import NETWORKS
from abscert_plugin.training.abstrain import Abstrain
from abscert_plugin.training.checkpoint import read_checkpoint
from abscert_plugin.training.config import Optimiser, TrainingConfig, default_config, learning_rate_at
from abscert_plugin.training.loop import SilentObserver, train
from abscert_plugin.training.steps import Steps

SGD = small_config(optimiser=Optimiser.SGD, learning_rate=0.1, epochs=3, weight_decay=0.01)
LARGE = ("alexnet", "vgg11", "inception-v1", "resnet18")


def test_sgd_steps_by_its_formula(tmp_path: Path) -> None:
    objective = RecordingObjective()
    job = tiny_job(tmp_path, SGD, objective=objective)
    expected = softmax_network(8, 3)
    train(job, None, SilentObserver())
    velocity = [torch.zeros_like(weight) for weight in expected.parameters()]
    for moment, images, labels in zip(objective.moments, objective.trained, objective.labels, strict=True):
        inputs = Abstrain(Grid(4), 255, CPU).encode(images)
        weights = list(expected.parameters())
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(expected(inputs), labels), weights)
        rate = learning_rate_at(moment.step, SGD.epochs * moment.steps_per_epoch, SGD)
        with torch.no_grad():
            for place, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                velocity[place] = 0.9 * velocity[place] + gradient + SGD.weight_decay * weight
                weight.sub_(rate * velocity[place])
    for found, wanted in zip(job.network.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5)  # float32 sums in another order
    adam = tiny_job(tmp_path / "adam", replace(SGD, optimiser=Optimiser.ADAM))
    adam.folder.mkdir()
    train(adam, None, SilentObserver())
    assert not all(map(torch.equal, adam.network.parameters(), job.network.parameters()))


def of_torch(weights: list[torch.nn.Parameter], optimiser: Optimiser) -> torch.optim.Optimizer:
    if optimiser is Optimiser.ADAM:
        return torch.optim.Adam(weights, lr=0.0, weight_decay=0.01, fused=True)
    return torch.optim.SGD(weights, lr=0.0, weight_decay=0.01, momentum=0.9, fused=True)


def some_weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = (((3, 4), torch.float32), ((5,), torch.float32), ((2, 2), torch.float64))
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator, dtype=kind)) for shape, kind in shapes]


def moved(optimiser: Optimiser, stop: int = 12) -> tuple[list[torch.nn.Parameter], dict[str, torch.Tensor]]:
    """Return what `Steps` makes of weights and its state, after it was held against torch's own, bit for bit."""
    own, theirs = some_weights(), some_weights()
    steps, oracle = Steps(own, optimiser, 0.01), of_torch(theirs, optimiser)
    generator = torch.Generator().manual_seed(1)
    for number in range(stop):
        rate = 0.1 / (number + 1)
        for place, (one, other) in enumerate(zip(own, theirs, strict=True)):
            gradient = torch.randn(one.shape, generator=generator, dtype=one.dtype)
            is_left = optimiser is Optimiser.ADAM and place == 1 and number < 3  # torch's own SGD cannot have that
            one.grad, other.grad = (None, None) if is_left else (gradient, gradient.clone())
        oracle.param_groups[0]["lr"] = rate
        oracle.step()
        if number == stop // 2:  # as a training that is resumed: from what torch's own wrote
            stored = {
                f"{place}.{name}": one
                for place, state in oracle.state_dict()["state"].items()
                for name, one in state.items()
            }
            before = steps.tensors()
            steps.take(rate)
            assert before.keys() == stored.keys()
            steps = Steps(own, optimiser, 0.01)
            steps.restore(stored)
        else:
            steps.take(rate)
        assert all(map(torch.equal, own, theirs))
    return own, steps.tensors()


@pytest.mark.parametrize("optimiser", Optimiser)
def test_steps_and_states_are_those_of_torch_to_the_bit(optimiser: Optimiser) -> None:
    moved(optimiser)


@pytest.mark.parametrize("constant", ["_EPSILON", "_MOMENTUM"])
def test_another_constant_is_seen(constant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"abscert_plugin.training.steps.{constant}", 0.1)
    with pytest.raises(AssertionError):
        moved(Optimiser.ADAM if constant == "_EPSILON" else Optimiser.SGD)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("7.exp_avg", torch.zeros(1)),
        ("0.exp_avg", torch.zeros(1)),
        ("0.step", torch.zeros(1)),
        ("0.other", torch.ones(())),
    ],
)
def test_states_of_other_weights_are_refused(key: str, value: torch.Tensor) -> None:
    _, states = moved(Optimiser.ADAM)
    with pytest.raises(ValueError, match="expected"):
        Steps(some_weights(), Optimiser.ADAM, 0.0).restore({**states, key: value})
    del states["0.step"]
    with pytest.raises(ValueError, match="step, exp_avg, exp_avg_sq of each weight"):
        Steps(some_weights(), Optimiser.ADAM, 0.0).restore(states)


@pytest.mark.parametrize("epoch", [1, 2])
def test_sgd_that_was_interrupted_ends_as_if_it_was_not(tmp_path: Path, epoch: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    undisturbed = train(tiny_job(whole, SGD), None, SilentObserver())
    assert undisturbed.state["optimiser.0.momentum_buffer"].any()
    with pytest.raises(KeyboardInterrupt):
        train(tiny_job(parts, SGD), None, Watcher(interrupt_after_epoch=epoch))
    resumed = train(tiny_job(parts, SGD), read_checkpoint(parts), SilentObserver())
    assert same_checkpoint(resumed, undisturbed)


def test_adam_is_described_as_in_checkpoints_from_before_there_was_a_choice() -> None:
    stored = {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 0.001,
        "weight_decay": 0.0002,
        "warmup": 0.1,
        "seed": 0,
        "patience": 5,
        "augmentation": "none",
        "precision": "auto",
        "gradient_clip": None,
    }
    adam = TrainingConfig(epochs=10, batch_size=128, learning_rate=1e-3)
    assert adam.describe() == stored
    assert replace(adam, optimiser=Optimiser.SGD).describe() == {**stored, "optimiser": "sgd"}


@pytest.mark.parametrize("network", NETWORKS)
def test_sgd_is_the_default_of_the_papers_networks_on_imagenet_alone(network: str) -> None:
    on_imagenet = default_config("imagenet", network)
    assert (on_imagenet.optimiser is Optimiser.SGD) == (network in LARGE)
    for data in ("digits", "mnist", "fashion-mnist", "cifar10", "folder"):
        assert default_config(data, network).optimiser is Optimiser.ADAM
