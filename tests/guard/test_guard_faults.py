"""Files that a guard once certified wrongly, refused with a traceback, or could not be written for."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from soundness_trials.drafts import Draft
from soundness_trials.judging import plain_file
from tiny_networks import run_onnx

import abscert_plugin
from abscert_plugin.artifact.metadata import INTERVAL, SCALED, Metadata, write_metadata
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.phi import prepend_phi
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.guards.write import write_guard

BALL = Ball(Radius.parse("0.01"))
OUTPUTS = ["label", "certified", "margin"]


def in_cells(draft: Draft, logits: str, folder: Path) -> Artifact:
    """Return a classifier of two classes and images of a pixel that reads the ends of one of two cells."""
    model, grid = draft.model(INTERVAL, (2, 1, 1), logits, 2), Grid(2)
    prepend_phi(model.graph, grid, (1, 1, 1))
    write_metadata(model, Metadata(abscert_plugin.__version__, Cells(grid), (1, 1, 1), 2, "net", "none"))
    onnx.save(model, folder / "net.onnx")
    return Artifact.open(folder / "net.onnx", Provider.CPU, threads=1)


def test_a_margin_that_flushing_undoes_is_not_certified(tmp_path: Path) -> None:
    """The logits are 0 and 2^-127, which a runtime may flush: then the first class comes first."""
    draft = Draft()
    below = draft.dense(draft.node("Flatten", INTERVAL), [[0.0]] * 2, [-1.0])
    least = draft.node("Clip", below, draft.constant(2.0**-127), draft.constant(1.0))
    artifact = in_cells(draft, draft.node("Concat", draft.relu(below), least, axis=1), tmp_path)
    write_guard(artifact, [BALL], tmp_path / "guard.onnx")
    label, certified, margin = run_onnx(tmp_path / "guard.onnx", np.full((1, 1, 1, 1), 0.2, np.float32), OUTPUTS)
    assert label.tolist() == [1]
    assert not certified.any()
    assert (margin <= 0).all()


@pytest.mark.parametrize("large", [[[2.0**127, 0.0]] * 2, [[2.0**90, 0.0]] * 2])
def test_logits_that_are_too_large_are_refused_in_one_line(tmp_path: Path, large: list[list[float]]) -> None:
    draft = Draft()
    artifact = in_cells(draft, draft.dense(draft.node("Flatten", INTERVAL), large, [2.0**99, 0.0]), tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"^this file has no guard: .*: its values may be too large, or no numbers$"
    ):
        write_guard(artifact, [BALL], tmp_path / "guard.onnx")
    assert not (tmp_path / "guard.onnx").exists()


def test_values_of_which_the_proof_knows_nothing_have_no_guard(tmp_path: Path) -> None:
    """A runtime that takes Softplus by its definition, log(exp(x) + 1), gives inf for both logits."""
    draft = Draft()
    draft.dense(draft.node("Flatten", INTERVAL), [[100.0, 200.0]] * 2, [0.0, 0.0])
    artifact = in_cells(draft, draft.node("Softplus", draft.nodes[-1].output[0]), tmp_path)
    with pytest.raises(UnsupportedModelError, match="its values may be too large, or no numbers"):
        write_guard(artifact, [BALL], tmp_path / "guard.onnx")


def test_what_is_cut_to_below_zero_is_not_taken_for_positive(tmp_path: Path) -> None:
    """The second logit is nearly all of a large negative number, by whose rounding the margin may be off."""
    draft = Draft()
    held = draft.relu(draft.dense(draft.node("Flatten", INTERVAL), [[1.0], [1.0]], [-1.75]))
    cut = draft.node("Clip", held, "", draft.constant(-(2.0**22)))
    both = draft.node("Concat", held, cut, axis=1)
    artifact = in_cells(draft, draft.dense(both, [[0.0, 64.0], [1.0, 1.0]], [3.2, 0.0]), tmp_path)
    write_guard(artifact, [BALL], tmp_path / "guard.onnx")
    _, certified, _ = run_onnx(tmp_path / "guard.onnx", np.full((1, 1, 1, 1), 0.2, np.float32), OUTPUTS)
    assert not certified.any()


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_a_file_that_ends_in_a_softmax_has_a_guard(tmp_path: Path, operator: str) -> None:
    """Margins are of what stands before it, and no probabilities are that far apart."""
    draft = Draft()
    logits = draft.dense(draft.node("Flatten", SCALED), [[9.0, 0.0], [-9.0, 0.0]], [0.0, 0.1])
    plain_file(draft.model(SCALED, (1, 1, 2), draft.node(operator, logits), 2), (1, 1, 2), 2, tmp_path / "net.onnx")
    artifact = Artifact.open(tmp_path / "net.onnx", Provider.CPU, threads=1)
    write_guard(artifact, [BALL], tmp_path / "guard.onnx")
    images = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], np.float32).reshape(-1, 1, 1, 2)
    label, certified, margin = run_onnx(tmp_path / "guard.onnx", images, OUTPUTS)
    assert label.tolist() == [0, 1, 1]
    assert certified.tolist() == [True, False, True]
    assert margin[0] > 5


def test_a_constant_without_axes_gets_none(tmp_path: Path) -> None:
    """With an index of one axis, what is picked has an axis more than in the file, and other sums mix images."""
    draft = Draft()
    index = draft.constant(0)
    draft.tensors[-1].CopyFrom(onnx.numpy_helper.from_array(np.array(1, np.int64), index))
    picked = draft.node("Flatten", draft.node("Gather", INTERVAL, index, axis=1))
    artifact = in_cells(draft, draft.dense(picked, [[1.0, -1.0]], [0.0, 0.0]), tmp_path)
    write_guard(artifact, [BALL], tmp_path / "guard.onnx")
    gather = [node for node in onnx.load(tmp_path / "guard.onnx").graph.node if node.op_type == "Gather"]
    tensors = {tensor.name: tensor for tensor in onnx.load(tmp_path / "guard.onnx").graph.initializer}
    picks = [node for node in gather if node.name.startswith("guard/") and tensors.get(node.input[1]) is not None]
    assert len(picks) == 2
    assert all(not tensors[node.input[1]].dims for node in picks)


def test_a_power_of_two_that_is_folded_into_weights_is_not_flushed_unseen(tmp_path: Path) -> None:
    """A value of 0 or 1 that the guard holds times 2^21 meets 2^-107 and comes back: onnxruntime makes that 2^-128."""

    def single(*numbers: float) -> str:
        return draft.constant(np.diag(numbers)[:, :, None, None])

    draft = Draft()
    value = draft.relu(draft.node("Conv", INTERVAL, draft.constant([[[[1.0]], [[0.0]]]]), draft.constant([1.0])))
    for _ in range(19):
        value = draft.relu(draft.node("Conv", value, single(1.0)))
    parts = [draft.node("Conv", value, single(sign * 2.0**-107)) for sign in (1, -1)]
    value = draft.relu(draft.node("Conv", draft.node("Concat", *parts, axis=1), single(2.0**60, 2.0**60)))
    value = draft.node("Flatten", draft.node("Conv", value, single(2.0**47, 2.0**47)))
    artifact = in_cells(draft, draft.dense(value, [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.75]), tmp_path)
    write_guard(artifact, [BALL], tmp_path / "guard.onnx")
    images = np.array([0.495, 0.505], np.float32).reshape(2, 1, 1, 1)  # the second lies in the ball of the first
    torch.set_flush_denormal(True)
    try:
        label, certified, _ = run_onnx(tmp_path / "guard.onnx", images, OUTPUTS)
    finally:
        torch.set_flush_denormal(False)
    assert label.tolist() == [1, 0]
    assert not certified.any()
