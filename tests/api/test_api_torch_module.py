"""`abscert.torch_module`: the deployed file's logits, and gradients that are what they are called."""

from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from command_line import linear_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import abscert_plugin as abscert
from abscert_plugin.abstraction import Abstraction
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.grid import Grid
from abscert_plugin.reading.differentiable import DeployedModule, Gradient

SHAPE: Final = (1, 2, 3)
UNEVEN: Final = Grid.from_inner_edges([0.1, 0.15, 0.8])


def linear(channels: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * 6, 3))


def gradient_of(module: nn.Module, images: Tensor, row: int = 0) -> Tensor:
    given = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(given)[:, row].sum(), given)
    return gradient


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrapped")
    return abscert.wrap(linear_model(folder / "linear.onnx"), folder / "cells", cells=7, image_shape=(1, 8, 8)).deploy


def test_logits_are_those_of_the_deployed_file(wrapped: Path) -> None:
    module, artifact = abscert.torch_module(wrapped), Artifact.open(wrapped, Provider.CPU)
    images = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(
        module(torch.from_numpy(images)).numpy(),
        artifact.run_images(images),
        rtol=0,
        atol=1e-5,  # float32 sums
    )
    assert module.grid == artifact.grid
    assert not any(one.requires_grad for one in module.parameters())
    assert not module.training


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000), radius=st.sampled_from([0.001, 0.04, 0.3, 1.0]), grid=st.sampled_from([Grid(3), UNEVEN])
)
def test_by_cells_is_the_slope_from_end_to_end_of_the_ball(seed: int, radius: float, grid: Grid) -> None:
    """Of a linear network, the deployed classifier itself says what a pixel does that goes through its ball."""
    network = linear(2, seed)
    module = DeployedModule(network, Cells(grid), Gradient.CELLS, radius)
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    found = gradient_of(module, image)
    for place in np.ndindex(*SHAPE):
        low, high = image.clone(), image.clone()
        low[0][place] -= radius
        high[0][place] += radius
        low, high = low.clamp(min=0), high.clamp(max=1)
        risen = module(high)[0, 0] - module(low)[0, 0]
        expected = risen / (high[0][place] - low[0][place])
        assert found[0][place].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-5 / radius)


def test_by_cells_is_zero_where_the_ball_stays_in_a_cell() -> None:
    module = DeployedModule(linear(2), Cells(Grid(2)), Gradient.CELLS, 0.1)
    image = torch.tensor([0.1, 0.3, 0.39, 0.45, 0.55, 0.9]).reshape(1, *SHAPE)
    assert (gradient_of(module, image) != 0).flatten().tolist() == [False, False, False, True, True, False]


def test_straight_through_is_that_of_both_ends_moving_with_the_pixel() -> None:
    network = nn.Sequential(linear(2), nn.Tanh())
    module = DeployedModule(network, Cells(UNEVEN), Gradient.STRAIGHT_THROUGH)
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(images), network(Abstraction(UNEVEN)(images)))
    by_end = gradient_of(network, Abstraction(UNEVEN)(images))
    torch.testing.assert_close(gradient_of(module, images), 2 * by_end[:, :1] + 2 * by_end[:, 1:])


def test_a_plain_model_has_its_own_gradient(tmp_path: Path) -> None:
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    network = nn.Sequential(linear(1), nn.Tanh(), nn.Linear(3, 3)).requires_grad_(False)
    given = abscert.torch_module(network, image_shape=SHAPE, mean=[0.3], std=[0.25])
    assert given.grid is None
    scaled = (images - 0.3) / 0.25
    torch.testing.assert_close(given(images), network(scaled))
    torch.testing.assert_close(gradient_of(given, images), gradient_of(network, scaled) / 0.25)
    ours = DeployedModule(network, Pixels(), Gradient.STRAIGHT_THROUGH)
    torch.testing.assert_close(gradient_of(ours, images), 2 * gradient_of(network, 2 * images - 1))


def test_what_has_no_meaning_is_refused(wrapped: Path) -> None:
    with pytest.raises(abscert.AbscertError, match="expected gradient: one of straight-through, cells; got 'cell'"):
        abscert.torch_module(wrapped, gradient="cell")
    for radius in (None, 0):
        with pytest.raises(abscert.AbscertError, match="expected a radius above 0 with gradient cells, got"):
            abscert.torch_module(wrapped, gradient="cells", radius=radius)
    with pytest.raises(abscert.AbscertError, match=r"expected a model with cells with gradient cells, got .* without"):
        abscert.torch_module(linear(1), gradient="cells", radius=0.1, image_shape=SHAPE)
