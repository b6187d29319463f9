"""What a command writes never takes the place of a file of another kind: models, trainings, records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import abscert, contents, linear_model, train

Arguments = Callable[[Path, Path], list[Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return the folder of a verification of a copy of the model, which lies beside it."""
    (tmp_path / "deploy.onnx").write_bytes((trained / "deploy.onnx").read_bytes())
    abscert("verify", tmp_path / "deploy.onnx", "--data", "digits", "--limit", 5, "--out", tmp_path / "run")
    return tmp_path / "run"


REPLACING: dict[str, tuple[Arguments, str]] = {
    "a model by a certificate": (
        lambda run, _: [
            *("verify", run.parent / "deploy.onnx", "--limit", 5, "--out", run),
            *("--certificate", run.parent / "deploy.onnx"),
        ],
        "is there and is no certificate",
    ),
    "records by a certificate": (
        lambda run, _: ["verify", run.parent / "deploy.onnx", "--out", run, "--certificate", run / "records.jsonl"],
        "expected --certificate beside the files of a run",
    ),
    "records by a page": (
        lambda run, _: ["show", run, "--html", run / "records.jsonl"],
        "expected --html as the name of a page",
    ),
    "a model by a guard": (
        lambda run, trained: ["guard", trained / "deploy.onnx", "--radius", "0.1", "--out", run.parent / "deploy.onnx"],
        "is there and is no guard",
    ),
    "a run.json by a training": (
        lambda run, _: ["train", "--data", "digits", "--epochs", 1, "--out", run],
        "holds a run that is no training",
    ),
    "a verification's folder by wrapped files": (
        lambda run, _: ["wrap", linear_model(run.parent / "model.onnx"), "--out", run],
        "holds a run (records.jsonl)",
    ),
}


@pytest.mark.parametrize("kind", REPLACING)
def test_files_of_another_kind_are_not_replaced(kind: str, run: Path, trained: Path) -> None:
    arguments, reason = REPLACING[kind]
    made = arguments(run, trained)
    kept = contents(run.parent)
    result = abscert(*made, status=2)
    assert result.err.startswith("error: ")
    assert reason in result.err
    assert {name: content for name, content in contents(run.parent).items() if name in kept} == kept


def test_a_training_is_not_replaced_by_wrapped_files(trained: Path, tmp_path: Path) -> None:
    kept = contents(trained)
    result = abscert("wrap", linear_model(tmp_path / "model.onnx"), "--out", trained, status=2)
    assert "holds a run (checkpoint.json)" in result.err
    assert contents(trained) == kept


def test_a_training_is_not_put_aside_by_a_verification(trained: Path) -> None:
    kept = contents(trained)
    result = abscert("verify", trained / "deploy.onnx", "--out", trained, "--fresh", status=2)
    assert "holds deploy.onnx, which --fresh would put aside with it; choose another --out" in result.err
    assert contents(trained) == kept


def test_a_certificate_and_a_guard_are_written_anew(run: Path) -> None:
    for radius in ("0.1", "0.2"):
        abscert("guard", run.parent / "deploy.onnx", "--radius", radius, "--out", run.parent / "guard.onnx")
        abscert(
            *("verify", run.parent / "deploy.onnx", "--data", "digits", "--limit", 5, "--out", run),
            *("--certificate", run.parent / "certificate.json"),
        )
