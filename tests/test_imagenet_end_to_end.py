"""ImageNet networks at 224 x 224: trained from JPEG files, wrapped, verified; AlexNet: compare/test_imagenet."""

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from command_line import abscert
from image_folder import GROUNDS, write_image_folder

from abscert_plugin.artifact.export import traced
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.networks import Activation, NetworkConfig, table
from abscert_plugin.networks.imagenet import VGG11, Filters, Hidden, ImageNetPlan, Stage
from abscert_plugin.networks.table import NETWORKS, NetworkEntry
from abscert_plugin.plugins import Registry
from abscert_plugin.records import Record, read_records

pytestmark = pytest.mark.slow

CELLS = 4
SIDE = 224
SHAPE = (3, SIDE, SIDE)
CLASSES = len(GROUNDS)
FULL = ("inception-v1", "resnet18")
RADIUS = (
    0.0011  # 0.28 of 1 / 255: the levels 64 and 191, a quarter of a level above and below an edge, leave their cells
)


def narrow(plan: ImageNetPlan) -> ImageNetPlan:
    """Return a network with an eighth of its filters and hidden units, in the same stages."""

    def stage(whole: Stage) -> Stage:
        if isinstance(whole, Filters):
            return replace(whole, filters=whole.filters // 8)
        return replace(whole, width=whole.width // 8) if isinstance(whole, Hidden) else whole

    return replace(plan, stages=tuple(map(stage, plan.stages)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), train=2, val=1)


@pytest.fixture(scope="module", params=(*FULL, "vgg11"))
def trained(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a training of one step.

    VGG11 has an eighth of its filters and hidden units: in full width it takes 3 GB, and shows no more than AlexNet,
    whose tensors are as large as files are written for.
    """
    out = tmp_path_factory.mktemp("trained") / request.param
    options = ("--network", request.param, "--cells", CELLS, "--epochs", 1, "--batch-size", 8, "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        entries = (NetworkEntry("vgg11", narrow(VGG11).build), *(NETWORKS[name] for name in FULL))
        patch.setattr(table, "NETWORKS", Registry(NetworkEntry, entries, (), "network"))
        facts = abscert("train", *data_options(images), *options, "--out", out, "--json").json
    assert (facts["network"], facts["cells"], facts["epochs"]) == (request.param, CELLS, 1)
    assert json.loads((out / "checkpoint.json").read_text())["description"]["image_shape"] == list(SHAPE)
    yield out
    shutil.rmtree(out)


@pytest.fixture(params=("inception-v1",))  # ResNet18: test_imagenet_pipeline; AlexNet and VGG11 only take longer
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Yield a network of plain images on the scale [-1, 1] in an ONNX file that says nothing of cells."""
    network = NetworkConfig(request.param, Activation.RELU, SHAPE, CLASSES, takes_intervals=False).build(0).eval()
    model = traced(network, "data", SHAPE, CLASSES)
    model.producer_name, model.graph.name = "pytorch", "main"
    path = tmp_path / f"{request.param}.onnx"
    onnx.save_model(model, str(path))
    yield path
    shutil.rmtree(tmp_path)


def data_options(images: Path) -> tuple[object, ...]:
    return "--data", "folder", "--data-dir", images, "--image-size", SIDE


def verify(model: Path, images: Path, out: Path, *options: object) -> list[Record]:
    """Return the rows that `abscert verify` writes."""
    command = ("verify", model, *data_options(images), "--provider", "cpu", "--out", out, "--json")
    facts = abscert(*command, "--arithmetic", "this-runtime", *options).json  # one epoch: margins near 0
    rows = list(read_records(out / "records.jsonl"))
    assert facts["images"] == len(rows)
    return rows


def stored_pixels(images: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the test images on the pixel scale, and their labels."""
    data = load_data("folder", Split.TEST, images, SIDE)
    batch = data.take(np.arange(len(data)))
    return data.pixels(batch.images), batch.labels


def variants(image: np.ndarray) -> np.ndarray:
    """Return the image with every pixel that is within the radius of an edge on either side of it, all combinations."""
    edges = np.arange(1, CELLS) / CELLS
    places = np.argwhere(np.abs(image[..., None].astype(np.float64) - edges) < RADIUS)
    assert len(places) <= 3  # few passes through a large network
    found = np.repeat(image[None], 2 ** len(places), axis=0)
    for row, sides in zip(found, itertools.product((False, True), repeat=len(places)), strict=True):
        for (channel, y, x, edge), is_above in zip(places, sides, strict=True):
            value = np.float32(edges[edge])
            row[channel, y, x] = value if is_above else np.nextafter(value, np.float32(0))
    return found


def test_a_training_from_a_folder_is_verified_as_its_deployed_file_answers(
    images: Path, trained: Path, tmp_path: Path
) -> None:
    pixels, labels = stored_pixels(images)
    deployed = BlackBox(trained / "deploy.onnx", Provider.CPU)
    cells = verify(trained / "deploy.onnx", images, tmp_path / "cell")
    answers = [deployed.run(image[None]).argmax() for image in pixels]
    assert [(cell.prediction, cell.label, cell.verdict == "certified") for cell in cells] == [
        (int(answer), int(label), bool(answer == label)) for answer, label in zip(answers, labels, strict=True)
    ]
    ball = ("--claim", "ball", "--black-box", "--radius", RADIUS, "--timeout", 60)
    balls = verify(trained / "deploy.onnx", images, tmp_path / "ball", *ball)
    assert len(cells) == len(balls) == CLASSES
    counts = []
    for row, image, label in zip(balls, pixels, labels, strict=True):
        answers = deployed.run(variants(image)).argmax(axis=1)
        assert row.verdict == ("certified" if (answers == label).all() else "falsified")
        counts.append(len(answers))
        assert row.reachable_log2 == np.log2(len(answers))
    assert max(counts) > 1  # some image has pixels at an edge


@pytest.mark.parametrize("trained", ["inception-v1"], indirect=True)
def test_a_ball_of_too_many_cells_is_unknown_when_its_time_is_up(images: Path, trained: Path, tmp_path: Path) -> None:
    # the flat grounds too leave their cells; no attack begins, as the first pass takes longer
    ball = ("--claim", "ball", "--black-box", "--radius", "0.12", "--timeout", "0.001")
    rows = verify(trained / "deploy.onnx", images, tmp_path / "out", *ball)
    assert len(rows) == CLASSES
    for row in rows:
        assert cast(float, row.reachable_log2) > 10_000
        is_right = row.prediction == row.label
        assert (row.verdict, "time-out" in row.reason) == (("unknown", True) if is_right else ("falsified", False))


def test_any_network_is_wrapped_and_verified(images: Path, plain: Path, tmp_path: Path) -> None:
    abscert("wrap", plain, "--cells", CELLS, "--input-range", "-1,1", "--out", tmp_path / "wrapped")
    pixels, labels = stored_pixels(images)
    cells = np.minimum(np.floor(pixels.astype(np.float64) * CELLS), CELLS - 1)
    middle = ((cells + 0.5) / CELLS * 2 - 1).astype(np.float32)
    answers = BlackBox(plain, Provider.CPU).run(middle).argmax(axis=1)
    deploy = tmp_path / "wrapped" / "deploy.onnx"
    small = ("--claim", "ball", "--black-box", "--radius", "1/2000")  # leaves no cell
    rows = verify(deploy, images, tmp_path / "cell")
    balls = verify(deploy, images, tmp_path / "ball", *small)
    for row, ball, label, answer in zip(rows, balls, labels, answers, strict=True):
        verdict = "certified" if answer == label else "falsified"
        assert (row.label, row.prediction, row.verdict, ball.verdict) == (label, answer, verdict, verdict)
