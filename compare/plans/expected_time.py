"""About how long a run takes, by what the entries of its data set and network tell, and by its method's step."""

from functools import cache
from typing import Final

import torch
from torch import nn

from abscert_plugin.claim import Claim
from abscert_plugin.data.table import DATA_SETS
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import Activation, InputShape, NetworkConfig
from abscert_plugin.training.methods import METHODS
from compare.plans.planned_run import Run

# Measured on one core of two that others shared: ten epochs of MNIST's cnn-2layer, 7 s an epoch of plain training. It
# is rough: the same steps took half as long, or twice, as others came and went, and an accelerator is not considered.
_FLOPS: Final = 3e10  # a second
_EVALUATED: Final = 0.4  # of an epoch: what the validation after it costs
_EPOCHS: Final = 10


def expected_seconds(run: Run) -> float | None:
    """Return about how many seconds a run takes; None where its data set's entry does not tell what there is."""
    entry = DATA_SETS[run.data]
    shape, images, tests = entry.image_shape(run.image_size), entry.training_images, entry.test_images
    if shape is None or images is None or tests is None:
        return None
    tests = min(tests, run.limit or tests, run.ball_limit or tests)
    cost = 3 * _multiplications(run.network, shape, run.cells is not None) * 2  # forward, and twice as much backward
    method = METHODS.named(run.method)
    step = method.step_cost
    training = (run.epochs or _EPOCHS) * images * cost / _FLOPS * step * (1 + _EVALUATED / step)
    trains_for_balls = method.create(run.trained_for, run.options).claim == Claim.BALL
    open_share = 0.03 if trains_for_balls else 0.8  # of the images: they take the whole time
    verifying = len(run.certify) * tests * (run.timeout * open_share + 0.005) if "ball" in run.claims else 0.0
    return training + verifying + 10


@cache
def _multiplications(name: str, shape: InputShape, takes_intervals: bool) -> float:
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
