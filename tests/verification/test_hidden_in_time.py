"""Bounds of hidden values end with the time of their image, and then certify nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ball_oracle import Tiny, tiny
from tiny_networks import SHAPE
from torch import nn

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import tightening
from abscert_plugin.claim import Radius
from abscert_plugin.front import Reach
from abscert_plugin.grid import Grid
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.proving import Prover

BALL = Ball(Radius.parse("0.2"))
COUNT = 8
SCALE = 3.0  # intervals show nothing
BY_CROWN = Budget(60.0, exhaustive=1, attacks=False, leaf=1, bounds=(BoundMethod.CROWN,))


@pytest.fixture(scope="module")
def case() -> Tiny:
    """Return a network of two layers of sigmoids, of which linear bounds need hidden values."""
    torch.manual_seed(0)
    size = 2 * int(np.prod(SHAPE))
    layers = nn.Flatten(), nn.Linear(size, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 3)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(SCALE)
    return tiny(network, Grid(3))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((COUNT, *SHAPE)).astype(np.float32)


def asked(case: Tiny, images: np.ndarray) -> tuple[Prover, Reach, np.ndarray]:
    labels = case.artifact.run_images(images).argmax(axis=1)
    return Prover(case.artifact), case.deployed.front.reach(BALL, images), labels


def test_each_image_has_a_time_of_its_own(case: Tiny, images: np.ndarray) -> None:
    prover, reach, labels = asked(case, images)
    given = reach.lowest, reach.highest, labels, BoundMethod.CROWN
    whole = prover.least_margins(*given, is_open=True)
    seconds = [0.0, 1e6] * (COUNT // 2)
    found = prover.least_margins(*given, is_open=True, seconds=seconds)
    assert np.isfinite(whole).all()
    assert np.isneginf(found[::2]).all()
    np.testing.assert_array_equal(found[1::2], whole[1::2])


def test_what_takes_too_long_certifies_nothing(case: Tiny, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def methods() -> set[str]:
        labels = case.artifact.run_images(images).argmax(axis=1)
        decided = case.verifier(BALL, BY_CROWN).decide(images, labels, np.arange(COUNT))
        return {item.record.method for item in decided if item.record.verdict == "certified"}

    assert "crown" in methods()
    monkeypatch.setattr(tightening, "time", SimpleNamespace(perf_counter=lambda: float("inf")))
    assert "crown" not in methods()  # cells may still be run
