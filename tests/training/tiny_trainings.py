"""Trainings small enough to run many times, and stand-ins that record or interrupt them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.data import ArraySource, DataSet, Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation
from abscert_plugin.training.abstrain import Abstrain
from abscert_plugin.training.checkpoint import Checkpoint
from abscert_plugin.training.config import TrainingConfig
from abscert_plugin.training.loop import TrainingJob
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.run import RunSpec, TrainingData

CPU = torch.device("cpu")
CELLS = 4
CLOCKED = ("seconds", "images_per_second")  # the columns of a history that no seed decides


def small_config(**options: Any) -> TrainingConfig:
    """Return options of a short training."""
    return TrainingConfig(**{"epochs": 4, "batch_size": 32, "learning_rate": 3e-3, "seed": 3, **options})


def digits(split: Split, count: int) -> DataSet:
    """Return the first images of a split of digits."""
    return load_data("digits", split, None).first(count)


def digits_data(training: int = 200, validation: int = 60) -> TrainingData:
    """Return small splits of digits."""
    return TrainingData(digits(Split.TRAIN, training), digits(Split.VALIDATION, validation))


def digits_spec(cells: int = CELLS, network: str = "dm-small", **options: Any) -> RunSpec:
    """Return a short training on digits."""
    return RunSpec("digits", None, None, network, Activation.RELU, Grid(cells), small_config(**options), "cpu")


def random_data(shape: tuple[int, int, int], count: int, classes: int = 3, seed: int = 0) -> DataSet:
    """Return random images; the first pixel of image i is i, and the index starts at 10 and skips every other place."""
    assert count <= 256
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (10 + 2 * count, *shape), dtype=np.uint8)
    index = 10 + 2 * np.arange(count)
    images[index, 0, 0, 0] = np.arange(count)
    names = tuple(map(str, range(classes)))
    labels = random.integers(0, classes, count)
    return DataSet("random", Split.TRAIN, names, shape, 255, ArraySource(images), labels, index, f"seed {seed}")


@dataclass
class WatchedSource:
    """Images that say whether they are in memory; remembers how many were read each time, and fails when told to."""

    source: Any
    reads: list[int] = field(default_factory=list)
    fails_at: int | None = None
    resident: bool = False

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return the images, or fail at the chosen read."""
        if len(self.reads) == self.fails_at:
            raise OSError("the disk is gone")
        self.reads.append(len(positions))
        return self.source.read(positions)

    @property
    def is_resident(self) -> bool:
        """As told."""
        return self.resident


def streamed(data: DataSet, fails_at: int | None = None) -> DataSet:
    """Return the same split from a source that is not in memory."""
    return replace(data, source=WatchedSource(data.source, fails_at=fails_at))


def softmax_network(features: int, classes: int, seed: int = 0) -> nn.Sequential:
    """Return a network of one layer of weights."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(features, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return network


def tiny_job(folder: Path, config: TrainingConfig, **parts: Any) -> TrainingJob:
    """Return a training on random images of 2 x 2 pixels."""
    return TrainingJob(
        **{
            "network": softmax_network(8, 3),
            "objective": Abstrain(Grid(CELLS), 255, CPU),
            "training": random_data((1, 2, 2), 40),
            "validation": random_data((1, 2, 2), 20, seed=1),
            "config": config,
            "device": CPU,
            "folder": folder,
            "description": {"of": "a test"},
            **parts,
        }
    )


@dataclass
class RecordingObjective:
    """Algorithm 2 that remembers what it was given; `scripted` overrules the loss of a step."""

    scripted: Callable[[int], float] | None = None
    trained: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    encoded: list[Tensor] = field(default_factory=list)
    name: str = "recording"
    claim: str = "cell"

    def encode(self, images: Tensor) -> Tensor:
        """Return the interval images."""
        self.encoded.append(images.clone())
        return Abstrain(Grid(CELLS), 255, CPU).encode(images)

    def loss(self, network: nn.Module, inputs: Tensor, labels: Tensor, moment: Moment) -> Tensor:
        """Return the mean cross-entropy, or the scripted value with no gradient."""
        self.trained.append(self.encoded[-1])
        self.labels.append(labels)
        self.moments.append(moment)
        if self.scripted is not None:
            return 0 * network(inputs).sum() + self.scripted(moment.step)
        return nn.functional.cross_entropy(network(inputs), labels)

    def margins(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the margins of the image's own cells."""
        return logit_margins(network(inputs), labels)


@dataclass
class Watcher:
    """An observer that remembers everything, and interrupts after an epoch or a step as Ctrl-C does."""

    interrupt_after_epoch: int | None = None
    interrupt_at_step: int | None = None
    starts: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[int, float | None]] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Remember."""
        self.starts.append((total_steps, steps_done))

    def on_step(self, images: int, loss: float | None) -> None:
        """Remember, or interrupt."""
        self.steps.append((images, loss))
        if len(self.steps) == self.interrupt_at_step:
            raise KeyboardInterrupt

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Remember, or interrupt."""
        self.rows.append(row)
        if row["epoch"] == self.interrupt_after_epoch:
            raise KeyboardInterrupt


def unclocked(history: Any) -> list[dict[str, Any]]:
    """Return the rows of a history without their times."""
    return [{key: value for key, value in row.items() if key not in CLOCKED} for row in history]


def _bits(tensor: Tensor) -> bytes:
    # through int8, since numpy has no bfloat16
    return tensor.detach().contiguous().reshape(-1).view(torch.int8).numpy().tobytes()


def same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are equal in name, type, shape and every bit."""
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype
        and first[key].shape == second[key].shape
        and _bits(first[key]) == _bits(second[key])
        for key in first
    )


def same_checkpoint(first: Checkpoint, second: Checkpoint) -> bool:
    """Return whether two trainings ended alike, times aside."""
    return (
        same_tensors(first.state, second.state)
        and same_tensors(first.best, second.best)
        and unclocked(first.history) == unclocked(second.history)
        and (first.epoch, first.best_epoch, first.finished) == (second.epoch, second.best_epoch, second.finished)
        and first.description == second.description
    )
