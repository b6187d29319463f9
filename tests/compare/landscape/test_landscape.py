"""Loss landscapes: scaled directions, the loss at the middle, networks as they were, and what is refused."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from command_line import abscert, refused, train
from torch import nn
from torch.nn import functional

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from compare.landscape import loss_plane as module
from compare.landscape.loss_plane import Landscape, input_landscape, weight_landscape
from compare.landscape.stored_landscape import stored_landscapes
from compare.plans.plan import read_plan

PLAN = """
title = "Digits, plain and on cells"
[[grid]]
data = ["digits"]
network = ["fc-3-code"]
method = ["plain", "abstrain"]
radius = ["0.05"]
cells = [2]
epochs = 1
claims = ["cell"]
"""


def network(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()


def batch(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((count, 1, 3, 3), generator=generator)
    return images, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("grid", [None, Grid(3)])
@pytest.mark.parametrize("of", [weight_landscape, input_landscape])
def test_the_middle_is_the_loss_of_the_network_itself(of: Callable[..., Any], grid: Grid | None) -> None:
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
        cast(torch.Tensor, scaled[0].weight).mul_(4)
        cast(torch.Tensor, scaled[0].bias).mul_(4)
        cast(torch.Tensor, scaled[3].weight).div_(4)
    one, other = (weight_landscape(net, None, images, labels, 0.5, 5, 0).losses for net in (made, scaled))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_curvature_is_that_of_a_paraboloid() -> None:
    steps = np.linspace(-1, 1, 5)
    along, across = np.meshgrid(steps, steps, indexing="ij")
    assert Landscape.of(steps, 3 * along**2 + 5 * across**2 + 2 * along - 1).curvature == pytest.approx(8.0)


def test_curvature_is_that_of_the_whole_plane_and_not_of_noise_at_its_middle() -> None:
    steps = np.linspace(-1, 1, 21)
    along, across = np.meshgrid(steps, steps, indexing="ij")
    noise = np.random.default_rng(0).normal(0, 0.05, along.shape)
    noise[10, 10] = -0.1  # second differences of one step, 0.1, would be off by 20 for this alone
    assert Landscape.of(steps, 3 * along**2 + 5 * across**2 + noise).curvature == pytest.approx(8.0, abs=0.1)


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


def test_networks_that_differ_in_their_first_layer_get_the_same_directions_behind_it() -> None:
    plain, on_cells = (list(network(channels).parameters()) for channels in (1, 2))
    for one, other in zip(module._directions(plain, 3), module._directions(on_cells, 3), strict=True):
        assert one[0].shape != other[0].shape
        for moved, also, weight, twin in list(zip(one, other, plain, on_cells, strict=True))[2:]:
            if weight.ndim > 1:
                # the same noise, each at the size of its own network's filters
                cosine = functional.cosine_similarity(moved.flatten(1), also.flatten(1))
                torch.testing.assert_close(cosine, torch.ones_like(cosine))
                torch.testing.assert_close(also.flatten(1).norm(dim=1), twin.detach().flatten(1).norm(dim=1))


def test_batch_normalisation_stays_where_it_is() -> None:
    made = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).eval()
    for direction in module._directions(list(made.parameters()), 0):
        assert [bool(moved.any()) for moved in direction] == [True, False, False, False, True, False]
    images, labels = batch()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    weight_landscape(made, None, images, labels, 0.5, 3, 0)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


# --- the command -----------------------------------------------------------------------------------------------------

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="pictures need matplotlib")
FEW = ("--points", 3, "--limit", 50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two trainings that differ in their cells."""
    home = tmp_path_factory.mktemp("runs")
    return train(home / "cells-2", "--cells", 2), train(home / "cells-10", "--cells", 10)


@pytest.mark.slow
@needs_matplotlib
@pytest.mark.parametrize("space", ["weights", "inputs"])
def test_the_command_draws_trainings_side_by_side(runs: tuple[Path, Path], tmp_path: Path, space: str) -> None:
    into = tmp_path / "one.png"
    facts = abscert("compare", "landscape", *runs, "--space", space, *FEW, "--into", into, "--json").json
    assert set(facts["curvature"]) == {"abstrain, d = 1", "abstrain, d = 0.2"}
    assert into.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [into]


@pytest.mark.slow
@needs_matplotlib
def test_a_results_folder_keeps_picture_and_figures(runs: tuple[Path, Path], tmp_path: Path) -> None:
    facts = abscert("compare", "landscape", *runs, *FEW, "--out", tmp_path, "--seed", 3, "--json").json
    (stored,) = stored_landscapes(tmp_path)
    assert stored.picture == tmp_path / "landscapes" / "landscape-weights.png" == Path(facts["picture"])
    record = stored.record
    assert record is not None
    assert (record.space, record.data, record.images, record.span, record.seed) == ("weights", "digits", 50, 0.5, 3)
    assert record.steps == (-0.5, 0.0, 0.5)
    assert {network.name: network.curvature for network in record.networks} == facts["curvature"]
    assert [network.granularity for network in record.networks] == [1.0, 0.2]
    abscert("compare", "landscape", runs[0], *FEW, "--out", tmp_path, "--name", "mine")
    assert [one.picture.stem for one in stored_landscapes(tmp_path)] == ["landscape-weights", "mine"]


@pytest.mark.slow
@needs_matplotlib
def test_a_plan_is_drawn_with_all_runs_that_are_done(tmp_path: Path) -> None:
    plan = tmp_path / "small.toml"
    plan.write_text(PLAN)
    assert "no run of" in refused("compare", "landscape", "--plan", plan, "--out", tmp_path)
    abscert("compare", "run", plan, "--out", tmp_path, "--method", "plain")
    result = abscert("compare", "landscape", "--plan", plan, "--out", tmp_path, *FEW)
    assert "without 1 runs of the plan" in result.err
    (stored,) = stored_landscapes(tmp_path)
    assert stored.record is not None
    assert stored.picture.name == "small-weights.png"
    assert [(network.name, network.cells) for network in stored.record.networks] == [("plain, d = 0", None)]
    assert "Digits, plain and on cells" in stored.record.title


def test_figure_3_differs_in_the_width_of_cells_alone() -> None:
    drawn = read_plan("paper-figure3").runs()
    widths = sorted(0.0 if run.cells is None else 2 / run.cells for run in drawn)
    assert widths == [0.0, 0.025, 0.1, 0.5, 1.0]
    same = {msgspec.structs.replace(run, cells=None, method="", claims=()).key for run in drawn}
    assert len(same) == 1


@pytest.mark.slow
def test_what_cannot_be_drawn_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert "weights, inputs" in refused("compare", "landscape", runs[0], "--space", "time")
    assert "odd number of points" in refused("compare", "landscape", runs[0], "--points", 4)
    assert "expected a training in" in refused("compare", "landscape", tmp_path)
    assert "not both and not neither" in refused("compare", "landscape")
    assert "not both and not neither" in refused("compare", "landscape", runs[0], "--plan", "paper-figure3")
    assert "--into or --out" in refused(
        "compare", "landscape", runs[0], "--out", tmp_path, "--into", tmp_path / "a.png"
    )
    assert "without folders" in refused("compare", "landscape", runs[0], "--out", tmp_path, "--name", "../up")
    into = tmp_path / "no" / "a.png"
    assert "choose another --into" in refused("compare", "landscape", runs[0], *FEW, "--into", into)
