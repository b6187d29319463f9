"""A training that begins with another one's weights: from its folder or its ONNX file, and what is refused."""

from pathlib import Path

import onnx
import pytest
import torch
from command_line import abscert, refused, train

from abscert_plugin.api.training import train as train_in_python
from abscert_plugin.artifact.metadata import TRAINING, training_facts
from abscert_plugin.files import read_json
from abscert_plugin.training.checkpoint import read_checkpoint
from abscert_plugin.training.initial import Initial

CELLS = ("--cells", 3)
NETWORK = "fc-3-code"
STILL = ("train", "--data", "digits", "--epochs", 1, "--learning-rate", "1e-30", "--network", NETWORK, *CELLS)


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("initial") / "former", *CELLS, "--network", NETWORK)


def begun(out: Path, *options: object) -> Path:
    """Return the folder of a training of an epoch in which weights do not move."""
    abscert(*STILL, *options, "--out", out)
    return out


def same_weights(folder: Path, other: Path) -> bool:
    left, right = (read_checkpoint(place).best for place in (folder, other))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_begins_with_the_best_weights_of_a_folder_or_of_either_onnx_file(former: Path, tmp_path: Path) -> None:
    plain = begun(tmp_path / "plain")
    assert not same_weights(plain, former)
    assert "initial_sha256" not in read_json(plain / "run.json")["configuration"]
    said = set()
    for name in ("", "deploy.onnx", "abstract.onnx"):
        folder = begun(tmp_path / f"of-{name}", "--initial", former / name)
        assert same_weights(folder, former)
        said.add(read_json(folder / "run.json")["configuration"]["initial_sha256"])
    assert len(said) == 1


def test_every_file_says_how_long_its_first_weights_were_trained(former: Path, tmp_path: Path) -> None:
    best = read_checkpoint(former).best_epoch
    second = begun(tmp_path / "second", "--initial", former)
    third = begun(tmp_path / "third", "--initial", second / "deploy.onnx")
    fourth = begun(tmp_path / "fourth", "--initial", third)
    for folder, before in ((former, 0), (second, best), (third, best + 1), (fourth, best + 2)):
        assert read_json(folder / "run.json")["configuration"].get("initial_epochs", 0) == before
        said = training_facts(onnx.load_model(str(folder / "deploy.onnx")))
        assert said.get("initial_epochs", "0") == str(before)
    abscert("card", second, "--out", tmp_path / "card")
    card = "".join(path.read_text() for path in (tmp_path / "card").glob("*.md"))
    assert f"| epochs of its first weights | {best} |" in card


@pytest.mark.parametrize("said", ["", "-3", "1e9", "9" * 30, "²"])
def test_epochs_that_are_no_number_count_for_nothing(former: Path, tmp_path: Path, said: str) -> None:
    model = onnx.load_model(str(former / "deploy.onnx"))
    entry = next(one for one in model.metadata_props if one.key == TRAINING)
    entry.value = f"{entry.value};initial_epochs={said}"
    onnx.save_model(model, str(tmp_path / "said.onnx"))
    assert Initial.read(tmp_path / "said.onnx").epochs == read_checkpoint(former).best_epoch


def test_in_python_too(former: Path, tmp_path: Path) -> None:
    trained = train_in_python(
        NETWORK, "digits", cells=3, epochs=1, learning_rate=1e-30, initial=former, out=tmp_path / "out"
    )
    assert same_weights(trained.folder, former)


def test_it_is_resumed_with_the_same_weights_alone(former: Path, tmp_path: Path) -> None:
    begun(tmp_path / "out", "--initial", former)
    begun(tmp_path / "out", "--initial", former / "deploy.onnx", "--resume")
    line = refused(*STILL, "--out", tmp_path / "out", "--resume")
    assert "initial_sha256" in line


def test_weights_of_another_network_are_refused_in_one_line(former: Path, tmp_path: Path) -> None:
    options = ("train", "--data", "digits", *CELLS, "--epochs", 1, "--out", tmp_path / "out", "--initial")
    line = refused(*options, former, "--network", "fc-5-code")
    assert "has weights of another network: expected 3.weight of shape" in line
    assert "name its network with --network" in line
    line = refused(*options, former / "deploy.onnx", "--network", "dm-small")
    assert "has weights of another network: expected" in line
    assert "no checkpoint.json there" in refused(*options, tmp_path, "--network", NETWORK)
    (tmp_path / "text.onnx").write_text("no model")
    assert "is not an ONNX model" in refused(*options, tmp_path / "text.onnx", "--network", NETWORK)
    model = onnx.load_model(str(former / "deploy.onnx"))
    next(one for one in model.graph.initializer if one.name == "1.weight").raw_data += b"\0"
    onnx.save_model(model, str(tmp_path / "longer.onnx"))
    assert "cannot read its tensors" in refused(*options, tmp_path / "longer.onnx", "--network", NETWORK)
    assert "is not there" in refused(*options, tmp_path / "none.onnx", "--network", NETWORK)
    assert not (tmp_path / "out").exists()
