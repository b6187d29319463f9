"""`abscert.verify`: the command's verdicts on arrays, exported modules, and inputs that are refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import run as command
from torch import nn

import abscert_plugin as abscert
from abscert_plugin.api.arrays import as_data_set
from abscert_plugin.api.radii import as_radius
from abscert_plugin.artifact.export import export
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError, DataError, MissingPackageError, UnsupportedModelError
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.records import read_records


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    data = load_data("digits", Split.TEST).first(12)
    return data.pixels(data.take(np.arange(12)).images), data.labels


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = NetworkConfig("fc-3-code", Activation.RELU, (1, 8, 8), 10)
    probes = np.zeros((1, 1, 8, 8), dtype=np.float32)
    return export(config.build(3), config, abscert.Grid(3), "none", probes, tmp_path_factory.mktemp("deploy")).deploy


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def decided(rows: Any) -> list[tuple[Any, ...]]:
    """Return what rows say, but for their times and places in a file."""
    return [
        (
            row.label,
            row.prediction,
            row.claim,
            row.radius,
            row.verdict,
            row.reason,
            row.method,
            row.margin,
            row.arithmetic,
        )
        for row in rows
    ]


@pytest.mark.parametrize("asked", [{"claim": "cell"}, {"radius": 0.02}, {"radius": 0.02, "bound": "ibp"}])
def test_verdicts_on_arrays_are_those_of_the_command(
    deploy: Path, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, asked: dict[str, Any]
) -> None:
    options = [text for name, value in asked.items() for text in (f"--{name}", value)]
    done = command("verify", deploy, "--data", "digits", "--limit", 12, "--out", tmp_path / "out", *options)
    assert done.status == 0, done.err
    expected = read_records(tmp_path / "out" / "records.jsonl")
    verdicts = abscert.verify(deploy, *arrays, **asked)
    assert decided(verdicts.records) == decided(expected)
    assert decided(abscert.verify(deploy, abscert.load_data("digits", limit=12), **asked).records) == decided(expected)
    saved = verdicts.save(tmp_path / "saved")
    assert list(verdicts.records) == read_records(saved / "records.jsonl")
    data = command("show", saved / "images.npz")
    assert (data.status, data.err.count("\n")) == (2, 1)
    assert "got data" in data.err
    shown = command("show", saved, "--html", tmp_path / "page.html")
    assert shown.status == 0
    pictures = len(re.findall("data:image/png", (tmp_path / "page.html").read_text()))
    assert "without pictures" not in shown.err
    assert bool(pictures) == (not verdicts.certified.all())  # of images that came as arrays
    run = json.loads((saved / "run.json").read_text())
    assert run["configuration"]["radius"] == ("1/50" if "radius" in asked else None)
    with pytest.raises(abscert.AbscertError, match="holds files"):
        verdicts.save(tmp_path)
    told = json.loads(verdicts.certificate(tmp_path / "c.json").read_text())
    assert len(told["rows"]) == 12


def test_a_verdict_is_of_its_image(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = arrays
    network = linear().train()
    told: list[tuple[int, int]] = []
    verdicts = abscert.verify(network, images, labels, radius=0.05, progress=lambda *done: told.append(done))
    assert network.training
    assert told[-1] == (12, 12)
    assert len(verdicts) == len(verdicts[:]) == 12
    for image, verdict, found in zip(images, verdicts, verdicts.counterexamples, strict=True):
        assert (verdict.verdict == "falsified") == (found is not None)
        if found is not None:
            assert np.abs(found.astype(np.float64) - image).max() <= 0.05
            assert int(network.eval()(torch.from_numpy(found[None])).argmax()) != verdict.label
    is_any = verdicts.certified | verdicts.falsified | verdicts.unknown
    assert is_any.all()
    assert verdicts.verified_error() == 1 - verdicts.certified.mean()
    assert "claim ball, radius 0.05 (pixel scale)" in str(verdicts)
    assert "claim ball, radius 0.05 (pixel scale)" in verdicts._repr_html_()


def test_a_certificate_of_arrays_is_checked_against_the_saved_images(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    verdicts = abscert.verify(linear(), *arrays, radius=0.02, bound="ibp")
    certificate, saved = verdicts.certificate(tmp_path / "c.json"), verdicts.save(tmp_path / "saved")
    checked = command("check", certificate, saved / "model.onnx", "--data", saved / "images.npz")
    assert checked.status == 0, checked.out
    other = abscert.verify(linear(), 1 - arrays[0], arrays[1], radius=0.02, bound="ibp").save(tmp_path / "other")
    checked = command("check", certificate, saved / "model.onnx", "--data", other / "images.npz")
    assert checked.status == 1
    assert "other images than the certificate is about" in checked.out


def test_a_table_has_a_row_for_each_image(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    verdicts = abscert.verify(linear(), *arrays, radius=0.01, timeout=1)
    frame = verdicts.to_frame()
    assert list(frame["verdict"]) == list(verdicts.verdicts)
    for expected, found in zip(verdicts.counterexamples, frame["counterexample"], strict=True):
        assert (found is None) == (expected is None)
        assert expected is None or np.array_equal(found, expected)


def test_a_table_needs_pandas_alone(arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = abscert.verify(linear(), *arrays, radius=0.01, bound="ibp")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="pip install pandas"):
        verdicts.to_frame()


def test_models_of_all_kinds_get_the_same_verdicts(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    network = linear()
    path = abscert.export(network, tmp_path / "m.onnx", image_shape=(1, 8, 8)).deploy
    expected = decided(abscert.verify(path, *arrays, radius=0.02).records)
    images, labels = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
    assert decided(abscert.verify(network, images, labels, radius="1/50").records) == expected
    assert decided(abscert.verify(onnx.load(str(path)), images.double(), labels, radius=0.02).records) == expected


def test_a_module_of_normalised_pixels_is_verified_on_pixels(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner((images - 0.25) / 0.5)

    inside = abscert.verify(Normalised(), *arrays, radius=0.02)
    outside = abscert.verify(linear(), *arrays, radius=0.02, mean=0.25, std=[0.5])
    assert inside.verdicts == outside.verdicts
    assert inside.margins == pytest.approx(outside.margins, abs=1e-3)  # another rounding of the pixels


def test_floats_that_are_no_whole_levels_stay_as_they_are() -> None:
    random = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    data = as_data_set(random, np.zeros(5, dtype=int))
    assert np.array_equal(data.pixels(data.take(np.arange(5)).images), random)
    whole = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for given in (whole, whole / np.float32(255), whole / 255):
        data = as_data_set(given, [0])
        assert data.levels == 255
        assert np.array_equal(data.take(np.arange(1)).images, whole)
    with pytest.raises(ConfigError, match="8-bit"):
        abscert.verify(linear(), random, np.zeros(5, dtype=int), radius=0.1, inputs="uint8")


class Crowd(nn.Module):
    """Gives an image other logits in a batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)[:, :10]
        return flat - flat.mean(0, keepdim=True)


IMAGES = np.zeros((3, 1, 8, 8), dtype=np.float32)
LABELS = np.array([0, 1, 2])
WRONG: list[tuple[Any, Any, Any, dict[str, Any], type[Exception], str]] = [
    (
        linear(),
        IMAGES[:, 0],
        LABELS,
        {"radius": 0.1},
        DataError,
        r"of a single image: image\[None\]|need channels: images\[:, None\]",
    ),
    (linear(), IMAGES.transpose(0, 2, 3, 1), LABELS, {"radius": 0.1}, DataError, r"transpose\(0, 3, 1, 2\)"),
    (linear(), IMAGES + np.nan, LABELS, {"radius": 0.1}, DataError, "NaN"),
    (linear(), IMAGES + 2, LABELS, {"radius": 0.1}, DataError, r"pixels in \[0, 1\], got 2 to 2"),
    (linear(), IMAGES.astype(np.int64), LABELS, {"radius": 0.1}, DataError, "got int64"),
    (linear(), IMAGES, LABELS[:2], {"radius": 0.1}, DataError, "2 labels and 3 images"),
    (linear(), IMAGES, LABELS + 8, {"radius": 0.1}, DataError, "labels from 0 to 9, the model's classes, got 10"),
    (linear(), IMAGES, LABELS - 1, {"radius": 0.1}, DataError, "labels from 0 on, got -1"),
    (linear(), IMAGES, LABELS / 2, {"radius": 0.1}, DataError, "got float64"),
    (linear(), IMAGES, None, {"radius": 0.1}, DataError, "expected labels"),
    (linear(), IMAGES, LABELS, {"radius": -0.1}, ConfigError, "radius from 0 to 1"),
    (linear(), IMAGES, LABELS, {"radius": float("nan")}, ConfigError, "radius such as"),
    (linear(), IMAGES, LABELS, {}, ConfigError, "does not say for which it was trained"),
    (linear(), IMAGES, LABELS, {"radius": 0.1, "claim": "bal"}, ConfigError, r"did you mean ball\?"),
    (linear(), IMAGES, LABELS, {"radius": 0.1, "claim": "cell"}, ConfigError, "expected radius with claim ball"),
    (linear(), IMAGES, LABELS, {"radius": 0.1, "means": 1}, ConfigError, r"no argument 'means'; did you mean mean\?"),
    (linear(), IMAGES[:, :, 1:], LABELS, {"radius": 0.1}, UnsupportedModelError, "does not run on float32 images"),
    (Crowd(), IMAGES, LABELS, {"radius": 0.1}, UnsupportedModelError, "in a batch than alone"),
    (nn.Flatten(0), IMAGES, LABELS, {"radius": 0.1}, UnsupportedModelError, r"return logits \[batch, classes\]"),
    (7, IMAGES, LABELS, {"radius": 0.1}, UnsupportedModelError, "got int"),
]


@pytest.mark.parametrize(("model", "images", "labels", "options", "error", "words"), WRONG)
def test_what_cannot_be_verified_is_refused_in_one_line(
    model: Any, images: Any, labels: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as found:
        abscert.verify(model, images, labels, **options)
    assert "\n" not in str(found.value)
    assert "--" not in str(found.value)


def test_a_radius_is_the_number_that_was_meant() -> None:
    for given, meant in ((8 / 255, "8/255"), (0.1, "0.1"), (np.float32(0.1), "0.1"), (1e-9, "1e-9"), (0, "0")):
        assert as_radius(given, "pixel") == as_radius(meant, "pixel")
