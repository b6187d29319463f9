"""Where `--data` is left out, the data set is the one that the model or the certificate names, and a line says so."""

import json
from pathlib import Path

import pytest
from command_line import abscert, refused, train

BALL = ("--claim", "ball", "--radius", "0.05", "--limit", 6, "--timeout", 5)


@pytest.fixture(scope="module")
def mnist_run(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> Path:
    """Return a training on MNIST that has seen next to nothing: it is the name that counts."""
    out = tmp_path_factory.mktemp("mnist") / "run"
    options = ("--network", "fc-3-code", "--cells", 2, "--epochs", 1, "--batch-size", 2048)
    abscert("train", "--data", "mnist", "--data-dir", mnist_dir, *options, "--out", out, "--json")
    return out


@pytest.mark.slow
def test_a_model_and_its_certificate_name_their_data_set(mnist_run: Path, mnist_dir: Path, tmp_path: Path) -> None:
    model, certificate = mnist_run / "deploy.onnx", tmp_path / "c.json"
    told = abscert("verify", model, "--data-dir", mnist_dir, *BALL, "--certificate", certificate, "--json")
    assert json.loads(told.out)["data"]["name"] == "mnist"
    assert "taking the data set mnist, as the model says" in told.err
    assert Path(json.loads(told.out)["records"]).parent.name.startswith("verify-deploy-mnist-ball")
    checked = abscert("check", certificate, model, "--data-dir", mnist_dir, "--json")
    assert json.loads(checked.out)["holds"]
    assert "taking the data set mnist, as the certificate says" in checked.err
    assert "note" not in abscert("check", certificate, model, "--data-dir", mnist_dir, "--data", "mnist", "--json").err


@pytest.mark.slow
def test_certify_takes_the_data_set_of_the_training(mnist_run: Path, mnist_dir: Path, tmp_path: Path) -> None:
    told = abscert(
        "baseline", "certify", mnist_run, "--radius", "0.01", "--limit", 4, "--data-dir", mnist_dir,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert json.loads(told.out)["data"]["name"] == "mnist"


def test_a_file_that_names_none_is_taken_to_be_of_digits(tmp_path: Path) -> None:
    from tiny_networks import constant_network, export_tiny

    model = export_tiny(constant_network([1.0] * 10), 2, tmp_path, classes=10).deploy
    assert "expected images of shape" in refused("verify", model, "--out", tmp_path / "out")
    run = train(tmp_path / "run", "--epochs", 1) / "deploy.onnx"
    assert (
        "taking the data set digits, the claim cell, as the model says"
        in abscert("verify", run, "--limit", 4, "--json").err
    )


def test_a_certificate_that_names_an_unknown_data_set_is_refused(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "--epochs", 1) / "deploy.onnx"
    certificate = tmp_path / "c.json"
    abscert("verify", run, "--limit", 4, "--certificate", certificate, "--json")
    value = json.loads(certificate.read_text())
    value["data"]["name"] = "nowhere"
    certificate.write_text(json.dumps(value))
    assert "nowhere" in refused("check", certificate, run)
