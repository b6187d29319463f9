"""The one training loop: every method, data set and network is trained here."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from abscert_plugin.data.dataset import DataSet
from abscert_plugin.draws import drawing_from
from abscert_plugin.errors import CheckpointError, TrainingError
from abscert_plugin.training.augmentation import augment
from abscert_plugin.training.checkpoint import Checkpoint, check_same, remove_leftovers, write_checkpoint
from abscert_plugin.training.config import Precision, TrainingConfig, learning_rate_at
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.steps import Steps

_EVALUATED_AT_ONCE: Final = 1000
_EVALUATED_PIXELS: Final = 2**22  # in one batch: 27 images of 3 x 224 x 224
_NETWORK: Final = "network."  # in the names of a checkpoint's tensors, as the two below
_OPTIMISER: Final = "optimiser."
_AVERAGE: Final = "average."
_CHECK_EVERY: Final = 50  # reading a loss from an accelerator waits for it, so not at every step


@runtime_checkable
class Observer(Protocol):
    """Whoever wants to see the training go on; the loop itself prints nothing."""

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Take notice that the training begins, or goes on after `steps_done` steps."""
        ...

    def on_step(self, images: int, loss: float | None) -> None:
        """Take notice of a step over so many images; the mean loss of late is given now and then."""
        ...

    def on_epoch(self, row: Mapping[str, Any]) -> bool | None:
        """Take notice of an epoch's row of the history; True ends the training there, and it can be gone on with."""
        ...


@final
class SilentObserver:
    """An observer that looks away."""

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Do nothing."""

    def on_step(self, images: int, loss: float | None) -> None:
        """Do nothing."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""


@final
@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training: what is trained on what, how, and where its files go.

    Args:
        network: with its first weights, on `device`.
        objective: the method.
        training: the training split.
        validation: what the best epoch is chosen on; the test split in the paper's protocol alone.
        config: options of the loop.
        device: where it runs.
        folder: where checkpoints go.
        description: stored with the checkpoint; only an equal one is resumed.
    """

    network: nn.Module
    objective: Objective
    training: DataSet
    validation: DataSet
    config: TrainingConfig
    device: torch.device
    folder: Path
    description: Mapping[str, Any]


def train(job: TrainingJob, resumed: Checkpoint | None, observer: Observer) -> Checkpoint:
    """Train, writing a checkpoint after every epoch, and return the last one.

    The order of the images and every other draw depend on the seed and the epoch alone, so a training that was
    killed and resumed ends with the weights of an undisturbed one.

    Args:
        job: the training.
        resumed: the checkpoint to go on from.
        observer: told of every step.

    Raises:
        TrainingError: if the loss or a logit is not a finite number; the last checkpoint is kept.
        CheckpointError: if `resumed` belongs to another training, or a checkpoint cannot be written.

    Source: AbsCert paper, Algorithm 2 (the loop), section 5.1 (Adam, warm-up, cosine).
    """
    return _Loop(job, observer).run(resumed)


def error_rate(network: nn.Module, objective: Objective, feed: Feed) -> float:
    """Return the share of a split's images that fail the method's claim, 0 to 1, or NaN if a margin is not a number."""
    was_training = network.training
    network.eval()
    wrong = 0
    finite = True
    with torch.no_grad():  # in inference mode no attack could follow a gradient
        size = max(1, min(_EVALUATED_AT_ONCE, _EVALUATED_PIXELS // math.prod(feed.shape)))
        for images, labels in feed.batches(torch.arange(len(feed)), size):
            margins = objective.margins(network, objective.encode(images), labels)
            wrong += int((margins <= 0).sum())
            finite = finite and not bool(margins.isnan().any())
    network.train(was_training)
    return wrong / len(feed) if finite else math.nan


@final
class _Loop:
    def __init__(self, job: TrainingJob, observer: Observer) -> None:
        self._job = job
        self._observer = observer
        self._weights = Steps(job.network.parameters(), job.config.optimiser, job.config.weight_decay)
        self._averaged = None
        if job.config.average:
            moving = get_ema_multi_avg_fn(job.config.average)
            self._averaged = AveragedModel(job.network, multi_avg_fn=moving, use_buffers=True)
        self._training = Feed(job.training, job.device)
        self._validation = Feed(job.validation, job.device)
        # no layer that normalises by a batch can take one of a single image
        is_alone = (
            len(job.training) > 1 and len(job.training) % job.config.batch_size == 1 and job.config.batch_size > 1
        )
        self._images_per_epoch = len(job.training) - is_alone
        self._steps_per_epoch = math.ceil(self._images_per_epoch / job.config.batch_size)
        half = job.config.precision is Precision.BFLOAT16
        self._half = half or (job.config.precision is Precision.AUTO and job.device.type == "cuda")

    def run(self, resumed: Checkpoint | None) -> Checkpoint:
        config, description = self._job.config, self._job.description
        if resumed is not None:
            check_same(resumed.description, description, self._job.folder)
            remove_leftovers(self._job.folder, resumed)
            self._restore(resumed)
            if resumed.finished:
                return resumed
        checkpoint = resumed
        done = resumed.epoch if resumed is not None else 0
        self._observer.on_start(config.epochs * self._steps_per_epoch, done * self._steps_per_epoch)
        for epoch in range(done + 1, config.epochs + 1):
            row = self._epoch(epoch)
            checkpoint = self._next_checkpoint(checkpoint, row)
            write_checkpoint(self._job.folder, checkpoint)
            is_stopped = self._observer.on_epoch(row)
            if checkpoint.finished or is_stopped:
                break
        if checkpoint is None:
            raise TrainingError(f"expected at least one epoch, got {config.epochs}")
        return checkpoint

    @property
    def _kept(self) -> nn.Module:
        """The network that is validated and exported."""
        return self._job.network if self._averaged is None else self._averaged.module

    def _epoch(self, epoch: int) -> dict[str, Any]:
        config = self._job.config
        generator = torch.Generator().manual_seed(_mixed_seed(config.seed, epoch))
        order = torch.randperm(len(self._training), generator=generator)[: self._images_per_epoch]
        start = time.perf_counter()
        with drawing_from(_mixed_seed(config.seed, epoch), self._job.device):  # for layers that draw, such as dropout
            loss = self._steps(epoch, order, generator)
        seconds = time.perf_counter() - start
        validation_error = error_rate(self._kept, self._job.objective, self._validation)
        if math.isnan(validation_error):
            raise TrainingError(
                f"the logits are not finite numbers after step {epoch * self._steps_per_epoch - 1}; "
                "the last checkpoint is kept, lower --learning-rate"
            )
        return {
            "epoch": epoch,
            "loss": loss,
            "validation_error": validation_error,
            "learning_rate": self._rate_at(epoch * self._steps_per_epoch - 1),
            "seconds": seconds,
            "images_per_second": self._images_per_epoch / seconds,
        }

    def _steps(self, epoch: int, order: Tensor, generator: torch.Generator) -> float:
        config = self._job.config
        first = (epoch - 1) * self._steps_per_epoch
        losses = torch.zeros(self._steps_per_epoch, device=self._job.device)
        self._job.network.train()
        for number, (images, labels) in enumerate(self._training.batches(order, config.batch_size)):
            changed = augment(images, config.augmentation, self._job.training.levels, generator)
            losses[number] = self._step(changed, labels, first + number)
            late = None
            if number % _CHECK_EVERY == 0 or number + 1 == self._steps_per_epoch:
                window = losses[max(0, number + 1 - _CHECK_EVERY) : number + 1].tolist()
                self._check_numbers(window, first + number + 1 - len(window))
                late = sum(window) / len(window)
            self._observer.on_step(len(images), late)
        self._weights.forget_gradients()  # while a checkpoint is written
        return float(losses.mean())

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        job = self._job
        moment = Moment(step, self._steps_per_epoch, job.config.epochs)
        inputs = job.objective.encode(images)
        # without its cache: in older torch casts that a pass without gradients made had none in the next pass either
        with torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=self._half, cache_enabled=False):
            loss = job.objective.loss(job.network, inputs, labels, moment)
        self._weights.forget_gradients()
        loss.backward()
        if job.config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(job.network.parameters(), job.config.gradient_clip)
        self._weights.take(self._rate_at(step))
        if self._averaged is not None:
            self._averaged.update_parameters(job.network)
        return loss.detach()

    def _rate_at(self, step: int) -> float:
        config = self._job.config
        return learning_rate_at(step, config.epochs * self._steps_per_epoch, config)

    def _check_numbers(self, losses: list[float], first: int) -> None:
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} at step {first + offset}; the last checkpoint is kept, lower --learning-rate"
                )

    def _next_checkpoint(self, former: Checkpoint | None, row: dict[str, Any]) -> Checkpoint:
        config = self._job.config
        history = (*(former.history if former is not None else ()), row)
        weights = _under(_NETWORK, self._job.network.state_dict())
        kept = _under(_NETWORK, self._kept.state_dict())
        # the first of equal epochs stays the best
        improved = former is None or row["validation_error"] < former.history[former.best_epoch - 1]["validation_error"]
        losses = [entry["loss"] for entry in history]
        stale = len(losses) - 1 - int(np.argmin(losses))
        ended = row["epoch"] == config.epochs or (config.patience > 0 and stale >= config.patience)
        return Checkpoint(
            epoch=row["epoch"],
            description=self._job.description,
            history=history,
            state={**weights, **_under(_OPTIMISER, self._weights.tensors()), **self._average_tensors()},
            best_epoch=row["epoch"] if improved or former is None else former.best_epoch,
            best=_copied(kept) if improved or former is None else former.best,
            finished=ended,
        )

    def _average_tensors(self) -> dict[str, Tensor]:
        return {} if self._averaged is None else _under(_AVERAGE, self._averaged.state_dict())

    def _restore(self, checkpoint: Checkpoint) -> None:
        try:
            load_weights(self._job.network, checkpoint.state)
            self._weights.restore(_below(_OPTIMISER, checkpoint.state))
            if self._averaged is not None:
                self._averaged.load_state_dict(_below(_AVERAGE, checkpoint.state))
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint in {self._job.folder} does not fit the network") from error


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights by the names that the network has for them."""
    return _below(_NETWORK, tensors)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], assign: bool = False) -> None:
    """Put a checkpoint's weights into a network: copies, or with `assign` the tensors themselves.

    Raises:
        CheckpointError: if they do not fit.
    """
    try:
        network.load_state_dict(weights_of(tensors), assign=assign)
    except RuntimeError as error:
        raise CheckpointError("the checkpoint's weights do not fit the network") from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _mixed_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
