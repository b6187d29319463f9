"""The main job end to end on the embedded digits: train, kill, resume, export, verify, and the start of `verify`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from command_line import abscert, refused

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.records import read_records
from abscert_plugin.verification.run import Verification

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from abscert_plugin.cli import main; main()"]
TRAIN = ["train", "--data", "digits", "--cells", "4", "--epochs", "3", "--network", "dm-small", "--seed", "3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    abscert(*TRAIN, "--out", str(out))
    return out


def test_killed_training_resumes_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [*COMMAND, *TRAIN, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.json").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "deploy.onnx").exists(), "the training ended before it could be killed"
    errors = abscert(*TRAIN, "--out", str(out), status=2).err
    assert re.fullmatch("error: [^\n]*add --resume[^\n]*\n", errors)
    abscert(*TRAIN, "--out", str(out), "--resume")
    state, whole = (json.loads((folder / "checkpoint.json").read_text()) for folder in (out, trained))
    assert (state["epoch"], state["best_epoch"]) == (whole["epoch"], whole["best_epoch"])
    for name in ("state_file", "best_file"):
        own = safetensors.numpy.load_file(out / state[name])
        expected = safetensors.numpy.load_file(trained / whole[name])
        assert own.keys() == expected.keys()
        assert all(np.array_equal(own[key], expected[key]) for key in expected)


def test_deploy_and_abstract_give_the_verdicts_of_running_the_image(trained: Path, tmp_path: Path) -> None:
    data = load_data("digits", Split.TEST)
    rows = {}
    for name in ("deploy", "abstract"):
        artifact = Artifact.open(trained / f"{name}.onnx", Provider.CPU)
        rows[name], _ = Verification(artifact, data, batch_size=50).run(tmp_path / name, lambda _: None)
    assert [row.verdict for row in rows["deploy"]] == [row.verdict for row in rows["abstract"]]
    deploy = Artifact.open(trained / "deploy.onnx", Provider.CPU)
    grid = deploy.metadata.grid
    assert grid is not None
    batch = data.take(np.arange(len(data)))
    cells = grid.cell(data.pixels(batch.images))
    draws = np.random.default_rng(0)
    for _ in range(5):  # any image of the same cells gets the label of a certified image
        low, high = grid.edges[:-1][cells], grid.edges[1:][cells]
        inside = low + (high - low) * draws.random(cells.shape, dtype=np.float32)
        inside = np.where(grid.cell(inside) == cells, inside, low)
        predictions = deploy.classifier.run(np.asarray(inside)).argmax(axis=1)
        for row, label, prediction in zip(rows["deploy"], batch.labels, predictions, strict=True):
            assert (row.verdict == "certified") == (prediction == label)


def test_interrupted_verification_goes_on_with_what_is_there(trained: Path, tmp_path: Path) -> None:
    data = load_data("digits", Split.TEST)
    artifact = Artifact.open(trained / "deploy.onnx", Provider.CPU)
    whole, _ = Verification(artifact, data, 20).run(tmp_path / "whole", lambda _: None)
    Verification(artifact, data, 20).run(tmp_path / "half", lambda _: None)
    path = tmp_path / "half" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:100]) + lines[100][:30])  # as a kill in the middle of a line leaves it
    Verification(artifact, data, 20).run(tmp_path / "half", lambda _: None)
    rows = read_records(path)
    assert [(row.index, row.verdict) for row in rows] == [(row.index, row.verdict) for row in whole]


def test_tampered_phi_is_refused(trained: Path, tmp_path: Path) -> None:
    model = onnx.load(trained / "deploy.onnx")
    edges = next(tensor for tensor in model.graph.initializer if tensor.name == "phi/edges")
    values = onnx.numpy_helper.to_array(edges).copy()
    values[1] = np.nextafter(values[1], np.float32(1))
    edges.CopyFrom(onnx.numpy_helper.from_array(values, edges.name))
    path = tmp_path / "tampered.onnx"
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError, match="not the abstraction"):
        Artifact.open(path, Provider.CPU)


def test_verify_prints_one_json_object_and_imports_no_torch(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from abscert_plugin.cli import app\n"
        "sys.argv[1:] = sys.argv[1:]\n"
        "try:\n    app.main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    arguments = ["verify", str(trained / "deploy.onnx"), "--data", "digits", "--out", str(tmp_path / "v"), "--json"]
    arguments += ["--arithmetic", "this-runtime"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    asked = "claim images certified falsified unknown verified_error seconds images_per_second provider model_sha256"
    assert set(asked.split()) <= facts.keys()
    assert facts["images"] == facts["certified"] + facts["falsified"] + facts["unknown"] == 359


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--cells", "0", "--out", "OUT"], "cells from 1 to 65,535"),
        (["train", "--granularity", "0.3", "--out", "OUT"], "nearest"),
        (["train", "--data", "nothing", "--out", "OUT"], "expected a data set: one of digits"),
        (["train", "--network", "nothing", "--out", "OUT"], "network"),
        (["train", "--epochs", "0", "--out", "OUT"], "epochs"),
        (["train", "--out", "FILE/below"], "another --out"),
        (["verify", "FILE"], "ONNX"),
        (["verify", "OUT/none.onnx"], "is not there"),
        (["show", "FILE"], "record|line"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no model, no record\n")
    resolved = [
        part.replace("OUT", str(tmp_path / "out")).replace("FILE", str(tmp_path / "file")) for part in arguments
    ]
    assert re.search(message, refused(*resolved))
