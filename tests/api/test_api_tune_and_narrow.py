"""`abscert.tune` on one's own network and arrays is the command's; `abscert.export` writes files in fewer bits."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import abscert as command
from torch import nn

import abscert_plugin as abscert
from abscert_plugin.api import tuning
from abscert_plugin.data import DataSet
from abscert_plugin.errors import CheckpointError, ConfigError, DataError
from abscert_plugin.training.tuning_step import TuningStep


def build(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return abscert.load_data("digits", "train", limit=300)


@pytest.fixture(scope="module")
def arrays(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    return data.pixels(data.take(np.arange(len(data))).images), data.labels


def facts(step: TuningStep) -> tuple[object, ...]:
    return step.cells, step.validation_error, step.best_epoch, step.lower_gradient, step.upper_gradient


def test_the_command_and_python_tune_alike(tmp_path: Path) -> None:
    done = command("tune", "--radius", "0.1", "--network", "fc-3", "--epochs", 1, "--steps", 2, "--device", "cpu",
                   "--out", tmp_path / "one", "--json")  # fmt: skip
    told: list[TuningStep] = []
    tuned = abscert.tune(
        "fc-3", "digits", 0.1, epochs=1, steps=2, device="cpu", out=tmp_path / "two", progress=told.append
    )
    steps = [json.loads((tmp_path / name / "tune.json").read_text())["steps"] for name in ("one", "two")]
    for step in (*steps[0], *steps[1]):
        del step["seconds"]
    assert steps[0] == steps[1]
    assert told == list(tuned.steps)
    assert tuned.cells == done.json["best_cells"] == tuned.trained.grid.cells  # type: ignore[union-attr]
    assert onnx.load(tmp_path / "one" / "deploy.onnx").graph == onnx.load(tuned.trained.deploy).graph


def test_a_network_is_tuned_on_arrays_and_gone_on_with(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    def fail(step: TuningStep) -> None:
        raise RuntimeError(f"after {step.cells}")

    whole = abscert.tune(build, arrays, 0.1, epochs=1, steps=2, coarsest=3, out=tmp_path / "whole")
    assert [step.cells for step in whole.steps] == [3, 4]
    assert repr(whole).startswith(f"<Tuning: {whole.cells} cells of 3, 4; <Trained: build")
    assert len(whole.trained.verify(arrays[0][:5], arrays[1][:5], claim="cell")) == 5
    with pytest.raises(RuntimeError, match="after 3"):
        abscert.tune(build, arrays, 0.1, epochs=1, steps=2, coarsest=3, out=tmp_path / "part", progress=fail)
    with pytest.raises(ConfigError, match="already holds a tuning; add resume=True"):
        abscert.tune(build, arrays, 0.1, epochs=1, steps=2, coarsest=3, out=tmp_path / "part")
    with pytest.raises(CheckpointError, match="radius"):
        abscert.tune(build, arrays, 0.05, epochs=1, steps=2, coarsest=3, out=tmp_path / "part", resume=True)
    again = abscert.tune(build, arrays, 0.1, epochs=1, steps=2, coarsest=3, out=tmp_path / "part", resume=True)
    assert [facts(step) for step in again.steps] == [facts(step) for step in whole.steps]


def test_a_tuning_that_cannot_be_is_refused(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coarsest number of cells from 1 to 1"):
        abscert.tune(build, arrays, 0.3, out=tmp_path / "none")
    with pytest.raises(ConfigError, match="at least 2 classes"):
        abscert.tune(build, (arrays[0], np.zeros(len(arrays[0]), dtype=np.int64)), 0.1, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def trained(arrays: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return abscert.train(build, arrays, epochs=1, cells=4, out=tmp_path_factory.mktemp("own")).folder


def test_a_training_is_written_in_fewer_bits(
    trained: Path, arrays: tuple[np.ndarray, np.ndarray], data: DataSet, tmp_path: Path
) -> None:
    made = abscert.export(trained, tmp_path, precision="float16")
    assert made.deploy == tmp_path / "deploy-float16.onnx"
    assert made.abstract is None
    assert 0 < made.largest_difference < 0.1
    files = []
    for name, images in (("arrays", arrays[0][:100]), ("data", data.first(100))):
        made = abscert.export(trained / "deploy.onnx", tmp_path / name, precision="int8", images=images)
        files.append(made.deploy.read_bytes())
    assert files[0] == files[1]
    assert len(abscert.verify(made.deploy, arrays[0][:5], arrays[1][:5], claim="cell")) == 5


def test_fewer_bits_of_what_has_none_are_refused(
    trained: Path, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images = arrays[0][:10]
    with pytest.raises(ConfigError, match="int8 finds its ranges"):
        abscert.export(trained, tmp_path, precision="int8")
    with pytest.raises(ConfigError, match="int8 alone"):
        abscert.export(trained, tmp_path, precision="float16", images=images)
    with pytest.raises(ConfigError, match="int8' alone"):
        abscert.export(trained, tmp_path, images=images)
    with pytest.raises(ConfigError, match="float16"):
        abscert.export(trained, tmp_path, precision="int4", images=images)
    with pytest.raises(ConfigError, match="folder of a training"):
        abscert.export(build(1), tmp_path / "m.onnx", precision="float16")
    with pytest.raises(DataError, match="shape"):
        abscert.export(trained, tmp_path, precision="int8", images=images[:, :, 1:])
    assert not list(tmp_path.iterdir())
    assert tuning.Tuning is abscert.Tuning
