"""A training interrupted at any moment and resumed ends as an undisturbed one: every bit but the clock's."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainings import (
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
    unclocked,
)
from torch import nn

from abscert_plugin.data import DataSet
from abscert_plugin.errors import AbscertError, CheckpointError
from abscert_plugin.records import CHECKPOINT
from abscert_plugin.training.checkpoint import Checkpoint, check_same, read_checkpoint
from abscert_plugin.training.config import Augmentation
from abscert_plugin.training.loop import Observer, SilentObserver, TrainingJob, train
from abscert_plugin.training.run import prepare_folder, run_training

pytestmark = pytest.mark.slow  # the file as a whole

EPOCHS = 4
STEPS = 3  # per epoch
SHAPE = (1, 8, 8)
CONFIG = small_config(epochs=EPOCHS, batch_size=8, learning_rate=0.02, augmentation=Augmentation.CIFAR, average=0.8)
TRAINING = random_data(SHAPE, 20)
VALIDATION = random_data(SHAPE, 12, seed=1)


def stateful_network() -> nn.Module:
    """Return a network that draws (dropout) and remembers (batch normalisation) beside its weights."""
    features = 2 * SHAPE[1] * SHAPE[2]
    return nn.Sequential(
        nn.BatchNorm2d(2), nn.Dropout(0.3), softmax_network(features, 6), nn.ReLU(), softmax_network(6, 3)
    )


def job(folder: Path, *, first: bool, training: DataSet = TRAINING) -> TrainingJob:
    """Return the training; one that is not the first call starts from other weights, which must not matter."""
    network = stateful_network()
    if not first:
        with torch.no_grad():
            for value in network.state_dict().values():
                value.add_(1)  # in place, statistics too
    return tiny_job(folder, CONFIG, network=network, training=training, validation=VALIDATION)


def resume(folder: Path, observer: Observer, training: DataSet = TRAINING) -> Checkpoint:
    """Go on with what is in the folder, as a new process does: from the checkpoint, or from the start without one."""
    torch.manual_seed(99)  # nor does it matter what was drawn before
    if (folder / CHECKPOINT).exists():
        return train(job(folder, first=False, training=training), read_checkpoint(folder), observer)
    return train(job(folder, first=True, training=training), None, observer)


@dataclass
class Counter:
    """Counts calls of a file operation, and interrupts one before or after it is done."""

    at: int | None = None
    after: bool = False
    half: bool = False
    count: int = 0
    names: list[str] = field(default_factory=list)

    def around(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        """Return the operation on a path, watched."""

        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            self.names.append(path.name)
            self.count += 1
            stops = self.count == self.at
            if stops and not self.after:
                if self.half:
                    content = path.read_bytes()
                    path.write_bytes(content[: len(content) // 2])
                raise KeyboardInterrupt
            result = operation(path, *arguments, **options)
            if stops:
                raise KeyboardInterrupt
            return result

        return call


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return how the training ends when nobody interrupts it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(job(folder, first=True), None, SilentObserver())


def assert_ends_as(undisturbed: Checkpoint, folder: Path, watcher: Watcher | None = None) -> None:
    """Assert that the training in a folder, resumed, ends like this one, in memory and on disk."""
    ended = resume(folder, watcher or SilentObserver())
    assert same_checkpoint(ended, undisturbed)
    assert same_checkpoint(read_checkpoint(folder), undisturbed)
    files = {CHECKPOINT, f"last-{EPOCHS:04d}.safetensors", f"best-{undisturbed.best_epoch:04d}.safetensors"}
    assert {path.name for path in folder.iterdir()} == files  # and nothing is left of the interruption


def test_the_undisturbed_training_would_show_a_difference(undisturbed: Checkpoint) -> None:
    """What the comparisons rest on: the state has weights, statistics and the optimiser's, and every epoch moves it."""
    assert undisturbed.finished
    assert {
        "network.0.running_mean",
        "network.0.num_batches_tracked",
        "optimiser.0.exp_avg",
        "optimiser.0.step",
    } <= set(undisturbed.state)
    assert undisturbed.state["network.0.num_batches_tracked"] == EPOCHS * STEPS
    assert len({row["loss"] for row in undisturbed.history}) == EPOCHS
    changed = {**undisturbed.state, "optimiser.0.exp_avg": undisturbed.state["optimiser.0.exp_avg"] * (1 + 2**-23)}
    assert not same_tensors(changed, undisturbed.state)


def test_the_training_is_repeatable(tmp_path: Path, undisturbed: Checkpoint) -> None:
    assert_ends_as(undisturbed, tmp_path)


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_after_each_epoch(tmp_path: Path, undisturbed: Checkpoint, epoch: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, Watcher(interrupt_after_epoch=epoch))
    stored = read_checkpoint(tmp_path)
    assert (stored.epoch, stored.finished) == (epoch, epoch == EPOCHS)
    assert unclocked(stored.history) == unclocked(undisturbed.history)[:epoch]
    watcher = Watcher()
    assert_ends_as(undisturbed, tmp_path, watcher)
    assert watcher.starts == ([] if epoch == EPOCHS else [(EPOCHS * STEPS, epoch * STEPS)])
    assert len(watcher.steps) == (EPOCHS - epoch) * STEPS  # nothing that was done is done again


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_after_each_step(tmp_path: Path, undisturbed: Checkpoint, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, Watcher(interrupt_at_step=step))
    done = (step - 1) // STEPS
    assert (tmp_path / CHECKPOINT).exists() == (done > 0)
    watcher = Watcher()
    assert_ends_as(undisturbed, tmp_path, watcher)
    assert watcher.starts == [(EPOCHS * STEPS, done * STEPS)]


def test_after_every_epoch_and_in_every_second_one_too(tmp_path: Path, undisturbed: Checkpoint) -> None:
    for epoch in range(1, EPOCHS + 1):
        if epoch % 2:
            with pytest.raises(KeyboardInterrupt):
                resume(tmp_path, Watcher(interrupt_at_step=2))
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path, Watcher(interrupt_after_epoch=epoch))
    assert_ends_as(undisturbed, tmp_path)


def interrupted_in_files(folder: Path, operation: str, counter: Counter) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, operation, counter.around(getattr(Path, operation)))
        with pytest.raises(KeyboardInterrupt):
            resume(folder, SilentObserver())


def file_operations(folder: Path, operation: str) -> list[str]:
    """Return the names of the files that an undisturbed training replaces or removes, in order."""
    counter = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, operation, counter.around(getattr(Path, operation)))
        resume(folder, SilentObserver())
    return counter.names


@pytest.mark.parametrize("moment", ["half of the file", "the whole file, not yet in place", "in place"])
def test_while_each_file_of_a_checkpoint_is_written(tmp_path: Path, undisturbed: Checkpoint, moment: str) -> None:
    (tmp_path / "names").mkdir()
    written = file_operations(tmp_path / "names", "replace")
    assert len(written) >= 2 * EPOCHS + 1  # tensors and JSON of each epoch, and a best one
    for number in range(1, len(written) + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        interrupted_in_files(folder, "replace", Counter(number, after=moment == "in place", half="half" in moment))
        assert_ends_as(undisturbed, folder)


@pytest.mark.parametrize("after", [False, True])
def test_while_the_former_checkpoint_is_removed(tmp_path: Path, undisturbed: Checkpoint, after: bool) -> None:
    (tmp_path / "names").mkdir()
    removed = file_operations(tmp_path / "names", "unlink")
    assert len(removed) >= EPOCHS - 1
    for number in range(1, len(removed) + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        interrupted_in_files(folder, "unlink", Counter(number, after=after))
        assert_ends_as(undisturbed, folder)


@pytest.mark.parametrize("read", range(EPOCHS * STEPS))
def test_a_disk_that_fails_while_images_are_read(tmp_path: Path, undisturbed: Checkpoint, read: int) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        resume(tmp_path, SilentObserver(), streamed(TRAINING, fails_at=read))
    assert_ends_as(undisturbed, tmp_path)


def test_a_full_disk_stops_in_one_line_and_the_training_goes_on_later(
    tmp_path: Path, undisturbed: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = 0
    put = Path.replace

    def full(path: Path, target: Path) -> Path:
        nonlocal counter
        counter += 1
        if counter == 4:
            raise OSError(28, "No space left on device")
        return put(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(AbscertError, match="No space left on device") as caught:
        resume(tmp_path, SilentObserver())
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path).epoch == 1
    assert_ends_as(undisturbed, tmp_path)


# --- the same through a folder, with a network of the table -----------------------------------------------------------


@pytest.mark.parametrize("watcher", [Watcher(interrupt_after_epoch=1), Watcher(interrupt_at_step=6)])
def test_a_run_in_a_folder(tmp_path: Path, watcher: Watcher) -> None:
    data, spec = digits_data(96, 40), digits_spec(epochs=3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepare_folder(whole, resume=False)
    prepare_folder(broken, resume=False)
    expected = run_training(spec, data, whole, SilentObserver())
    with pytest.raises(KeyboardInterrupt):
        run_training(spec, data, broken, copy.deepcopy(watcher))
    with pytest.raises(CheckpointError, match="already holds a training; add --resume"):
        prepare_folder(broken, resume=False)
    prepare_folder(broken, resume=True)
    found = run_training(spec, data, broken, SilentObserver())
    assert same_checkpoint(found.checkpoint, expected.checkpoint)
    assert same_tensors(found.network.state_dict(), expected.network.state_dict())
    assert found.validation_error == expected.validation_error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "training.seed: there 3, now 4"),
        ({"epochs": 9}, "training.epochs: there 3, now 9"),
        ({"cells": 5}, "cells: there 4, now 5"),
        ({"network": "fc-3"}, "network: there 'dm-small', now 'fc-3'"),
    ],
)
def test_a_run_with_other_options_is_not_gone_on_with(tmp_path: Path, options: Mapping[str, Any], message: str) -> None:
    data = digits_data(32, 20)
    with pytest.raises(KeyboardInterrupt):
        run_training(digits_spec(epochs=3), data, tmp_path, Watcher(interrupt_after_epoch=1))
    before = read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        run_training(digits_spec(**{"epochs": 3, **options}), data, tmp_path, SilentObserver())
    assert same_checkpoint(read_checkpoint(tmp_path), before)


def test_the_same_description_is_taken_and_options_that_differ_are_named(tmp_path: Path) -> None:
    stored = {"a": 1, "training": {"seed": 1, "rate": 0.1}, "shape": [1, 2]}
    check_same(stored, {"shape": [1, 2], "training": {"rate": 0.1, "seed": 1}, "a": 1}, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_same(stored, {"a": 1, "training": {"seed": 2, "rate": 0.1}, "shape": [1, 3], "new": "x"}, tmp_path)
    message = str(caught.value)
    assert "new: there None, now 'x'; shape: there [1, 2], now [1, 3]; training.seed: there 1, now 2" in message
    assert str(tmp_path) in message
    assert "rate" not in message


def test_other_images_are_not_gone_on_with(tmp_path: Path) -> None:
    data = digits_data(32, 20)
    with pytest.raises(KeyboardInterrupt):
        run_training(digits_spec(epochs=3), data, tmp_path, Watcher(interrupt_after_epoch=1))
    other = replace(data, validation=replace(data.validation, sha256="another"))
    with pytest.raises(CheckpointError, match="validation_sha256"):
        run_training(digits_spec(epochs=3), other, tmp_path, SilentObserver())
