"""How fast this machine trains a network: a few steps of plain training, or of a method, on made-up images."""

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from abscert_plugin.claim import Radius
from abscert_plugin.draws import drawing_from
from abscert_plugin.errors import AbscertError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, InputShape, NetworkConfig
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment

_CLASSES: Final = 10
_BATCH: Final = 128
_SMALL: Final = 4
_PATIENCE: Final = 0.25  # seconds of a step of a few images past which no larger one is tried
_LEVELS: Final = 255
_PLACES: Final = (0.0, 0.25, 0.5, 0.75, 0.99)  # of a training: methods cost more or less as it goes on


@cache
def plain_pace(name: str, shape: InputShape, takes_intervals: bool) -> float:
    """Return the seconds of an image in a step of plain training: the median of several steps.

    Args:
        name: the network.
        shape: (channels, height, width) of an image.
        takes_intervals: whether the network takes interval images.

    Raises:
        ConfigError: if there is no such network for these images.
    """
    network = _network(name, Activation.RELU, shape, takes_intervals)
    channels, height, width = shape
    images = torch.rand(_BATCH, (1 + takes_intervals) * channels, height, width)

    def loss(count: int, _: float) -> torch.Tensor:
        return functional.cross_entropy(network(images[:count]), torch.zeros(count, dtype=torch.int64))

    return _pace(network, loss)


@cache
def method_pace(
    method: str, options: tuple[tuple[str, str], ...], name: str, shape: InputShape, cells: int | None, radius: Radius
) -> float | None:
    """Return the seconds of an image in a method's own step, over its whole schedule; None where it cannot be timed.

    Args:
        method: its name.
        options: its options, as text.
        name: the network.
        shape: (channels, height, width) of an image.
        cells: number of cells; None for methods on plain images.
        radius: the ball to train for.
    """
    entry = METHODS.named(method)
    device = torch.device("cpu")
    try:
        how = entry.create(radius, dict(options))
        network = _network(name, entry.activation, shape, cells is not None)
        how.prepare(network)
        objective = how.build(None if cells is None else Grid(cells), _LEVELS, device)
        images = torch.randint(0, _LEVELS + 1, (_BATCH, *shape), dtype=torch.uint8)

        def loss(count: int, place: float) -> torch.Tensor:
            moment = Moment(int(1000 * place), 100, 10)
            return objective.loss(
                network, objective.encode(images[:count]), torch.zeros(count, dtype=torch.int64), moment
            )

        return _pace(network, loss, average=statistics.fmean)  # some cost most in one part of their schedule
    except (AbscertError, RuntimeError):
        return None


def _network(name: str, activation: Activation, shape: InputShape, takes_intervals: bool) -> nn.Module:
    return NetworkConfig(name, activation, shape, _CLASSES, takes_intervals).build(0).train()


def _pace(
    network: nn.Module,
    loss: Callable[[int, float], torch.Tensor],
    average: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Return the average seconds of an image; batches are as large as training's unless a few images take long."""

    def seconds(count: int, place: float) -> float:
        start, worked = time.perf_counter(), time.process_time()
        network.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(count, place))
        # where other work takes the cores, this process's own seconds are nearer to those of an idle machine
        return min(time.perf_counter() - start, time.process_time() - worked) / count

    def seconds_by(threads: int) -> float:
        torch.set_num_threads(threads)
        return seconds(count, 0.0)

    threads = torch.get_num_threads()
    with drawing_from(0):
        seconds(_SMALL, 0.0)  # the first step makes buffers, graphs and threads
        count = _SMALL if _SMALL * seconds(_SMALL, 0.0) > _PATIENCE else _BATCH
        try:  # several threads wait for one whose core other work has, and count as work meanwhile
            torch.set_num_threads(min({1, threads}, key=seconds_by))
            paces = [seconds(count, place) for place in _PLACES]
        finally:
            torch.set_num_threads(threads)
    return average(paces)
