"""Trainings of an earlier commit: equal options are described alike, and unfinished ones are gone on with."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import abscert, refused

from abscert_plugin.training.checkpoint import read_checkpoint

FORMER = Path(__file__).resolve().parents[1] / "fixtures" / "trainings"
DESCRIBED: list[dict[str, Any]] = json.loads((FORMER / "descriptions.json").read_text())
COMMON = ["--data", "digits", "--network", "cnn-2layer", "--epochs", "2", "--batch-size", "512", "--device", "cpu"]
COMMANDS = {
    "reachable": [
        "train",
        "--cells",
        "2",
        "--method",
        "reachable",
        "--radius",
        "0.05",
        "--robust-loss",
        "mtl-ibp",
        "--share",
        "0.3",
        "--natural-end",
        "0.25",
        "--ramp",
        "0.25",
        "--regulariser",
        "0.1",
    ],
    "ibp": ["baseline", "train", "--method", "ibp", "--radius", "8/255", "--set", "ramp=0.25", "--set", "fast=false"],
}
SUGAR = [
    "--set",
    "loss=mtl-ibp",
    "--set",
    "share=0.3",
    "--set",
    "natural_end=0.25",
    "--set",
    "ramp=0.25",
    "--set",
    "regulariser=0.1",
]


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """Return a copy of the folder of both trainings, of which one of two epochs is done."""
    return Path(shutil.copytree(FORMER, tmp_path / "trainings"))


@pytest.mark.parametrize("said", DESCRIBED, ids=lambda said: " ".join(said["arguments"]))
def test_equal_options_are_described_as_before(said: dict[str, Any], tmp_path: Path) -> None:
    abscert(*said["arguments"], "--out", tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["description"] == said["description"]
    assert json.loads((tmp_path / "run.json").read_text())["configuration"] == said["description"]
    properties = {entry.key: entry.value for entry in onnx.load_model(str(tmp_path / "deploy.onnx")).metadata_props}
    assert properties["abscert.training"] == said["training"]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unfinished_training_is_gone_on_with(former: Path, name: str) -> None:
    arguments = (*COMMANDS[name], *COMMON, "--out", former / name)
    assert read_checkpoint(former / name).epoch == 1
    assert "give its options" in refused(*arguments, "--resume", "--seed", "1")
    abscert(*arguments, "--resume")
    resumed = read_checkpoint(former / name)
    assert (resumed.epoch, resumed.finished) == (2, True)


@pytest.mark.parametrize("command", [("train",), ("baseline", "train")])
def test_set_and_the_other_name_of_the_command_go_on_with_it_too(former: Path, command: tuple[str, ...]) -> None:
    options = ("--cells", 2, "--method", "reachable", "--radius", 0.05, *SUGAR, *COMMON)
    abscert(*command, *options, "--out", former / "reachable", "--resume")
    assert read_checkpoint(former / "reachable").finished


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unfinished_training_is_exported(former: Path, tmp_path: Path, name: str) -> None:
    made = abscert("export", former / name, "--out", tmp_path / "made", "--json").json
    assert made["best_epoch"] == 1
    onnx.checker.check_model(made["deploy"])


def test_a_former_file_is_verified_with_its_training_s_network(former: Path, tmp_path: Path) -> None:
    folder = former / "reachable"
    options = ("--claim", "ball", "--radius", "0.05", "--limit", 8, "--checkpoint", folder, "--out", tmp_path / "v")
    found = abscert("verify", folder / "deploy.onnx", *options, "--json").json
    assert (found["claim"], found["images"]) == ("ball", 8)
