"""Intervals by running a guard: what they certify, a proof certifies as well."""

from pathlib import Path

import numpy as np
import pytest
from tiny_networks import SHAPE, export_tiny, tiny_network

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius, Verdict
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.guarding import FEWEST, GuardRun, guard_run
from abscert_plugin.verification.proving import Prover

BALL = Ball(Radius.parse("0.02"))


@pytest.fixture(name="artifact")
def _artifact(tmp_path: Path) -> Artifact:
    return Artifact.open(export_tiny(tiny_network(5), 4, tmp_path).deploy, Provider.CPU)


def test_what_a_guard_certifies_is_proven_in_float64(artifact: Artifact) -> None:
    images = np.random.default_rng(0).random((2000, *SHAPE), dtype=np.float32)
    labels = artifact.run_images(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 3
    found = GuardRun(artifact, BALL).margins(images, labels)
    reach = artifact.front.reach(BALL, images)
    proven = Prover(artifact).least_margins(reach.lowest, reach.highest, labels, BoundMethod.IBP, is_exact=True)
    is_own = np.arange(2000) % 7 > 0
    assert (found[~is_own] == -np.inf).all()
    assert (found[is_own] <= proven[is_own]).all()
    assert 100 < (found > 0).sum() >= 0.99 * (proven > 0).sum()


def test_a_guard_is_made_for_many_images(artifact: Artifact) -> None:
    assert guard_run(artifact, BALL, FEWEST - 1) is None
    assert guard_run(artifact, BALL, FEWEST) is not None
    assert guard_run(artifact, Ball(Radius.parse("0")), FEWEST) is None


def test_verdicts_are_those_of_proofs(artifact: Artifact) -> None:
    images = np.random.default_rng(1).random((60, *SHAPE), dtype=np.float32)
    labels, index = artifact.run_images(images).argmax(1), np.arange(60)
    deployed, budget = Deployed(artifact), Budget(exhaustive=1, only=BoundMethod.IBP)
    records = [
        [one.record for one in BallVerifier(deployed, None, BALL, budget, guard).decide(images, labels, index)]
        for guard in (None, GuardRun(artifact, BALL))
    ]
    assert [record.verdict for record in records[0]] == [record.verdict for record in records[1]]
    assert [record.method for record in records[0]] == [record.method for record in records[1]]
    assert any(record.verdict is Verdict.CERTIFIED and record.method == "ibp" for record in records[1])
