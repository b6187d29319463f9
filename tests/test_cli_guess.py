"""What is left out is taken from the model or the certificate, folders are looked into, and a line says so."""

import json
from pathlib import Path

import pytest
from command_line import abscert, linear_model, refused, train

from abscert_plugin.api.guess import ToldByModel, asked_of
from abscert_plugin.claim import Claim, Radius, RadiusScale
from abscert_plugin.errors import ConfigError

BALL = ToldByModel("mnist", Claim.BALL, Radius.parse("8/255"), has_cells=True)
CELL = ToldByModel("digits", Claim.CELL, None, has_cells=True)
PLAIN = ToldByModel("digits", Claim.BALL, Radius.parse("0.2", RadiusScale.TRAINING))
ABSTRACT = ToldByModel("mnist", Claim.BALL, Radius.parse("0.1"), has_cells=True, is_abstract=True)
OTHER = ToldByModel()
SCALES = {"pixel": RadiusScale.PIXEL, "training": RadiusScale.TRAINING}


@pytest.mark.parametrize(
    ("told", "given", "expected", "words"),
    [
        (BALL, (None, None, None), ("mnist", "ball", "8/255", "pixel"), "claim ball, the radius 8/255 on the pixel"),
        (BALL, ("digits", "cell", None), ("digits", "cell", None, "pixel"), ""),
        (BALL, ("digits", None, "0.3"), ("digits", "ball", "0.3", "pixel"), ""),
        (BALL, ("digits", "ball", None), ("digits", "ball", "8/255", "pixel"), "the radius 8/255 on the pixel scale"),
        (CELL, (None, None, None), ("digits", "cell", None, "pixel"), "the data set digits, the claim cell"),
        (CELL, (None, "ball", "0.1"), ("digits", "ball", "0.1", "pixel"), "taking the data set digits, as"),
        (PLAIN, ("digits", None, None), ("digits", "ball", "0.2", "training"), "0.2 on the training scale"),
        (ABSTRACT, ("mnist", None, None), ("mnist", "cell", None, "pixel"), "the claim cell"),
        (OTHER, (None, None, "0.1"), ("digits", "ball", "0.1", "pixel"), "names no data set; taking digits"),
    ],
)
def test_what_is_left_out_is_what_the_model_says(
    told: ToldByModel,
    given: tuple[str | None, str | None, str | None],
    expected: tuple[str, str, str | None, str],
    words: str,
) -> None:
    asked = asked_of(Path("m.onnx"), told, *given, RadiusScale.PIXEL)
    assert (asked.data, str(asked.claim), asked.radius, str(asked.scale)) == expected
    assert words in asked.note
    assert bool(asked.note) == bool(words)


@pytest.mark.parametrize(
    ("told", "given", "scale", "words"),
    [
        (BALL, ("cell", "0.1"), "pixel", "--claim ball alone"),
        (BALL, ("ball", None), "training", "expected a --radius with --radius-scale training"),
        (CELL, ("ball", None), "pixel", "expected --radius for the claim ball: m.onnx does not say"),
        (OTHER, (None, None), "pixel", "expected --radius for the claim ball: m.onnx does not say"),
    ],
)
def test_what_nothing_says_is_asked_for(
    told: ToldByModel, given: tuple[str | None, str | None], scale: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        asked_of(Path("m.onnx"), told, "digits", *given, SCALES[scale])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the folder of a training for a ball, which has seen next to nothing."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "ball", "--method", "reachable", "--radius", "0.05", "--cells", 3)
    return folder


def test_a_training_s_folder_is_all_that_verify_show_and_check_need(runs: Path, tmp_path: Path) -> None:
    certificate = runs / "ball.json"
    told = abscert(
        "verify", runs, "--limit", 4, "--timeout", 1, "--bound", "ibp", "--certificate", certificate, "--json"
    )
    assert (told.json["claim"], told.json["radius"], told.json["radius_scale"]) == ("ball", "1/20", "pixel")
    assert f"taking {runs / 'ball' / 'deploy.onnx'}" in told.err
    assert (
        "taking the data set digits, the claim ball, the radius 0.05 on the pixel scale, as the model says" in told.err
    )
    assert "verify-deploy-digits-ball-0.05-pixel-float-ibp/records.jsonl" in abscert("show", runs / "ball").err
    checked = abscert("check", runs, "--json")
    assert checked.json["holds"]
    assert f"the model is {runs / 'ball' / 'deploy.onnx'}, as the certificate says" in checked.err
    guard = tmp_path / "guard.onnx"
    abscert("guard", runs / "ball", "--radius", "0.05", "--out", guard, "--json")
    assert guard.is_file()
    words = ("configuration.timeout_seconds: there 1.0, now 0.5", "data.images (--limit): there 4, now 3")
    other = refused("verify", runs / "ball", "--limit", 3, "--timeout", 0.5, "--bound", "ibp")
    assert all(word in other for word in words)
    assert "versions" not in other


def test_a_folder_that_does_not_say_which_file_is_meant_is_refused(runs: Path, tmp_path: Path) -> None:
    assert "expected deploy.onnx, or one ONNX file in the folder" in refused("verify", tmp_path, "--radius", "0.1")
    for name in ("a.onnx", "b.onnx"):
        linear_model(tmp_path / name)
    assert "a.onnx" in refused("guard", tmp_path, "--radius", "0.1", "--out", tmp_path / "guard.onnx")
    assert "found none; name the file" in refused("show", tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "checkpoint.json").write_text("{}")
    line = refused("verify", tmp_path / "begun", "--radius", "0.1")
    assert line.endswith(f"or write the best epoch's files by `abscert export {tmp_path / 'begun'}`")
    assert "found none; name the file" in refused("check", tmp_path)
    lonely = tmp_path / "c.json"
    certificate = runs / "cell.json"
    abscert("verify", runs / "ball", "--claim", "cell", "--limit", 2, "--certificate", certificate, "--json")
    lonely.write_text(certificate.read_text())
    assert "expected the file 'deploy.onnx' that" in refused("check", lonely)
    changed = json.loads(certificate.read_text())
    changed["model"]["path"] = "../ball/deploy.onnx"
    certificate.write_text(json.dumps(changed))
    assert "deploy.onnx" in abscert("check", certificate, "--json", status=1).err


def test_a_plain_model_of_others_is_asked_about_a_ball(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "model.onnx")
    assert "does not say for which it was trained" in refused("verify", model, "--data", "digits")
    told = abscert("verify", model, "--radius", "0.01", "--limit", 3, "--json")
    assert told.json["claim"] == "ball"


def test_resuming_nothing_says_so(tmp_path: Path) -> None:
    options = ("--data", "digits", "--network", "fc-3", "--epochs", 1, "--batch-size", 512, "--out", tmp_path / "run")
    assert "nothing to resume in" in abscert("train", *options, "--resume", "--json").err
    assert "nothing to resume" not in abscert("train", *options, "--resume", "--json").err
