"""Training for the ball teaches what training without it does not: certified error on MNIST, by one kind of bounds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from abscert_plugin.claim import Radius
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.training.checkpoint import Checkpoint
from abscert_plugin.training.config import Precision, TrainingConfig
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import SilentObserver, TrainingJob, error_rate, train
from abscert_plugin.training.method import Method
from abscert_plugin.training.methods import METHODS

CPU = torch.device("cpu")
RADIUS = Radius.parse("0.05")


def trained(method: Method, data: tuple[DataSet, DataSet], folder: Path) -> tuple[nn.Module, Checkpoint]:
    training, validation = data
    made = NetworkConfig("cnn-2layer", Activation.RELU, training.shape, 10, takes_intervals=False).build(0)
    torch.manual_seed(0)
    method.prepare(made)
    config = TrainingConfig(
        epochs=4, batch_size=64, learning_rate=2e-3, patience=0, gradient_clip=10.0, precision=Precision.FLOAT32
    )
    objective = method.build(None, training.levels, CPU)
    folder.mkdir()
    job = TrainingJob(made, objective, training, validation, config, CPU, folder, {"of": "a test"})
    return made, train(job, None, SilentObserver())


@pytest.mark.slow
def test_ibp_lowers_the_certified_error_below_that_of_plain(mnist_dir: Path, tmp_path: Path) -> None:
    splits = ((Split.TRAIN, 4000), (Split.VALIDATION, 1000))
    train_split, held_out = (load_data("mnist", split, mnist_dir).first(count) for split, count in splits)
    data = (train_split, held_out)
    ibp, without = (METHODS.named(name).create(RADIUS, {}) for name in ("ibp", "plain"))
    with torch.random.fork_rng():
        robust, checkpoint = trained(ibp, data, tmp_path / "ibp")
        plain, _ = trained(without, data, tmp_path / "plain")
    errors = [row["validation_error"] for row in checkpoint.history]
    judge, clean = (method.build(None, 255, CPU) for method in (ibp, without))
    validation = Feed(data[1], CPU)
    assert errors[-1] < 0.5 * errors[0]
    assert error_rate(robust, judge, validation) == errors[-1]
    assert errors[-1] < error_rate(plain, judge, validation) - 0.3
    assert error_rate(robust, clean, validation) <= errors[-1]
    assert error_rate(plain, clean, validation) < 0.15  # it has learnt, only not this
