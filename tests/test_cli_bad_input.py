"""Bad input on the command line: one line that says what to change, exit status 2, and nothing is touched."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import FAST, abscert, contents, linear_model, refused, train
from tiny_networks import export_tiny, tiny_network

from abscert_plugin import blackbox
from abscert_plugin.records import RUN


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("cli") / "run", "--cells", 4)


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSCERT_DATA", raising=False)


def assert_untouched(folder: Path, arguments: Sequence[object], *words: str) -> None:
    """Assert that a command is refused in one line with these words, and changes no file."""
    before = contents(folder)
    line = refused(*arguments)
    for word in words:
        assert word in line
    assert contents(folder) == before


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--nothing"], ["No such option", "--nothing", "--help"]),
        (["nothing"], ["No such command", "nothing", "--help"]),
        (["train"], ["Missing option", "--out"]),
        (["verify"], ["Missing argument"]),
        (["show"], ["Missing argument"]),
        (["tune", "--out", "OUT"], ["Missing option", "--radius"]),
        (["train", "--out", "OUT", "extra"], ["unexpected extra argument", "extra"]),
        (["train", "--out", "OUT", "--cells", "four"], ["--cells", "whole number"]),
        (["train", "--out", "OUT", "--cells", "4.5"], ["--cells", "whole number"]),
        (["train", "--out", "OUT", "--cells", "65536"], ["cells from 1 to 65,535", "65536"]),
        (["train", "--out", "OUT", "--cells=-1"], ["cells from 1 to 65,535", "-1"]),
        (["wrap", "MODEL", "--out", "OUT", "--cells", "0"], ["cells from 1 to 65,535", "got 0"]),
        (["wrap", "MODEL", "--out", "OUT", "--cells", "65536"], ["cells from 1 to 65,535", "65536"]),
        (["train", "--out", "OUT", "--cells", "10", "--granularity", "0.2"], ["--cells or --granularity", "both"]),
        (["wrap", "MODEL", "--out", "OUT", "--cells", "9", "--granularity", "0.2"], ["--cells or --granularity"]),
        # 2 / 0.3 lies between 6 and 7
        (["train", "--out", "OUT", "--granularity", "0.3"], ["0.333", "--cells 6", "0.285", "--cells 7"]),
        (["wrap", "MODEL", "--out", "OUT", "--granularity", "0.222"], ["0.2222", "--cells 9", "0.2 (--cells 10)"]),
        (["train", "--out", "OUT", "--granularity", "0"], ["0 < d <= 2"]),
        (["train", "--out", "OUT", "--granularity", "nan"], ["0 < d <= 2", "nan"]),
        (["train", "--out", "OUT", "--network", "resnet"], ["network", "dm-small", "resnet"]),
        (["train", "--out", "OUT", "--activation", "gelu"], ["--activation", "relu, sigmoid, tanh", "gelu"]),
        (["train", "--out", "OUT", "--data", "svhn"], ["a data set: one of digits, mnist", "svhn"]),
        (["train", "--out", "OUT", "--device", "tpu"], ["--device", "tpu"]),
        (["train", "--out", "OUT", "--precision", "int8"], ["--precision", "bfloat16", "int8"]),
        (["train", "--out", "OUT", "--augmentation", "mixup"], ["--augmentation", "cifar", "mixup"]),
        (["train", "--out", "OUT", "--epochs", "0"], ["epochs", "at least 1"]),
        (["train", "--out", "OUT", "--batch-size", "0"], ["batch_size", "at least 1"]),
        (["train", "--out", "OUT", "--learning-rate", "nan"], ["learning rate above 0", "nan"]),
        (["train", "--out", "OUT", "--seed", "-1"], ["seed", "-1"]),
        (["train", "--out", "OUT", "--image-size", "8"], ["image size with --data folder or imagenet only"]),
        (["verify", "DEPLOY", "--data", "svhn"], ["a data set: one of digits, mnist", "svhn"]),
        (["verify", "DEPLOY", "--claim", "sphere"], ["--claim", "sphere"]),
        (["verify", "DEPLOY", "--provider", "tpu"], ["--provider", "tpu"]),
        (["verify", "DEPLOY", "--limit", "0"], ["limit of at least 1"]),
        (["verify", "DEPLOY", "--batch-size", "0"], ["batch size of at least 1"]),
        (["wrap", "MODEL", "--out", "OUT", "--layout", "chw"], ["--layout", "nchw, nhwc, flat", "chw"]),
        (["wrap", "MODEL", "--out", "OUT", "--mean", "a"], ["--mean", "numbers"]),
        (["wrap", "MODEL", "--out", "OUT", "--std", "0"], ["std", "0"]),
        (["wrap", "MODEL", "--out", "OUT", "--input-range", "0"], ["2 numbers in --input-range"]),
        (["wrap", "MODEL", "--out", "OUT", "--image-shape", "8,8"], ["--image-shape as C,H,W"]),
        (["wrap", "MODEL", "--out", "OUT", "--output", "z"], ["'z'", "y"]),
        (["show", "A", "B", "C", "--html", "OUT"], ["one records file with --html", "3"]),
        (["data", "svhn"], ["a data set: one of digits, mnist", "svhn"]),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("train", "tune", "verify", "wrap", "show", "data") else "",
)
def test_options_without_meaning_are_refused(
    trained: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    names = {"OUT": tmp_path / "out", "DEPLOY": trained / "deploy.onnx", "MODEL": linear_model(tmp_path / "model.onnx")}
    assert_untouched(tmp_path, [names.get(part, part) for part in arguments], *words)
    assert not (tmp_path / "out").exists() or not contents(tmp_path / "out")


@pytest.mark.parametrize("radius", ["-0.1", "nan", "inf", "-1/255", "1/0", "0.1x", "", "8/255/2"])
@pytest.mark.parametrize("option", ["--radius", "--radius="])
def test_radii_without_meaning_are_refused(tmp_path: Path, radius: str, option: str) -> None:
    given = [option + radius] if option.endswith("=") else [option, radius]
    assert_untouched(tmp_path, ["tune", "--out", tmp_path / "out", *given], "radius")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--radius", "0"], ["radius above 0"]),
        (["--radius", "0.3"], ["from 1 to 1", "got 2"]),  # cells of width 1 are narrower than 2 epsilon
        (["--radius", "0.6", "--radius-scale", "training"], ["from 1 to 1", "got 2"]),
        (["--radius", "0.1", "--radius-scale", "percent"], ["--radius-scale", "percent"]),
        (["--radius", "0.1", "--coarsest", "6"], ["from 1 to 5", "got 6"]),
        (["--radius", "0.1", "--coarsest", "0"], ["from 1 to 5", "got 0"]),
        (["--radius", "0.1", "--least-step", "0"], ["least step above 0"]),
        (["--radius", "0.1", "--steps", "0"], ["at least 1 step"]),
    ],
)
def test_tunings_without_a_step_are_refused(tmp_path: Path, options: list[str], words: list[str]) -> None:
    assert_untouched(tmp_path, ["tune", "--out", tmp_path / "out", *options], *words)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_named_with_those_that_are(
    trained: Path, tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blackbox, "_has_cuda", lambda: False)
    arguments = ["verify", trained / "deploy.onnx", "--provider", provider, "--out", tmp_path / "out"]
    assert_untouched(tmp_path, arguments, provider, "--provider cpu or auto")


def test_a_device_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = refused("train", "--device", "cuda", "--out", tmp_path / "out")
    assert "--device cpu or auto" in line
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--edges", "sparse", "--radius", "0.1", "--cells", "200"], "expected fewer than 200 cells"),
        (["--edges", "quantile", "--cells", "17"], "too few values for 17 cells"),
        (["--data", "mnist"], "--data-dir"),
        (["--network", "alexnet"], "AlexNet"),
    ],
)
def test_a_training_that_cannot_start_leaves_no_folder(tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in refused("train", *arguments, "--out", tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_stands_for_one_of_the_method_is_called_as_it_was_given(tmp_path: Path) -> None:
    arguments = ("train", "--method", "reachable", "--radius", "0.1", "--out", tmp_path / "out")
    assert "expected --robust-loss: one of interval, mtl-ibp, sabr; got 'hinge'" in refused(
        *arguments, "--robust-loss", "hinge"
    )
    assert "expected loss: one of interval, mtl-ibp, sabr; got 'hinge'" in refused(*arguments, "--set", "loss=hinge")


def test_an_error_is_one_line_of_moderate_length_that_moves_no_cursor(tmp_path: Path) -> None:
    line = refused("export", tmp_path / "\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}\udcff")
    assert r"\x1b[31m\u202e\udcff, got no checkpoint.json there" in line
    line = refused("train", "--out", tmp_path / "out", "--set", f"{'x' * 5000}=1")
    assert len(line) < 900
    assert line.startswith("abstrain has no option 'xxx")
    assert line.endswith("it has no options")


def test_a_name_that_utf_8_cannot_hold_is_printed(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "\udcff"  # the file system's byte 0xff
    result = abscert("verify", trained / "deploy.onnx", "--limit", 5, "--out", folder)
    assert r"\udcff/records.jsonl" in result.out


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "folder"])
@pytest.mark.parametrize("command", ["data", "train", "verify"])
def test_missing_data_files_are_named_with_where_to_put_them(
    trained: Path, tmp_path: Path, name: str, command: str
) -> None:
    before: dict[str, list[Any]] = {
        "data": ["data", name],
        "train": ["train", "--data", name, "--out", tmp_path / "out"],
        "verify": ["verify", trained / "deploy.onnx", "--data", name, "--out", tmp_path / "out"],
    }
    assert_untouched(tmp_path, before[command], "--data-dir", "$ABSCERT_DATA")
    place = tmp_path / "nothing"
    assert_untouched(tmp_path, [*before[command], "--data-dir", place], "--data-dir", str(place))


def test_data_that_do_not_fit_the_model_are_refused_before_the_first_row(trained: Path, tmp_path: Path) -> None:
    small = export_tiny(tiny_network(0), 4, tmp_path).deploy  # 2 x 2 pixels
    arguments = ["verify", small, "--data", "digits", "--out", tmp_path / "out"]
    assert_untouched(tmp_path, arguments, "shape (1, 2, 2)", "(1, 8, 8)", "other --data")
    wrapped = abscert(
        "wrap", linear_model(tmp_path / "five.onnx", classes=5), "--cells", 4, "--out", tmp_path / "five", "--json"
    ).json
    arguments = ["verify", wrapped["deploy"], "--data", "digits", "--out", tmp_path / "out"]
    assert_untouched(tmp_path, arguments, "labels from 0 to 4", "other --data")


# --- ONNX files -------------------------------------------------------------------------------------------------------


def without_key(path: Path, key: str) -> None:
    model = onnx.load_model(str(path))
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)
    onnx.save_model(model, str(path))


def with_key(path: Path, key: str, value: str) -> None:
    model = onnx.load_model(str(path))
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {key: value})
    onnx.save_model(model, str(path))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_external_location(path: Path, location: str) -> None:
    model = onnx.load_model(str(path))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.HasField("raw_data"))
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_bytes(b"not a model\n" * 50), "not an ONNX model"),
    (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not an ONNX model"),
    (truncated, "cut short"),
    (half, "cut short"),
    (Path.unlink, "is not there"),
    (folder_instead, "expected deploy.onnx, or one ONNX file in the folder"),
    (lambda path: with_external_location(path, "weights\0.bin"), "names no file"),
    (lambda path: without_key(path, "abscert.cells"), "lacks the metadata abscert.cells"),
    (lambda path: without_key(path, "abscert.classes"), "lacks the metadata abscert.classes"),
    (lambda path: with_key(path, "abscert.cells", "65536"), "cells from 1 to 65,535"),
    (lambda path: with_key(path, "abscert.cells", "5"), "not the abstraction"),
    (lambda path: with_key(path, "abscert.domain", "0,1"), "abscert.domain"),
    (lambda path: with_key(path, "abscert.image_shape", "1,8"), "metadata are not valid"),
    (lambda path: with_key(path, "abscert.image_shape", "1,16,4"), "is 1,16,4, but 'image' has the sizes [1, 8, 8]"),
    (lambda path: with_key(path, "abscert.image_shape", "999999,999999,999999"), "has the sizes [1, 8, 8]"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_model_is_refused(trained: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    model = tmp_path / "deploy.onnx"
    model.write_bytes((trained / "deploy.onnx").read_bytes())
    damage(model)
    arguments = ["verify", model, "--data", "digits", "--out", tmp_path / "out"]
    assert_untouched(tmp_path, arguments, str(model), message)


@pytest.mark.parametrize(("damage", "message"), DAMAGES[:8])
def test_a_damaged_model_is_not_wrapped(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    model = linear_model(tmp_path / "model.onnx")
    damage(model)
    assert_untouched(tmp_path, ["wrap", model, "--out", tmp_path / "out"], str(model), message)


def test_a_model_of_another_tool_is_pointed_to_wrap_and_one_of_ours_is_not_wrapped(
    trained: Path, tmp_path: Path
) -> None:
    assert_untouched(tmp_path, ["verify", linear_model(tmp_path / "model.onnx")], "abscert wrap")
    assert_untouched(
        tmp_path, ["wrap", trained / "deploy.onnx", "--out", tmp_path / "out"], "under abstraction already"
    )


# --- folders of runs --------------------------------------------------------------------------------------------------


def test_a_folder_without_a_training_cannot_be_exported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert_untouched(tmp_path, ["export", place], str(place), "abscert train")


def test_a_tuning_of_another_kind_is_not_gone_on_with(tmp_path: Path) -> None:
    arguments = ["tune", *FAST, "--steps", 1, "--radius", "0.2", "--out", tmp_path / "out", "--resume"]
    abscert(*arguments)
    path = tmp_path / "out" / "tune.json"
    stored = json.loads(path.read_text())
    for change in ({"validation_error": "low"}, {"cells": None}, {"seconds": [1]}):
        path.write_text(json.dumps({**stored, "steps": [{**stored["steps"][0], **change}]}))
        assert_untouched(tmp_path, arguments, "is not a tuning's file")


def test_a_training_is_not_overwritten_nor_gone_on_with_under_other_options(trained: Path) -> None:
    assert_untouched(trained, ["train", *FAST, "--cells", 4, "--out", trained], "add --resume")
    other = ["train", *FAST, "--cells", 4, "--seed", 9, "--out", trained, "--resume"]
    assert_untouched(trained, other, "training.seed: there 0, now 9")


def test_a_tuning_is_not_overwritten_nor_gone_on_with_under_other_options(tmp_path: Path) -> None:
    arguments = ["tune", *FAST, "--steps", 1, "--out", tmp_path / "out", "--radius"]
    abscert(*arguments, "0.2")
    assert_untouched(tmp_path, [*arguments, "0.2"], "add --resume")
    assert_untouched(tmp_path, [*arguments, "0.1", "--resume"], "tuning.radius: there 0.2, now 0.1")


def test_what_is_no_record_cannot_be_shown(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "text.jsonl").write_text("no record\n")
    for name, word in (("none", "No such file"), ("empty.jsonl", "at least one record"), ("text.jsonl", "line 1")):
        assert_untouched(tmp_path, ["show", tmp_path / name, "--html", tmp_path / "page.html"], word)
    (tmp_path / "empty").mkdir()
    assert_untouched(tmp_path, ["show", tmp_path / "empty"], "expected records.jsonl, or one folder with it,")


@pytest.mark.parametrize(
    "change",
    [
        {"data": "text"},
        {"data": [1]},
        {"model": 5},
        {"versions": 3},
        {"seconds": "long"},
        {"configuration": None},
        {"device": 3},
        {"provider": [1]},
        {"schema": 2},
        {"model": {"cells": 0}},
    ],
    ids=str,
)
def test_a_run_json_of_another_kind_is_refused(trained: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    verify = ["verify", trained / "deploy.onnx", "--limit", 30, "--out", tmp_path / "run"]
    abscert(*verify)
    stored = json.loads((tmp_path / "run" / RUN).read_text())
    (tmp_path / "run" / RUN).write_text(json.dumps({**stored, **change}))
    # the tables that need no run.json may have been printed
    before = contents(tmp_path)
    result = abscert("show", tmp_path / "run", "--html", tmp_path / "page.html", status=2)
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    refused(*verify)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "--out"),
        ("tune", "--out"),
        ("export", "--out"),
        ("wrap", "--out"),
        ("verify", "--out"),
        ("demo", "--out"),
        ("show", "--html"),
    ],
)
def test_a_place_below_a_file_cannot_be_written(trained: Path, tmp_path: Path, command: str, option: str) -> None:
    (tmp_path / "file").write_text("kept")
    abscert("verify", trained / "deploy.onnx", "--limit", 30, "--out", tmp_path / "records")
    before: dict[str, list[Any]] = {
        "train": [],
        "tune": ["--radius", "0.2"],
        "export": [trained],
        "wrap": [linear_model(tmp_path / "model.onnx")],
        "verify": [trained / "deploy.onnx"],
        "demo": [],
        "show": [tmp_path / "records"],
    }
    kept, name = contents(tmp_path), "below.html" if command == "show" else "below"
    result = abscert(command, *before[command], option, tmp_path / "file" / name, status=2)
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("error: cannot ")
    assert str(tmp_path / "file" / name) in result.err
    assert "choose another" in result.err
    assert contents(tmp_path) == kept
