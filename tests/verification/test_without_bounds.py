"""A network that has gradients and no float32 bounds: it is attacked, proofs are tried, and the record says so."""

import math
from pathlib import Path

import numpy as np
import onnx
import operator_graphs as graphs
import pytest
import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.gradients import Gradients
from abscert_plugin.claim import Radius
from abscert_plugin.errors import VerifierError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.preprocessing import InputScale
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell_cut import CellCut
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.search import Branch, Problem


def elu_network(folder: Path) -> Path:
    return graphs.classifier(graphs.activation("Elu"), 3, folder)


def verifier(artifact: Artifact, radius: str) -> BallVerifier:
    return BallVerifier(Deployed(artifact), open_white_box(artifact), Ball(Radius.parse(radius)), Budget(5.0))


def test_a_file_without_bounds_is_attacked_and_proven_and_says_so(tmp_path: Path) -> None:
    artifact = Artifact.open(elu_network(tmp_path), Provider.CPU)
    images = np.random.default_rng(0).random((4, *artifact.metadata.image_shape), dtype=np.float32)
    labels, index = artifact.run_images(images).argmax(axis=1), np.arange(4)
    wide = verifier(artifact, "1")
    assert "(Elu): no bounds of it" in wide.configuration["no_bounds_by_auto_LiRPA"]
    assert "auto_LiRPA" not in wide.versions
    found = [one.record for one in wide.decide(images, labels, index)]
    assert {"gradient attack"} <= {record.method for record in found if record.verdict == "falsified"}
    narrow = [one.record for one in verifier(artifact, "1e-5").decide(images, labels, index)]
    assert {record.verdict for record in narrow} == {"certified"}


def test_the_search_asks_the_proof_where_nothing_is_known(tmp_path: Path) -> None:
    plain = elu_network(tmp_path)
    shape = Artifact.open(plain, Provider.CPU).metadata.image_shape
    model = onnx.load_model(str(plain))
    del model.metadata_props[:]
    source = tmp_path / "others.onnx"
    onnx.save_model(model, str(source))
    deploy = wrap(source, tmp_path / "out", WrapOptions(Grid(8), shape, scale=InputScale())).deploy
    artifact = Artifact.open(deploy, Provider.CPU)
    deployed, white_box = Deployed(artifact), open_white_box(artifact)
    assert white_box.unbounded
    assert isinstance(artifact.front, Cells)
    assert deployed.prover is not None
    images = np.random.default_rng(1).random((1, *shape), dtype=np.float32)
    reach = artifact.front.reach(Ball(Radius.parse("0.1")), images)
    label = int(artifact.run_images(images).argmax())
    cut = CellCut(white_box.bounder, deployed.prover, deployed, 1, {0: BoundMethod.CROWN})
    ends = reach.lowest[0], reach.highest[0]
    (bounded,) = cut.bound([Branch(0, Problem(*ends, label, 5.0), ends)], [5.0])
    proven = deployed.prover.least_margins(reach.lowest, reach.highest, np.array([label]), BoundMethod.CROWN)
    assert math.isfinite(bounded.bound)
    assert bounded.bound == pytest.approx(float(proven[0]), rel=1e-6) or bounded.closed_by == "ibp"


def test_gradients_know_no_bounds_and_say_why() -> None:
    network = torch.nn.Linear(3, 2)
    known = Gradients(network, "the reason")
    ends, labels = (torch.zeros(1, 3), torch.ones(1, 3)), torch.zeros(1, dtype=torch.int64)
    for call in (known.margins, known.optimised_margins):
        with pytest.raises(VerifierError, match="the reason"):
            call()
    found = known.linear_margins(*ends, labels, BoundMethod.CROWN)
    assert bool(found.bounds.isneginf().all())
    weight = network.weight.detach()
    torch.testing.assert_close(found.coefficients[0, 0], weight[0] - weight[1])
