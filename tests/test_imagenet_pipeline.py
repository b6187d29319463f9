"""The ImageNet networks end to end on a folder of images: train, export, wrap, verify; with external data as well."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import abscert
from PIL import Image

from abscert_plugin.artifact.export import traced
from abscert_plugin.artifact.model_file import external_locations, read_model
from abscert_plugin.artifact.write import data_path, write_checked
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.records import Record, read_records

pytestmark = pytest.mark.slow

CELLS = 16
SIDE = 32  # cheap for ResNet18
TEST_COUNT = 12
LEAST_DISTANCE = 1 / 4080  # of an 8-bit pixel, v / 255, from an edge, k / 16, unless it lies on it
RADIUS = "13/8160"  # 6.5 times that: it takes up to three pixels of each image over an edge
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_images(folder: Path, count: int) -> None:
    """Write images of two classes, 64 x 64 upwards: a bright or a dark ground, random pixels in one corner."""
    for label, ground in (("bright", 150), ("dark", 100)):
        (folder / label).mkdir(parents=True)
        for place in range(count):
            random = np.random.default_rng([ground, place])
            pixels = np.full((64 + 3 * place % 30, 64 + 5 * place % 40, 3), ground, dtype=np.uint8)
            pixels[:64, :64] += random.integers(0, 4, 3, dtype=np.uint8)
            pixels[20:28, 20:28] = random.integers(0, 256, (8, 8, 3))
            Image.fromarray(pixels).save(folder / label / f"{place:02}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train", 25)
    write_images(folder / "val", TEST_COUNT // 2)
    return folder


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training of one epoch."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = ("--network", "resnet18", "--cells", CELLS, "--epochs", 1, "--batch-size", 8, "--device", "cpu")
    facts = abscert("train", *data_options(images), *options, "--out", out, "--json").json
    assert (facts["network"], facts["cells"], facts["epochs"]) == ("resnet18", CELLS, 1)
    return out


def data_options(images: Path, side: int = SIDE) -> tuple[object, ...]:
    return "--data", "folder", "--data-dir", images, "--image-size", side


def verify(model: Path, images: Path, out: Path, *options: object, side: int = SIDE) -> list[Record]:
    """Return the rows that `abscert verify` writes."""
    command = ("verify", model, *data_options(images, side), "--provider", "cpu", "--out", out, "--json")
    facts = abscert(*command, "--arithmetic", "this-runtime", *options).json  # one epoch: margins near 0
    rows = read_records(out / "records.jsonl")
    assert facts["images"] == len(rows)
    return list(rows)


def verdicts(rows: list[Record]) -> list[tuple[int, int, str]]:
    return [(row.index, row.prediction, str(row.verdict)) for row in rows]


def test_cells_are_decided_as_running_the_deployed_file_on_the_images_does(
    images: Path, trained: Path, tmp_path: Path
) -> None:
    rows = verify(trained / "deploy.onnx", images, tmp_path / "deploy")
    data = load_data("folder", Split.TEST, images, SIDE)
    batch = data.take(np.arange(len(data)))
    predictions = BlackBox(trained / "deploy.onnx", Provider.CPU).run(data.pixels(batch.images)).argmax(axis=1)
    assert len(rows) == TEST_COUNT
    for row, label, prediction in zip(rows, batch.labels, predictions, strict=True):
        assert (row.prediction, row.label) == (prediction, label)
        assert (row.verdict == "certified") == (prediction == label)
    assert verdicts(verify(trained / "abstract.onnx", images, tmp_path / "abstract")) == verdicts(rows)


def test_a_ball_too_small_to_leave_the_cells_gets_the_verdict_of_the_cells(
    images: Path, trained: Path, tmp_path: Path
) -> None:
    options = ("--claim", "ball", "--black-box", "--radius", f"{LEAST_DISTANCE / 2:.6f}")
    balls = verify(trained / "deploy.onnx", images, tmp_path / "ball", *options)
    cells = verify(trained / "deploy.onnx", images, tmp_path / "cell")
    assert [row.reachable_log2 for row in balls] == [0.0] * TEST_COUNT
    assert [row.verdict == "certified" for row in balls] == [row.verdict == "certified" for row in cells]


def test_a_small_ball_is_decided_by_running_every_combination_of_its_cells(
    images: Path, trained: Path, tmp_path: Path
) -> None:
    options = ("--claim", "ball", "--black-box", "--radius", RADIUS)
    balls = verify(trained / "deploy.onnx", images, tmp_path / "ball", *options)
    data = load_data("folder", Split.TEST, images, SIDE)
    deployed = BlackBox(trained / "deploy.onnx", Provider.CPU)
    for row, pixels in zip(balls, data.pixels(data.take(np.arange(TEST_COUNT)).images), strict=True):
        combinations = images_on_either_side(pixels, float(Fraction(RADIUS)))
        assert row.reachable_log2 == np.log2(len(combinations))
        is_certified = (deployed.run(combinations).argmax(axis=1) == row.label).all()
        assert row.verdict == ("certified" if is_certified else "falsified")
    # however little one epoch teaches, the images of a class that it always answers are right
    assert any(row.verdict == "certified" and row.method == "exhaustive" for row in balls)


def images_on_either_side(image: np.ndarray, radius: float) -> np.ndarray:
    """Return the image with each pixel that is within the radius of an edge on it or below it, in all combinations."""
    edges = np.arange(1, CELLS, dtype=np.float32) / np.float32(CELLS)
    distances = np.abs(image[..., None].astype(np.float64) - edges)
    places = np.argwhere(distances < radius)
    assert len(places) <= 8
    variants = np.repeat(image[None], 2 ** len(places), axis=0)
    for bit, (channel, row, column, edge) in enumerate(places):
        is_below = (np.arange(len(variants)) >> bit) % 2 == 0
        below = np.nextafter(edges[edge], np.float32(0))
        variants[:, channel, row, column] = np.where(is_below, below, edges[edge])
    return variants


def test_the_export_of_a_run_is_what_the_training_wrote(images: Path, trained: Path, tmp_path: Path) -> None:
    abscert("export", trained, "--out", tmp_path / "again")
    for name in ("deploy.onnx", "abstract.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def external(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let tensors go beside the file from 1 MiB in all, as they do from 2 GiB."""
    monkeypatch.setattr(f"abscert_plugin.artifact.{module}.write_checked", partial(write_checked, embed_limit=2**20))


def assert_external(model: Path) -> None:
    assert external_locations(read_model(model)) == [data_path(model).name]
    assert model.stat().st_size < 2**20 < data_path(model).stat().st_size


def test_tensors_beside_the_file_give_the_same_verdicts(
    images: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external(monkeypatch, "export")
    abscert("export", trained, "--out", tmp_path / "out")
    ball = ("--claim", "ball", "--black-box", "--radius", RADIUS)
    for name, options in (("deploy.onnx", ()), ("abstract.onnx", ()), ("deploy.onnx", ball)):
        model = tmp_path / "out" / name
        assert_external(model)
        found = verify(model, images, tmp_path / f"external-{name}-{len(options)}", *options)
        expected = verify(trained / name, images, tmp_path / f"embedded-{name}-{len(options)}", *options)
        assert verdicts(found) == verdicts(expected)
        assert [row.margin for row in found] == [row.margin for row in expected]


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ResNet18 of plain images, as a person who never heard of this project has it."""
    network = NetworkConfig("resnet18", Activation.RELU, (3, 224, 224), 2, takes_intervals=False).build(5).eval()
    model = traced(network, "data", (3, 224, 224), 2)
    model.producer_name, model.graph.name = "pytorch", "resnet"
    path = tmp_path_factory.mktemp("third-party") / "resnet18.onnx"
    onnx.save_model(model, str(path))
    return path


@pytest.mark.parametrize("prepare", [lambda _: None, lambda patch: external(patch, "wrap")], ids=["one", "beside"])
def test_a_wrapped_resnet_is_verified_at_224(
    images: Path,
    third_party: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[pytest.MonkeyPatch], None],
) -> None:
    prepare(monkeypatch)
    scale = ("--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)))
    abscert("wrap", third_party, "--cells", CELLS, *scale, "--out", tmp_path / "wrapped")
    deploy = tmp_path / "wrapped" / "deploy.onnx"
    if data_path(deploy).exists():
        assert_external(deploy)
    (row,) = verify(deploy, images, tmp_path / "out", "--limit", 1, side=224)
    data = load_data("folder", Split.TEST, images, 224)
    pixels = data.pixels(data.take(np.arange(1)).images)
    edges = Grid(CELLS).edges.astype(np.float64)
    cells = np.minimum(np.floor(pixels.astype(np.float64) * CELLS).astype(int), CELLS - 1)
    middle = (edges[cells] + edges[cells + 1]) / 2
    scaled = (middle - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    (expected,) = BlackBox(third_party, Provider.CPU).run(scaled.astype(np.float32))
    (logits,) = BlackBox(deploy, Provider.CPU).run(pixels)
    # float32 sums in another order
    assert np.allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
    assert (row.label, row.prediction) == (0, expected.argmax())
    assert (row.verdict == "certified") == (row.prediction == row.label)
