"""Files whose logits depend on the batch or on chance: told from the graph, and never a wrong certificate."""

from pathlib import Path

import mixing_files as mixing
import numpy as np
import onnx
import pytest
import torch
from tiny_networks import run_onnx

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.artifact import opened
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Claim, Radius, RadiusScale
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.reading.network import convert
from abscert_plugin.records import Record, RunInfo
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.certificate import sentence
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.run import Verification

pytestmark = pytest.mark.slow  # the file as a whole

COUNT = 12


def obstacle(path: Path) -> str | None:
    model = read_model(path)
    return batch_obstacle(read_graph(model, path), model)


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, *mixing.SHAPE), dtype=np.uint8)


def alone(path: Path) -> np.ndarray:
    """Return the class that the file gives each image when it is run on it alone."""
    pixels = images() / np.float32(255)
    logits = [run_onnx(path, pixel[None])[0] for pixel in pixels]
    return np.concatenate(logits).argmax(axis=1)


def data(labels: np.ndarray) -> DataSet:
    return DataSet(
        name="tiny",
        split=Split.TEST,
        classes=("0", "1"),
        shape=mixing.SHAPE,
        levels=255,
        source=ArraySource(images()),
        labels=labels,
        index=np.arange(COUNT),
        sha256="tiny",
    )


def verify(path: Path, labels: np.ndarray, out: Path, batch_size: int, ball: bool = False) -> list[Record]:
    artifact = Artifact.open(path, Provider.CPU)
    decider = None
    if ball:
        deployed = Deployed(artifact)
        decider = BallVerifier(deployed, None, Ball(Radius.parse("0.01", RadiusScale.PIXEL)), Budget(seconds=5.0))
    return Verification(artifact, data(labels), batch_size, decider).run(out, lambda _: None)[0]


def wrong(records: list[Record], path: Path) -> list[int]:
    """Return the images that are certified although the file mislabels them alone."""
    seen = alone(path)
    return [row.index for row in records if row.verdict == "certified" and seen[row.index] != row.label]


@pytest.mark.parametrize("batch", ["batch", 3], ids=["free", "fixed"])
@pytest.mark.parametrize("name", mixing.MIXING)
def test_images_that_might_meet_are_named_and_no_certificate_is_wrong(
    name: str, batch: int | str, tmp_path: Path
) -> None:
    change, operator = mixing.MIXING[name]
    path = mixing.saved(change, tmp_path, batch)
    found = obstacle(path)
    assert found is not None
    assert operator in found
    if batch != "batch" or name == "offsets by place":  # which gives two rows for one image: no verdict
        return
    for claim in (False, True):
        for label in (0, 1):
            labels = np.full(COUNT, label)
            for size in (1, 3, COUNT):
                out = tmp_path / f"{claim}-{label}-{size}"
                records = verify(path, labels, out, size, claim)
                assert "one image at a time" in sentence(Claim.CELL, RunInfo.read(out / "run.json").configuration)
                assert wrong(records, path) == []


def test_a_softmax_of_an_old_version_may_go_over_the_images(tmp_path: Path) -> None:
    path = mixing.saved(mixing.old_softmax, tmp_path, opset=12)
    found = obstacle(path)
    assert found is not None
    assert "Softmax" in found
    for label in (0, 1):
        records = verify(path, np.full(COUNT, label), tmp_path / str(label), 3)
        assert wrong(records, path) == []


def test_a_fixed_batch_that_mixes_holds_copies_of_one_image(tmp_path: Path) -> None:
    path = mixing.saved(mixing.first_image, tmp_path, 3)
    pixels = images() / np.float32(255)
    artifact = Artifact.open(path, Provider.CPU)
    expected = np.concatenate([run_onnx(path, np.repeat(pixel[None], 3, axis=0))[0][:1] for pixel in pixels])
    np.testing.assert_array_equal(artifact.run_images(pixels), expected)


@pytest.mark.parametrize("name", ["negated at 3 images", "mean of the batch", "branch on the size"])
def test_without_the_graph_certificates_would_be_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mixing.saved(mixing.MIXING[name][0], tmp_path)
    monkeypatch.setattr(opened, "batch_obstacle", lambda *_: None)
    labels = 1 - alone(path)
    assert wrong(verify(path, labels, tmp_path / "out", 3), path) != []


@pytest.mark.parametrize("name", mixing.CHANCE)
def test_chance_and_training_are_refused_by_name(name: str, tmp_path: Path) -> None:
    change, words = mixing.CHANCE[name]
    path = mixing.saved(change, tmp_path)
    with pytest.raises(UnsupportedModelError, match=words):
        Artifact.open(path, Provider.CPU)


def test_a_batch_that_is_carried_is_run_at_once(tmp_path: Path) -> None:
    assert obstacle(mixing.saved(mixing.untouched, tmp_path)) is None
    assert obstacle(mixing.saved(mixing.untouched, tmp_path, 3)) is None


def test_an_inner_tensor_called_logits_is_not_what_is_run_or_bounded(tmp_path: Path) -> None:
    path = mixing.saved(mixing.untouched, tmp_path)
    model = onnx.load_model(str(path))
    model.graph.node.append(mixing.node("Mul", ["logits", "minus"], "answer"))
    model.graph.initializer.append(mixing.constant("minus", np.float32(-1)))
    model.graph.output[0].name = "answer"
    path.write_bytes(model.SerializeToString())
    artifact = Artifact.open(path, Provider.CPU)
    net, pixels = convert(artifact).network, images() / np.float32(255)
    with torch.no_grad():
        logits = net(Abstraction(mixing.GRID)(torch.from_numpy(pixels))).numpy()
    np.testing.assert_allclose(logits, artifact.run_images(pixels), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, run_onnx(path, pixels, ["answer"])[0], rtol=1e-5, atol=1e-5)


def test_a_tensor_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = mixing.saved(mixing.untouched, tmp_path)
    model = onnx.load_model(str(path))
    model.graph.initializer.append(mixing.constant("y", np.zeros((1, 2), np.float32)))
    with pytest.raises(UnsupportedModelError, match="'y' twice"):
        read_graph(model, path)
