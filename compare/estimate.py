"""About how long a run takes: rough, by the size of network and data and by what a method does in a step."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

import torch
from torch import nn

from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import Activation, NetworkConfig
from compare.plan import Run

# Measured on one core of two that others shared: ten epochs of MNIST's cnn-2layer, 7 s an epoch of plain training. It
# is rough: the same steps took half as long, or twice, as others came and went, and an accelerator is not considered.
_FLOPS: Final = 3e10  # a second
_EVALUATED: Final = 0.4  # of an epoch: what the validation after it costs
_EPOCHS: Final = 10
_COUNTS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(  # images to train and to test with
    {
        "digits": (1_294, 359),
        "mnist": (55_000, 10_000),
        "fashion-mnist": (55_000, 10_000),
        "cifar10": (45_000, 10_000),
        "imagenet": (1_276_167, 50_000),
    }
)
_SHAPES: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
)
_STEPS: Final[Mapping[str, float]] = MappingProxyType(  # in steps of plain training, over all epochs
    {
        "plain": 1,
        "abstrain": 0.6,
        "ibp": 2,
        "reachable": 3.5,
        "adv-ibp": 3.5,
        "mtl-ibp": 6.5,
        "pgd": 6.5,
        "sabr": 8.5,
        "crown-ibp": 18,  # 40 while its linear bounds count
        "lbp": 25,
        "llm": 60,
    }
)
_UNCERTIFIED: Final = frozenset({"plain", "pgd", "abstrain"})  # most of their images take the whole time


def image_shape(run: Run) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images of a run; those of a folder may be of other channels."""
    side = run.image_size or 224
    return _SHAPES.get(run.data, (3, side, side))


def estimated_seconds(run: Run) -> float:
    """Return about how many seconds a run takes; another method counts as much as `sabr`."""
    images, tests = _COUNTS.get(run.data, _COUNTS["imagenet"])
    shape = image_shape(run)
    tests = min(tests, run.limit or tests, run.ball_limit or tests)
    cost = 3 * _multiplications(run.network, shape, run.cells is not None) * 2  # forward, and twice as much backward
    step = _STEPS.get(run.method, _STEPS["sabr"])
    training = (run.epochs or _EPOCHS) * images * cost / _FLOPS * step * (1 + _EVALUATED / step)
    open_share = 0.8 if run.method in _UNCERTIFIED else 0.03
    verifying = len(run.certify) * tests * (run.timeout * open_share + 0.005) if "ball" in run.claims else 0.0
    return training + verifying + 10


@cache
def _multiplications(name: str, shape: tuple[int, int, int], takes_intervals: bool) -> float:
    """Return how many multiplications a forward pass of one image takes."""
    try:
        with torch.device("meta"):
            network = NetworkConfig(name, Activation.RELU, shape, 10, takes_intervals).build(0)
    except ConfigError:
        return 0.0
    total = 0.0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        places = out[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        total += layer.weight.numel() * places

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    channels, height, width = shape
    with torch.no_grad():
        network.eval()(torch.empty(1, 2 * channels if takes_intervals else channels, height, width, device="meta"))
    return total
