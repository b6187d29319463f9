"""A guard answers what the classifier answers, and certifies what a proof by intervals certifies."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tiny_networks import SHAPE, export_tiny, run_onnx, tiny_network

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.guards.guarded import _keep_read
from abscert_plugin.guards.write import write_guard
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


@pytest.mark.parametrize("texts", [["1/10"], ["1/100", "1/10", "8/255"]])
def test_the_radius_that_is_answered_is_not_above_a_proven_one(tmp_path: Path, texts: list[str]) -> None:
    artifact = Artifact.open(export_tiny(tiny_network(2), 2, tmp_path).deploy, Provider.CPU)
    balls = [Ball(Radius.parse(text), Inputs.FLOAT) for text in texts]
    write_guard(artifact, balls, tmp_path / "guard.onnx", has_largest=True)
    images = np.random.default_rng(0).random((400, *SHAPE), dtype=np.float32)
    certified, radius = run_onnx(tmp_path / "guard.onnx", images, ["certified", "radius"])
    exact = np.array([Fraction(text) for text in texts])
    largest = [max(exact[shown], default=Fraction(0)) for shown in certified.reshape(len(images), -1)]
    assert {0, Fraction(1, 10)} <= set(largest)
    assert all(
        Fraction(float(found)) <= proven and float(found) == pytest.approx(float(proven), rel=2**-22, abs=0)
        for found, proven in zip(radius, largest, strict=True)
    )


def test_what_a_branch_reads_is_kept_and_what_nothing_reads_is_not() -> None:
    value, tensor = helper.make_tensor_value_info, numpy_helper.from_array
    branch = helper.make_graph([helper.make_node("Neg", ["inner"], ["negated"])], "b", [], [value("negated", 1, None)])
    nodes = [
        helper.make_node("Abs", ["x"], ["inner"]),
        helper.make_node("Add", ["x", "c"], ["nothing"]),
        helper.make_node("If", ["is_so"], ["y"], then_branch=branch, else_branch=branch),
    ]
    constants = [tensor(np.ones(1, np.float32), "c"), tensor(np.array(True), "is_so")]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("y", 1, None)], constants)
    model = helper.make_model(graph)
    _keep_read(model)
    assert [node.op_type for node in model.graph.node] == ["Abs", "If"]
    assert [constant.name for constant in model.graph.initializer] == ["is_so"]
