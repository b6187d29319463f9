"""Wrapped classifiers whose cells stand for given points: what they read, what is stored, and what is refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_graphs as graphs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from midpoint_oracle import assert_logits, midpoints, stored_cells, stored_images

from abscert_plugin.artifact.metadata import REPRESENTED, read_metadata
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.represented import MOST_CELLS, Represented
from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import InputScale
from abscert_plugin.training.edges import means
from abscert_plugin.verification.proving import Prover

SHAPE = graphs.SHAPE


def points_of(cells: int, seed: int) -> tuple[float, ...]:
    """Return a random point of each cell, now and then an end of it."""
    random = np.random.default_rng(seed)
    share = np.where(random.random(cells) < 0.3, random.integers(0, 2, cells), random.random(cells))
    edges = Grid(cells).edges.astype(np.float64)
    return tuple((edges[:-1] + share * np.diff(edges)).tolist())


@settings(max_examples=5)
@given(cells=st.integers(1, MOST_CELLS), seed=st.integers(0, 2**16))
def test_logits_are_those_of_the_images_of_points(cells: int, seed: int) -> None:
    points = points_of(cells, seed)
    scale = InputScale((-1.0, 1.0), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    with TemporaryDirectory() as folder:
        path = graphs.save(graphs.linear(), folder)
        options = WrapOptions(Grid(cells), SHAPE, scale=scale, represented=points)
        wrapped = wrap(path, Path(folder) / "out", options)
        stored = stored_images(3, SHAPE, seed)
        images = np.array(points)[stored_cells(stored, cells)]
        mean, std = (np.array(given).reshape(-1, 1, 1) for given in (scale.mean, scale.std))
        read = ((2 * images - 1 - mean) / std).astype(np.float32)
        (expected,) = graphs.run(path, read, ["y"])
        assert_logits(wrapped, stored, cells, expected)
        for written in (wrapped.deploy, wrapped.abstract):
            assert read_metadata(read_model(written), written).represented == points


def test_a_proof_holds_what_the_points_of_reached_cells_give(tmp_path: Path) -> None:
    points, cells = points_of(5, 1), 5
    path = graphs.save(graphs.linear(), tmp_path)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(cells), SHAPE, represented=points))
    artifact = Artifact.open(wrapped.deploy, Provider.CPU)
    images = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)
    labels = artifact.run_images(images).argmax(axis=1)
    reach = artifact.front.reach(Ball(Radius.parse("0.05")), images)
    for method in (BoundMethod.IBP, BoundMethod.CROWN):
        proven = Prover(artifact).least_margins(reach.lowest, reach.highest, labels, method)
        least = np.full(4, np.inf)
        random = np.random.default_rng(1)
        for _ in range(50):
            drawn = random.integers(reach.lowest, reach.highest + 1).astype(reach.lowest.dtype)
            logits = artifact.run_images(artifact.front.images(drawn))
            own = logits[np.arange(4), labels].copy()
            logits[np.arange(4), labels] = -np.inf
            least = np.minimum(least, own - logits.max(axis=1))
        assert (proven <= least).all()
        assert (proven > least - 20).all()  # so that it says something


def test_means_are_those_of_the_pixels_in_a_cell() -> None:
    random = np.random.default_rng(0)
    stored = random.choice(np.arange(0, 256, 3), 1000)
    stored = stored[(stored < 64) | (stored >= 128)]
    found = means(Grid(4), np.bincount(stored, minlength=256))
    cells = stored_cells(stored, 4)
    expected = [stored[cells == cell].mean() / 255 if (cells == cell).any() else 0.375 for cell in range(4)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert midpoints(np.array([100]), 4)[0] == found[1]  # of a cell without pixels


@pytest.mark.parametrize("points", [(0.1,), (0.6, 0.9), (0.1, 0.4), (0.1, float("nan")), (0.1, 0.6, 0.9)])
def test_points_outside_their_cells_are_refused(points: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="a point in each of 2 cells"):
        Represented(Grid(2), points)


def test_many_cells_and_two_meanings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 64 cells"):
        Represented(Grid(MOST_CELLS + 1), points_of(MOST_CELLS + 1, 0))
    with pytest.raises(ConfigError, match="got both"):
        WrapOptions(Grid.of_levels(255), levels=255, represented=(0.5,))


def test_metadata_with_points_outside_their_cells_are_refused(tmp_path: Path) -> None:
    path = graphs.save(graphs.linear(), tmp_path)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(2), SHAPE, represented=(0.1, 0.9)))
    for text in ("0.1", "0.1,0.2", "0.1,x"):
        model = read_model(wrapped.deploy)
        next(entry for entry in model.metadata_props if entry.key == REPRESENTED).value = text
        with pytest.raises(UnsupportedModelError, match="metadata are not valid"):
            read_metadata(model, wrapped.deploy)
