"""The loop: its learning rates, its choice of the best epoch, its early end, and what stops it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_trainings import (
    CELLS,
    CPU,
    RecordingObjective,
    Watcher,
    digits_data,
    digits_spec,
    random_data,
    same_checkpoint,
    same_tensors,
    small_config,
    softmax_network,
    streamed,
    tiny_job,
)
from torch import Tensor, nn

from abscert_plugin.errors import CheckpointError, TrainingError
from abscert_plugin.grid import Grid
from abscert_plugin.training import loop as loop_module
from abscert_plugin.training.checkpoint import Checkpoint, read_checkpoint
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import Observer, SilentObserver, error_rate, train
from abscert_plugin.training.run import TrainedRun, run_training

PEAK = 1e-2
IMAGES = 40


class Diary:
    """An observer that copies the weights at the start, after each step and after each epoch."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.after_steps: list[dict[str, Tensor]] = []
        self.after_epochs: list[dict[str, Tensor]] = []

    def weights(self) -> dict[str, Tensor]:
        return {f"network.{name}": value.detach().clone() for name, value in self.network.state_dict().items()}

    def on_start(self, total_steps: int, steps_done: int) -> None:
        self.after_steps.append(self.weights())

    def on_step(self, images: int, loss: float | None) -> None:
        self.after_steps.append(self.weights())

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        self.after_epochs.append(self.weights())


def trained(folder: Path, observer: Observer | None = None, **parts: Any) -> Checkpoint:
    return train(tiny_job(folder, parts.pop("config", small_config()), **parts), None, observer or SilentObserver())


def by_epoch(*values: float) -> RecordingObjective:
    """Return an objective whose loss is scripted by epoch, for trainings of one step per epoch."""
    return RecordingObjective(scripted=lambda step: values[step])


# --- learning rate ---------------------------------------------------------------------------------------------------


def test_each_epoch_ends_at_its_learning_rate_of_the_schedule(tmp_path: Path) -> None:
    """20 steps, 4 of them warm-up: the peak at step 3, half of it where the cosine is half done, near 0 at the end."""
    config = small_config(epochs=20, batch_size=IMAGES, learning_rate=PEAK, warmup=0.2, patience=0)
    shares = [row["learning_rate"] / PEAK for row in trained(tmp_path, config=config).history]
    assert shares[:5] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1], rel=1e-12)
    assert shares[12] == pytest.approx(1 / 2, rel=1e-12)
    assert shares[19] == pytest.approx(math.sin(math.pi / 32) ** 2, rel=1e-12)  # one step before the cosine's end
    assert len(shares) == 20


def test_the_weights_move_by_the_learning_rate(tmp_path: Path) -> None:
    """Adam's first step moves every weight by the rate itself, whatever the gradient: a tenth of the peak here."""
    config = small_config(epochs=1, batch_size=4, learning_rate=PEAK, warmup=1.0 - 1e-9, weight_decay=0.0)
    network = softmax_network(8, 3)
    diary = Diary(network)
    trained(tmp_path, diary, config=config, network=network)
    assert len(diary.after_steps) == 11
    first, second = (diary.after_steps[step]["network.1.weight"] for step in (0, 1))
    # Adam's epsilon of 1e-8 is beside gradients of at least 1e-4; a float32 weight of 0.3 has 2^-25 of rounding
    assert (second - first).abs().numpy() == pytest.approx(PEAK / 10, rel=1e-4)


def test_weight_decay_pulls_weights_to_zero(tmp_path: Path) -> None:
    """With a loss that has no gradient, only the decay moves the weights: by the rate, towards zero."""
    network = softmax_network(8, 3)
    before = cast(nn.Linear, network[1]).weight.detach().clone()
    config = small_config(epochs=1, batch_size=IMAGES, learning_rate=1e-3, warmup=0.0, weight_decay=0.1)
    trained(tmp_path, config=config, network=network, objective=by_epoch(1.0))
    large = before.abs() > 0.01
    moved = (before - cast(nn.Linear, network[1]).weight.detach()) * before.sign()
    assert moved[large].numpy() == pytest.approx(1e-3, rel=1e-3)


# --- what a training sees --------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_image_once_with_its_label_in_another_order(tmp_path: Path) -> None:
    objective, data = RecordingObjective(), random_data((1, 2, 2), IMAGES)
    watcher = Watcher()
    trained(tmp_path, watcher, config=small_config(epochs=3, batch_size=16), objective=objective, training=data)
    assert [len(batch) for batch in objective.trained] == [16, 16, 8] * 3
    assert [images for images, _ in watcher.steps] == [16, 16, 8] * 3
    assert watcher.starts == [(9, 0)]
    orders = []
    for epoch in range(3):
        images = torch.cat(objective.trained[3 * epoch : 3 * epoch + 3])
        order = images[:, 0, 0, 0].tolist()  # the first pixel says which image it is
        assert sorted(order) == list(range(IMAGES))
        assert torch.cat(objective.labels[3 * epoch : 3 * epoch + 3]).tolist() == data.labels[order].tolist()
        orders.append(order)
    assert len({tuple(order) for order in orders}) == 3
    assert [moment.step for moment in objective.moments] == list(range(9))
    assert {(moment.steps_per_epoch, moment.epochs) for moment in objective.moments} == {(3, 3)}


def test_no_batch_is_a_single_image(tmp_path: Path) -> None:
    """A layer that normalises by its batch cannot take one; another image is left out in each epoch."""
    objective, data = RecordingObjective(), random_data((1, 2, 2), IMAGES)
    trained(tmp_path, config=small_config(epochs=3, batch_size=13), objective=objective, training=data)
    assert [len(batch) for batch in objective.trained] == [13, 13, 13] * 3
    epochs = [torch.cat(objective.trained[first : first + 3])[:, 0, 0, 0].tolist() for first in (0, 3, 6)]
    assert all(len(set(shown)) == IMAGES - 1 for shown in epochs)
    assert set().union(*epochs) == set(range(IMAGES))


def test_the_order_follows_the_seed(tmp_path: Path) -> None:
    def order(seed: int) -> list[int]:
        objective = RecordingObjective()
        trained(tmp_path, config=small_config(epochs=1, seed=seed), objective=objective)
        return torch.cat(objective.trained)[:, 0, 0, 0].tolist()

    assert order(0) == order(0) != order(1)


def test_history_holds_the_mean_loss_and_what_the_observer_saw(tmp_path: Path) -> None:
    watcher = Watcher()
    objective = RecordingObjective(scripted=lambda step: float(step))
    checkpoint = trained(tmp_path, watcher, config=small_config(epochs=2, batch_size=10), objective=objective)
    assert [row["loss"] for row in checkpoint.history] == [1.5, 5.5]
    assert list(checkpoint.history) == watcher.rows
    assert all(row["images_per_second"] == IMAGES / row["seconds"] for row in checkpoint.history)
    told = [loss for _, loss in watcher.steps if loss is not None]
    assert told == [0.0, 1.5, 4.0, 5.5]  # at the first step of an epoch, and over all of it at the last


@pytest.mark.parametrize("network", ["dm-small", "fc-3"])
def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path, network: str) -> None:
    data = digits_data(64, 30)

    def run(name: str, **options: Any) -> TrainedRun:
        (tmp_path / name).mkdir()
        torch.rand(len(name))  # what was drawn before is of no matter
        return run_training(digits_spec(network=network, epochs=2, **options), data, tmp_path / name, SilentObserver())

    first = run("first")
    again, other = run("once more"), run("other", seed=4)
    assert same_checkpoint(first.checkpoint, again.checkpoint)
    assert same_tensors(first.network.state_dict(), again.network.state_dict())
    weights = [key for key in first.checkpoint.best if key.startswith("network.") and key.endswith("weight")]
    assert weights
    assert not any(torch.equal(first.checkpoint.best[key], other.checkpoint.best[key]) for key in weights)


def test_a_training_takes_nothing_from_the_draws_of_others(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3))
    job = tiny_job(tmp_path, small_config(epochs=1), network=network)
    state = torch.get_rng_state()
    train(job, None, SilentObserver())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_from_files_train_as_those_in_memory(tmp_path: Path) -> None:
    resident = random_data((1, 2, 2), IMAGES)
    checkpoints = [trained(tmp_path, training=data) for data in (resident, streamed(resident))]
    assert same_checkpoint(*checkpoints)


# --- the best epoch --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=6))
def test_the_best_epoch_is_the_first_of_least_validation_error(
    tmp_path_factory: pytest.TempPathFactory, errors: list[float]
) -> None:
    """The losses fall all the while, so a choice by the loss would always be the last epoch."""
    network = softmax_network(8, 3)
    diary, script = Diary(network), iter(errors)
    config = small_config(epochs=len(errors), batch_size=IMAGES)
    job = tiny_job(tmp_path_factory.mktemp("best"), config, network=network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "error_rate", lambda *_: next(script))
        checkpoint = train(job, None, diary)
    expected = min(range(len(errors)), key=lambda epoch: (errors[epoch], epoch))
    assert checkpoint.best_epoch == expected + 1
    assert [row["validation_error"] for row in checkpoint.history] == errors
    assert same_tensors(checkpoint.best, diary.after_epochs[expected])
    assert same_tensors(read_checkpoint(job.folder).best, diary.after_epochs[expected])


def test_errors_are_those_of_the_validation_split(tmp_path: Path) -> None:
    network, validation = softmax_network(8, 3), random_data((1, 2, 2), 20, seed=1)
    diary = Diary(network)
    job = tiny_job(tmp_path, small_config(epochs=5, learning_rate=0.1), network=network, validation=validation)
    history = train(job, None, diary).history
    images, grid = validation.take(np.arange(20)).images, Grid(CELLS)
    inputs = grid.interval_image(images / np.float32(255)).reshape(20, -1).astype(np.float64)
    for row, weights in zip(history, diary.after_epochs, strict=True):
        logits = inputs @ weights["network.1.weight"].double().numpy().T + weights["network.1.bias"].double().numpy()
        assert row["validation_error"] == np.mean(logits.argmax(axis=1) != validation.labels)
    assert len({row["validation_error"] for row in history}) > 1


def test_the_validation_split_changes_no_weight(tmp_path: Path) -> None:
    checkpoints = [trained(tmp_path, validation=random_data((1, 2, 2), 20, seed=seed)) for seed in (1, 2)]
    assert same_tensors(checkpoints[0].state, checkpoints[1].state)
    errors = [[row["validation_error"] for row in checkpoint.history] for checkpoint in checkpoints]
    assert errors[0] != errors[1]


# --- early end -------------------------------------------------------------------------------------------------------


def epochs_until_stale(losses: list[float], patience: int) -> int:
    """Return after how many epochs a training ends: `patience` epochs in a row without a new least loss, or all."""
    waited, least = 0, math.inf
    for epoch, loss in enumerate(losses, start=1):
        waited = 0 if loss < least else waited + 1
        least = min(least, loss)
        if patience and waited == patience:
            return epoch
    return len(losses)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.integers(0, 6).map(float), min_size=1, max_size=9), st.integers(0, 4))
def test_the_training_ends_when_the_loss_stops_falling(
    tmp_path_factory: pytest.TempPathFactory, losses: list[float], patience: int
) -> None:
    config = small_config(epochs=len(losses), batch_size=IMAGES, patience=patience)
    checkpoint = trained(tmp_path_factory.mktemp("patience"), config=config, objective=by_epoch(*losses))
    assert checkpoint.epoch == len(checkpoint.history) == epochs_until_stale(losses, patience)
    assert checkpoint.finished


def test_an_early_end_is_the_end(tmp_path: Path) -> None:
    """Losses 3, 2, 2, 2.5 end a training of patience 2 after epoch 4 of 9; resumed, it does no step more."""
    config = small_config(epochs=9, batch_size=IMAGES, patience=2)
    objective = by_epoch(3, 2, 2, 2.5, 1, 1, 1, 1, 1)
    ended = trained(tmp_path, config=config, objective=objective)
    assert (ended.epoch, ended.finished) == (4, True)
    watcher = Watcher()
    resumed = train(tiny_job(tmp_path, config, objective=objective), read_checkpoint(tmp_path), watcher)
    assert same_checkpoint(resumed, ended)
    assert (watcher.starts, watcher.steps, len(objective.moments)) == ([], [], 4)


# --- what stops a training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("batch_size", "step"),
    [(40, 2), (10, 8), (10, 9), (10, 11), (1, 80), (1, 81), (1, 119), (1, 120)],
    ids=["whole batch", "first", "second", "last", "of 40: first", "of 40: second", "last of 40", "fourth epoch"],
)
def test_a_loss_that_is_no_number_stops_with_its_step_and_keeps_the_checkpoint(
    tmp_path: Path, batch_size: int, step: int, bad: float
) -> None:
    config = small_config(batch_size=batch_size, patience=0)
    objective = RecordingObjective(scripted=lambda now: bad if now >= step else 1.0)
    watcher = Watcher()
    with pytest.raises(TrainingError, match=f"the loss is {bad} at step {step};.*lower --learning-rate") as caught:
        trained(tmp_path, watcher, config=config, objective=objective)
    assert "\n" not in str(caught.value)
    done = step // math.ceil(IMAGES / batch_size)
    kept = read_checkpoint(tmp_path)
    assert (kept.epoch, kept.finished, len(watcher.rows)) == (done, False, done)
    assert all(tensor.isfinite().all() for tensor in kept.state.values())


@pytest.mark.parametrize("step", [0, 1, 49, 50, 51, 99, 100, 119])
def test_the_step_is_named_in_a_long_epoch(tmp_path: Path, step: int) -> None:
    """Losses are looked at every 50 steps; the bad one is named, not the one looked at, and none falls between."""
    objective = RecordingObjective(scripted=lambda now: math.nan if now == 120 + step else 1.0)
    job = tiny_job(
        tmp_path, small_config(batch_size=1), objective=objective, training=random_data((1, 2, 2), 120), device=CPU
    )
    with pytest.raises(TrainingError, match=f"the loss is nan at step {120 + step};"):
        train(job, None, SilentObserver())
    assert read_checkpoint(tmp_path).epoch == 1


def test_weights_that_overflow_stop_the_training(tmp_path: Path) -> None:
    """A rate of 1e38 is a number, but no weight survives it; whichever is seen first, a loss or a logit, is named."""
    with pytest.raises(
        TrainingError, match=r"step \d+.*; the last checkpoint is kept, lower --learning-rate"
    ) as caught:
        trained(tmp_path, config=small_config(learning_rate=1e38))
    assert "\n" not in str(caught.value)


def test_logits_that_are_no_numbers_on_validation_images_stop_the_training(tmp_path: Path) -> None:
    """The losses are fine, the weights after the last step of the second epoch are not."""
    network = softmax_network(8, 3)

    class Breaker(Diary):
        def on_step(self, images: int, loss: float | None) -> None:
            super().on_step(images, loss)
            if len(self.after_steps) == 1 + 4:
                with torch.no_grad():
                    cast(nn.Linear, network[1]).bias.fill_(math.nan)

    with pytest.raises(TrainingError, match=r"the logits are not finite numbers after step 3; the last checkpoint"):
        trained(tmp_path, Breaker(network), config=small_config(batch_size=20), network=network)
    kept = read_checkpoint(tmp_path)
    assert kept.epoch == 1
    assert all(tensor.isfinite().all() for tensor in kept.state.values())


def test_the_checkpoint_of_another_training_or_network_is_not_gone_on_with(tmp_path: Path) -> None:
    stored = trained(tmp_path, config=small_config(epochs=1))
    with pytest.raises(CheckpointError, match="of: there 'a test', now 'another'"):
        train(tiny_job(tmp_path, small_config(), description={"of": "another"}), stored, SilentObserver())
    wider = softmax_network(8, 5)
    with pytest.raises(CheckpointError, match="do not fit the network") as caught:
        train(tiny_job(tmp_path, small_config(), network=wider), stored, SilentObserver())
    assert same_checkpoint(read_checkpoint(tmp_path), stored)
    assert str(caught.value)


def test_averaged_weights_are_kept_and_validated(tmp_path: Path) -> None:
    """Each step counts `average` times the one behind it, from the weights after the first step on."""
    decay, network = 0.8, softmax_network(8, 3)
    diary = Diary(network)
    job = tiny_job(tmp_path, small_config(epochs=1, batch_size=8, average=decay), network=network)
    checkpoint = train(job, None, diary)
    steps = diary.after_steps[1:]
    for name, kept in checkpoint.best.items():
        expected = steps[0][name]
        for later in steps[1:]:
            expected = decay * expected + (1 - decay) * later[name]
        torch.testing.assert_close(kept, expected)
        assert not torch.equal(kept, steps[-1][name])
        assert torch.equal(checkpoint.state[name], steps[-1][name])
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(checkpoint.best[f"network.{name}"])
    feed = Feed(job.validation, CPU)
    assert checkpoint.history[0]["validation_error"] == error_rate(network, job.objective, feed)
