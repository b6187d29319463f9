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
