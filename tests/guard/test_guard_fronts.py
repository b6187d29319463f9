"""The ball in a guard's own graph is the verifier's, and nothing is certified that is no image."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from guard_oracle import Array
from onnx import TensorProto, helper
from sampled_graphs import session
from soundness_trials.drafts import Draft
from soundness_trials.judging import plain_file

import abscert_plugin
from abscert_plugin.artifact.foreign import open_classifier
from abscert_plugin.artifact.metadata import INTERVAL, SCALED, Metadata, write_metadata
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.phi import prepend_phi
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.cli.foreign import opening
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.guards import front as guard_front
from abscert_plugin.guards import guarded
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.values import Ends

SHAPE = (1, 2, 3)
GRIDS = {
    "one": Grid(1),
    "two": Grid(2),
    "ten": Grid(10),
    "many": Grid(257),
    "uneven": Grid.from_inner_edges([2.0**-24, 0.125, 0.5, 0.5 + 2.0**-20, 1 - 2.0**-24]),
}


def in_cells(grid: Grid, folder: Path) -> Artifact:
    chance, draft = np.random.default_rng(0), Draft()
    dense = draft.dense(draft.node("Flatten", INTERVAL), chance.standard_normal((12, 8)), chance.standard_normal(8))
    logits = draft.dense(draft.relu(dense), chance.standard_normal((8, 3)), [0.0, 0.1, 0.2])
    model = draft.model(INTERVAL, (2, *SHAPE[1:]), logits, 3)
    prepend_phi(model.graph, grid, SHAPE)
    write_metadata(model, Metadata(abscert_plugin.__version__, Cells(grid), SHAPE, 3, "net", "none"))
    onnx.save(model, folder / "cells.onnx")
    return Artifact.open(folder / "cells.onnx", Provider.CPU, threads=1)


def plain(folder: Path) -> Artifact:
    chance, draft = np.random.default_rng(0), Draft()
    logits = draft.dense(draft.node("Flatten", SCALED), chance.standard_normal((6, 3)), [0.0, 0.1, 0.2])
    plain_file(draft.model(SCALED, SHAPE, logits, 3), SHAPE, 3, folder / "plain.onnx")
    return Artifact.open(folder / "plain.onnx", Provider.CPU, threads=1)


def foreign(folder: Path) -> Artifact:
    """Return a file that others made, which is fed pixels less a mean, over a deviation."""
    chance, draft = np.random.default_rng(0), Draft()
    logits = draft.dense(draft.node("Flatten", "x"), chance.standard_normal((6, 3)), [0.0, 0.1, 0.2])
    onnx.save(draft.model("x", SHAPE, logits, 3), folder / "foreign.onnx")
    return open_classifier(folder / "foreign.onnx", Provider.CPU, opening(None, None, None, "0.1307", "0.3081", None))


def ends_of(artifact: Artifact, balls: Sequence[Ball], images: Array) -> tuple[Array, Array]:
    """Return what a guard's ball makes of images."""
    emitter = Emitter({artifact.classifier.input_name}, 13)
    fed = guard_front.fed(emitter, artifact, balls)
    ends = fed if isinstance(fed, Ends) else guard_front.pixel_ends(emitter, fed)
    name = artifact.classifier.input_name
    shape = ["batch", *images.shape[1:]]
    source = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    outputs = [onnx.ValueInfoProto(name=end) for end in (ends.lower, ends.upper)]
    graph = helper.make_graph(emitter.nodes, "ball", [source], outputs, emitter.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    lower, upper = session(model, False).run(None, {name: artifact.front.file_input(images)})
    return lower, upper


def pixels(edges: Array, radius: float) -> Array:
    """Return images of pixels at the edges of cells, and a radius away from these, and next to all of them."""
    chance = np.random.default_rng(1)
    near = np.concatenate([edges, edges - radius, edges + radius, [0, 1, 2.0**-126, 1e-45], chance.random(300)])
    near = near.astype(np.float32)
    near = np.concatenate([near, *(np.nextafter(near, np.float32(end)) for end in (-9, 9))])
    near = np.concatenate([near, np.arange(256, dtype=np.float32) / np.float32(255)])
    near = np.clip(near, 0, 1)
    return chance.permutation(np.resize(near, (-(-len(near) // 6) * 6,))).reshape(-1, *SHAPE)


def agrees(grid: Grid, radius: str, inputs: Inputs, folder: Path) -> bool:
    artifact, ball = in_cells(grid, folder), Ball(Radius.parse(radius), inputs)
    images = pixels(grid.edges, float(ball.radius.pixel))
    lower, upper = ends_of(artifact, [ball], images)
    reach = artifact.front.reach(ball, images)
    ends = [artifact.front.network_input(points) for points in (reach.lowest, reach.highest)]
    return bool(np.array_equal(lower, ends[0]) and np.array_equal(upper, ends[1]))


@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("radius", ["0.1", "1/255", "1"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_cells_of_a_guards_ball_are_the_verifiers(grid: str, radius: str, inputs: Inputs, tmp_path: Path) -> None:
    assert agrees(GRIDS[grid], radius, inputs, tmp_path)


@pytest.mark.parametrize("way", [-1, 2])
def test_a_threshold_of_one_ulp_off_is_seen(way: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = guard_front.thresholds
    monkeypatch.setattr(guard_front, "thresholds", lambda *given: np.nextafter(exact(*given), np.float32(way)))
    assert not agrees(GRIDS["ten"], "0.1", Inputs.FLOAT, tmp_path)


@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("radius", ["0.1", "1/255", "1", "1e-9"])
def test_the_pixels_of_a_guards_ball_hold_the_verifiers(radius: str, inputs: Inputs, tmp_path: Path) -> None:
    ball = Ball(Radius.parse(radius), inputs)
    images = pixels(np.linspace(0, 1, 5), float(ball.radius.pixel))
    low, high = ball.ends(images)
    lower, upper = ends_of(plain(tmp_path), [ball], images)
    assert (lower <= low).all()
    assert (high <= upper).all()
    wider = 0 if inputs is Inputs.FLOAT else float(ball.radius.pixel) % (1 / 255) + 1e-9
    wider = 2.0**-20 + wider + (1 / 255 if inputs is Inputs.UINT8 else 0)
    assert max(float((low - lower).max()), float((upper - high).max())) <= wider


@pytest.mark.parametrize("radius", ["0.1", "1", "1e-9"])
def test_what_a_file_of_others_is_fed_lies_in_its_guards_ball(radius: str, tmp_path: Path) -> None:
    artifact, ball = foreign(tmp_path), Ball(Radius.parse(radius))
    images = pixels(np.linspace(0, 1, 5), float(ball.radius.pixel))
    low, high = artifact.front.held_ends(*ball.ends(images))
    lower, upper = ends_of(artifact, [ball], images)
    assert (lower <= low).all()
    assert (high <= upper).all()
    assert float((upper - lower - (high - low)).max()) < 1e-4


@pytest.mark.parametrize(
    "make", [plain, foreign, *(partial(in_cells, GRIDS[name]) for name in ("one", "two", "ten", "uneven"))]
)
def test_what_is_no_image_is_never_certified(make: object, tmp_path: Path) -> None:
    assert callable(make)
    artifact = make(tmp_path)
    balls = [Ball(Radius.parse(radius)) for radius in ("1e-6", "1e-3")]
    made = guarded(artifact, balls, has_largest=True)
    images = np.full((1, *SHAPE), 0.3, dtype=np.float32)
    images[0, 0, 0] = 0.9
    given = artifact.front.file_input(images)
    low, high = -np.nextafter(np.float32(0), np.float32(1)), np.nextafter(np.float32(1), np.float32(9))
    if make is foreign:
        ends = artifact.front.held_ends(np.zeros_like(images), np.ones_like(images))
        low, high = (np.nextafter(end[0, 0, 0, 0], np.float32(way)) for end, way in zip(ends, (-9, 9), strict=True))
    bad = [np.nan, np.inf, -np.inf, low, high]
    batch = np.repeat(given, 2 + len(bad), axis=0)
    batch[2:, 0, 1, 2] = np.array(bad, dtype=np.float32)
    for optimises in (False, True):
        run = session(made.model, optimises)
        names = [output.name for output in run.get_outputs()]
        found = dict(zip(names, run.run(None, {run.get_inputs()[0].name: batch}), strict=True))
        assert found["certified"][:2].all()
        assert not found["certified"][2:].any()
        assert (found["radius"][2:] == 0).all()
        assert ((found["radius"][:2] > 0.000999) & (found["radius"][:2] <= 0.001)).all()
