"""Algorithm 2: the loss is the cross-entropy of the network on phi(image), by an oracle in numpy."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import grids, uint8_images
from tiny_trainings import CPU, small_config, softmax_network, tiny_job
from torch import Tensor, nn

from abscert_plugin.data import DataSet, Split
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.grid import Grid
from abscert_plugin.training.abstrain import Abstrain
from abscert_plugin.training.config import Precision
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import SilentObserver, error_rate, train
from abscert_plugin.training.objective import Moment, Objective

MOMENT = Moment(step=0, steps_per_epoch=1, epochs=1)
SHAPE = (2, 3, 3)
CLASSES = 4
TOLERANCE = 1e-5  # float32 sums of 36 products of size 1


def numpy_logits(network: nn.Sequential, grid: Grid, images: np.ndarray, levels: int) -> np.ndarray:
    """Return the logits of one layer of weights on the interval images, in float64."""
    pixels = (images / np.float32(levels)).astype(np.float32)
    inputs = grid.interval_image(pixels).reshape(len(images), -1).astype(np.float64)
    layer = cast(nn.Linear, network[1])
    return inputs @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def numpy_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((log_sum - logits[np.arange(len(labels)), labels]).mean())


def objective_loss(objective: Abstrain, network: nn.Module, images: np.ndarray, labels: np.ndarray) -> Tensor:
    return objective.loss(network, objective.encode(torch.from_numpy(images)), torch.from_numpy(labels), MOMENT)


@given(
    grids(),
    st.sampled_from([255, 16, 1]).flatmap(
        lambda levels: st.tuples(st.just(levels), uint8_images((3, *SHAPE), levels=levels))
    ),
    st.lists(st.integers(0, CLASSES - 1), min_size=3, max_size=3),
    st.integers(0, 9),
)
def test_loss_is_the_cross_entropy_on_the_interval_images(
    grid: Grid, stored: tuple[int, np.ndarray], labels: list[int], seed: int
) -> None:
    levels, images = stored
    network = softmax_network(36, CLASSES, seed)
    found = objective_loss(Abstrain(grid, levels, CPU), network, images, np.array(labels))
    expected = numpy_cross_entropy(numpy_logits(network, grid, images, levels), np.array(labels))
    assert found.item() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@given(grids(), uint8_images((2, *SHAPE)))
def test_inputs_are_the_interval_images_bit_for_bit(grid: Grid, images: np.ndarray) -> None:
    inputs = Abstrain(grid, 255, CPU).encode(torch.from_numpy(images))
    expected = grid.interval_image(images / np.float32(255))
    assert inputs.dtype == torch.float32
    assert inputs.numpy().tobytes() == expected.tobytes()


def ends_swapped(inputs: Tensor) -> Tensor:
    return torch.cat([inputs[:, SHAPE[0] :], inputs[:, : SHAPE[0]]], dim=1)


def one_end_twice(inputs: Tensor) -> Tensor:
    return torch.cat([inputs[:, : SHAPE[0]]] * 2, dim=1)


def ends_interleaved(inputs: Tensor) -> Tensor:
    return inputs[:, [0, 2, 1, 3]]


def pixel_scale(inputs: Tensor) -> Tensor:
    return (inputs + 1) / 2


@pytest.mark.parametrize("mutation", [ends_swapped, one_end_twice, ends_interleaved, pixel_scale])
def test_a_wrong_input_would_be_seen(mutation: Callable[[Tensor], Tensor]) -> None:
    """Each breach of the abstraction moves the loss by far more than the tolerance above."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    labels = random.integers(0, CLASSES, 3)
    grid, network = Grid(3), softmax_network(36, CLASSES)
    objective = Abstrain(grid, 255, CPU)
    expected = numpy_cross_entropy(numpy_logits(network, grid, images, 255), labels)
    inputs = objective.encode(torch.from_numpy(images))
    right = objective.loss(network, inputs, torch.from_numpy(labels), MOMENT).item()
    wrong = objective.loss(network, mutation(inputs), torch.from_numpy(labels), MOMENT).item()
    assert right == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    assert abs(wrong - expected) > 100 * TOLERANCE


def test_images_of_one_cell_train_alike() -> None:
    """With two cells, 0 to 127 of 255 is the lower one: the loss and its gradient see the cell only."""
    network, objective = softmax_network(36, CLASSES), Abstrain(Grid(2), 255, CPU)
    losses = {
        value: objective_loss(objective, network, np.full((1, *SHAPE), value, dtype=np.uint8), np.array([1])).item()
        for value in (0, 64, 127, 128, 255)
    }
    assert losses[0] == losses[64] == losses[127]
    assert losses[128] == losses[255] != losses[0]


def test_the_moment_does_not_matter() -> None:
    network, objective = softmax_network(36, CLASSES), Abstrain(Grid(5), 255, CPU)
    inputs = objective.encode(torch.full((2, *SHAPE), 7, dtype=torch.uint8))
    labels = torch.tensor([0, 1])
    late = Moment(step=900, steps_per_epoch=10, epochs=100)
    assert objective.loss(network, inputs, labels, MOMENT) == objective.loss(network, inputs, labels, late)
    assert isinstance(objective, Objective)
    assert objective.name == "abstrain"


@pytest.mark.slow
@given(grids(), uint8_images((6, *SHAPE)), st.lists(st.integers(0, CLASSES - 1), min_size=6, max_size=6))
def test_error_rate_counts_wrong_labels(grid: Grid, images: np.ndarray, labels: list[int]) -> None:
    network = softmax_network(36, CLASSES)
    names = tuple("abcd")
    data = DataSet(
        "six", Split.VALIDATION, names, SHAPE, 255, ArraySource(images), np.array(labels), np.arange(6), "none"
    )
    logits = numpy_logits(network, grid, images, 255)
    top = np.sort(logits, axis=1)
    assume((top[:, -1] - top[:, -2]).min() > TOLERANCE)  # float32 may break a tie either way
    expected = np.mean(logits.argmax(axis=1) != np.array(labels))
    assert error_rate(network, Abstrain(grid, 255, CPU), Feed(data, CPU)) == expected
    assert network.training  # as it was


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_error_rate_is_no_number_where_a_logit_is_none(bad: float) -> None:
    network = softmax_network(8, 3)
    with torch.no_grad():
        cast(nn.Linear, network[1]).bias[2] = bad
    data = DataSet(
        "one",
        Split.VALIDATION,
        ("a", "b", "c"),
        (1, 2, 2),
        255,
        ArraySource(np.zeros((1, 1, 2, 2), dtype=np.uint8)),
        np.array([2]),
        np.array([0]),
        "none",
    )
    assert np.isnan(error_rate(network, Abstrain(Grid(2), 255, CPU), Feed(data, CPU)))


def test_bfloat16_changes_the_forward_pass_but_not_the_weights_type(tmp_path: Path) -> None:
    weights = {}
    for precision in Precision:
        job = tiny_job(tmp_path, small_config(epochs=1, precision=precision))
        train(job, None, SilentObserver())
        weights[precision] = cast(nn.Linear, cast(nn.Sequential, job.network)[1]).weight.detach()
        assert weights[precision].dtype == torch.float32
    assert torch.equal(weights[Precision.AUTO], weights[Precision.FLOAT32])  # on a CPU
    assert not torch.equal(weights[Precision.BFLOAT16], weights[Precision.FLOAT32])
    # eight bits of mantissa: the same training, roughly
    assert torch.allclose(weights[Precision.BFLOAT16], weights[Precision.FLOAT32], rtol=0, atol=0.02)
