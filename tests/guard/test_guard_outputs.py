"""A guard answers what the classifier answers, and certifies what a proof by intervals certifies."""

from pathlib import Path

import numpy as np
import pytest
from tiny_networks import SHAPE, export_tiny, run_onnx, tiny_network

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.guard.write import write_guard
from abscert_plugin.verification.proving import Prover

OUTPUTS = ["logits", "label", "certified", "margin"]


@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("cells", [1, 2, 3, 10, 300])
def test_a_guard_certifies_what_a_proof_by_intervals_certifies(tmp_path: Path, cells: int, inputs: Inputs) -> None:
    artifact = Artifact.open(export_tiny(tiny_network(cells), cells, tmp_path).deploy, Provider.CPU)
    ball = Ball(Radius.parse("0.1"), inputs)
    write_guard(artifact, [ball], tmp_path / "guard.onnx")
    levels = np.random.default_rng(0).integers(0, 256, (400, *SHAPE))
    images = levels.astype(np.float32) / np.float32(255)
    logits, labels, certified, margins = run_onnx(tmp_path / "guard.onnx", images, OUTPUTS)
    assert np.array_equal(logits, artifact.run_images(images))
    assert np.array_equal(labels, logits.argmax(1))
    reach = artifact.front.reach(ball, images)
    proven = Prover(artifact).least_margins(reach.lowest, reach.highest, logits.argmax(1), BoundMethod.IBP)
    assert np.abs(margins - proven).max() < 1e-3
    assert (certified == (margins > 0)).all()
    assert np.mean(certified == (proven > 0)) > 0.99
