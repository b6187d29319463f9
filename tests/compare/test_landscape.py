"""Loss landscapes: scaled directions, the loss at the middle, networks as they were, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import abscert, refused, train
from torch import nn
from torch.nn import functional

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from compare import landscape as module
from compare.landscape import Landscape, input_landscape, weight_landscape


def network(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()


def batch(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((count, 1, 3, 3), generator=generator)
    return images, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("grid", [None, Grid(3)])
@pytest.mark.parametrize("of", [weight_landscape, input_landscape])
def test_the_middle_is_the_loss_of_the_network_itself(of, grid: Grid | None) -> None:
    made, (images, labels) = network(1 if grid is None else 2), batch()
    inputs = 2 * images - 1 if grid is None else Abstraction(grid)(images)
    with torch.no_grad():
        expected = functional.cross_entropy(made(inputs), labels).item()
    found = of(made, grid, images, labels, 0.3, 5, 0)
    assert found.losses.shape == (5, 5)
    assert found.losses[2, 2] == pytest.approx(expected, rel=1e-5)
    assert found.steps.tolist() == pytest.approx([-0.3, -0.15, 0.0, 0.15, 0.3])
    assert len(np.unique(found.losses)) > 10


def test_weights_are_as_before_also_after_a_failure() -> None:
    made, (images, labels) = network(), batch()
    before = [weight.detach().clone() for weight in made.parameters()]
    weight_landscape(made, None, images, labels, 0.5, 3, 0)
    assert all(torch.equal(one, other) for one, other in zip(before, made.parameters(), strict=True))
    with pytest.raises(IndexError):
        weight_landscape(made, None, images, labels + 7, 0.5, 3, 0)
    assert all(torch.equal(one, other) for one, other in zip(before, made.parameters(), strict=True))


def test_directions_have_the_norm_of_every_filter_and_leave_biases() -> None:
    made = network()
    weights = list(made.parameters())
    for direction in module._directions(weights, 3):
        for weight, moved in zip(weights, direction, strict=True):
            if weight.ndim < 2:
                assert not moved.any()
            else:
                torch.testing.assert_close(moved.flatten(1).norm(dim=1), weight.detach().flatten(1).norm(dim=1))
    first, again = module._directions(weights, 3), module._directions(weights, 3)
    assert all(torch.equal(one, other) for one, other in zip(first[0], again[0], strict=True))
    assert not torch.equal(first[0][0], first[1][0])


def test_a_landscape_does_not_change_with_the_size_of_the_filters() -> None:
    """What scaling a ReLU network's layers up and down again does not change: why filters are normalised."""
    made, scaled, (images, labels) = network(), network(), batch()
    with torch.no_grad():
        scaled[0].weight.mul_(4)
        scaled[0].bias.mul_(4)
        scaled[3].weight.div_(4)
    one, other = (weight_landscape(net, None, images, labels, 0.5, 5, 0).losses for net in (made, scaled))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_curvature_is_that_of_a_paraboloid() -> None:
    steps = np.linspace(-1, 1, 5)
    along, across = np.meshgrid(steps, steps, indexing="ij")
    assert Landscape.of(steps, 3 * along**2 + 5 * across**2 + 2 * along - 1).curvature == pytest.approx(8.0)


def test_the_loss_is_constant_within_cells() -> None:
    made, images = network(2), torch.full((10, 1, 3, 3), 0.25)
    labels = torch.arange(10) % 3
    inside = input_landscape(made, Grid(2), images, labels, 0.1, 5, 0)  # at most 0.2 in all
    assert len(np.unique(inside.losses)) == 1
    assert inside.curvature == 0
    across = input_landscape(made, Grid(2), images, labels, 0.2, 5, 0)
    assert len(np.unique(across.losses)) > 1


@pytest.mark.parametrize(("span", "points"), [(0.0, 5), (-1.0, 5), (float("nan"), 5), (1.0, 4), (1.0, 1)])
def test_a_plane_without_meaning_is_refused(span: float, points: int) -> None:
    made, (images, labels) = network(), batch()
    with pytest.raises(ConfigError, match="expected"):
        weight_landscape(made, None, images, labels, span, points, 0)


def test_the_command_draws_trainings_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    runs = [train(tmp_path / f"cells-{cells}", "--cells", cells) for cells in (2, 10)]
    for space in ("weights", "inputs"):
        into = tmp_path / f"{space}.png"
        options = ("--space", space, "--points", 3, "--limit", 50, "--into", into, "--json")
        facts = abscert("compare", "landscape", *runs, *options).json
        assert set(facts["curvature"]) == {"cells-2", "cells-10"}
        assert into.read_bytes().startswith(b"\x89PNG")
    assert "weights or inputs" in refused("compare", "landscape", runs[0], "--space", "time")
    assert "odd number of points" in refused("compare", "landscape", runs[0], "--points", 4)
    assert "expected a training in" in refused("compare", "landscape", tmp_path)
    assert "choose another --into" in refused(
        "compare", "landscape", runs[0], "--points", 3, "--limit", 10, "--into", tmp_path / "no" / "a.png"
    )
