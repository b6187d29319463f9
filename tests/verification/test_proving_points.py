"""What proves a file's margins at points: the margin that a run saw, or passes of our own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import CLASSES, SHAPE, export_tiny, tiny_network
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Verdict
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.logits import read_logits
from abscert_plugin.verification.proving import Prover

CELLS = 3


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = export_tiny(tiny_network(0), CELLS, tmp_path_factory.mktemp("tiny")).deploy
    return Artifact.open(path, Provider.CPU)


def seen_at(artifact: Artifact, count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, labels and the margins that onnxruntime computes there."""
    points = np.random.default_rng(0).integers(0, CELLS, (count, *SHAPE)).astype(np.uint8)
    labels = np.arange(count) % CLASSES
    return points, labels, read_logits(artifact.run_images(artifact.front.images(points)), labels).margin


def test_a_margin_that_was_seen_proves_what_passes_prove(artifact: Artifact) -> None:
    points, labels, seen = seen_at(artifact)
    unseen = np.full_like(seen, np.nan)
    with_runs, alone = (Prover(artifact).at_points(points, labels, margins) for margins in (seen, unseen))
    assert (with_runs > 0).tolist() == (alone > 0).tolist() == (seen > 0).tolist()
    assert (with_runs <= seen.astype(np.float64)).all()
    assert (alone <= seen + 1e-4).all()


def test_no_margin_is_taken_from_a_run_below_the_distance_of_two(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, labels, seen = seen_at(artifact)
    prover, lies = Prover(artifact), np.full_like(seen, 1.0)
    monkeypatch.setattr(prover, "_apart", 1.0)
    assert (prover.at_points(points, labels, lies) > 0).tolist() == (seen > 0).tolist()
    monkeypatch.setattr(prover, "_apart", 0.5)
    assert (prover.at_points(points, labels, lies) > 0).all()  # so the runs are what decides


def test_lines_show_what_intervals_lose_of_many_layers(tmp_path: Path) -> None:
    """Roundings that layers of large weights add up by absolute values nearly cancel along lines."""
    generator, layers = torch.Generator().manual_seed(0), list[nn.Module]([nn.Flatten(), nn.Linear(8, 60), nn.Tanh()])
    for _ in range(7):
        layers += [nn.Linear(60, 60), nn.Tanh()]
    network = nn.Sequential(*layers, nn.Linear(60, CLASSES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    artifact = Artifact.open(export_tiny(network, CELLS, tmp_path).deploy, Provider.CPU)
    points, labels, seen = seen_at(artifact)
    prover = Prover(artifact)
    assert len(prover.lines_at_points) == 2
    right = np.flatnonzero(seen > 0.01)
    few = (points[right], labels[right], seen[right])
    plain, lines = prover.at_points(*few), prover.at_points(*few, prover.lines_at_points)
    assert (plain > 0).mean() < 0.2
    assert (lines > 0).all()
    assert (lines <= few[2].astype(np.float64)).all()  # this runtime is one of all that they hold for
    decided = open_cells(artifact, None)[0].decide(artifact.front.images(points), labels, np.arange(len(points)))
    shown = [place for place, one in enumerate(decided) if one.record.verdict == Verdict.CERTIFIED]
    assert set(right[lines > 0]) <= set(shown) <= set(np.flatnonzero(seen > 0))


def test_runs_elsewhere_than_on_the_cpu_prove_nothing(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels, seen = seen_at(artifact)
    monkeypatch.setattr(artifact.classifier, "provider", "CUDAExecutionProvider")
    prover = Prover(artifact)
    assert (prover.at_points(points, labels, np.full_like(seen, 1e9)) > 0).tolist() == (seen > 0).tolist()


def test_a_margin_that_is_no_number_is_not_shown(artifact: Artifact) -> None:
    points, labels, seen = seen_at(artifact)
    odd = np.where(np.arange(len(seen)) % 2, np.float32(np.nan), np.float32(-np.inf))
    assert (Prover(artifact).at_points(points, labels, odd) > 0).tolist() == (seen > 0).tolist()
