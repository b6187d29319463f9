"""`abscert baseline`: what is trained is certified, replayed and checked, resumed alike, and bad input is one line."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import FAST, abscert, contents, refused
from onnx import numpy_helper
from tiny_networks import run_onnx

from abscert_plugin.cli.progress import ProgressObserver
from abscert_plugin.data import Split, load_data
from abscert_plugin.records import RECORDS, read_records
from abscert_plugin.training.checkpoint import Checkpoint, read_checkpoint
from abscert_plugin.training.methods import METHODS

pytestmark = pytest.mark.slow  # the file as a whole

LIMIT = 16
DIGITS = ("--data", "digits")
RADIUS = "0.02"
BALL = (*DIGITS, "--radius", RADIUS, "--limit", LIMIT, "--timeout", "0.5")
TRAININGS: dict[str, tuple[str, ...]] = {
    "ibp": (),
    "plain": (),
    "reachable": ("--cells", "2"),
}
CLAIMS = {"ibp": "ball", "plain": "clean", "reachable": "ball"}


def train(folder: Path, method: str, *options: object, status: int = 0) -> dict[str, Any]:
    arguments = ("--out", folder, "--method", method, *DIGITS, *FAST, "--radius", RADIUS, *options, "--json")
    return abscert("baseline", "train", *arguments, status=status).json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, dict[str, Any]]]:
    """Return the folder and the facts of one training by each of three methods."""
    folder = tmp_path_factory.mktemp("trained")
    return {name: (folder / name, train(folder / name, name, *options)) for name, options in TRAININGS.items()}


@pytest.fixture(scope="module")
def certified(
    trained: Mapping[str, tuple[Path, dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, tuple[Path, dict[str, Any]]]:
    """Return the folder of records and the facts of a certification of each training, with a certificate beside it."""
    found = {}
    for name, (folder, _) in trained.items():
        out = tmp_path_factory.mktemp(name) / "out"
        options = ("--out", out, "--certificate", out.with_name("c.json"), "--json")
        found[name] = (out, abscert("baseline", "certify", folder, *BALL, *options).json)
    return found


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TRAININGS)
def test_a_training_tells_its_facts(trained: Mapping[str, tuple[Path, dict[str, Any]]], method: str) -> None:
    folder, facts = trained[method]
    has_cells = method == "reachable"
    assert (facts["method"], facts["claim"], facts["network"]) == (method, CLAIMS[method], "fc-3")
    assert facts["cells"] == (2 if has_cells else None)
    assert (facts["epochs"], facts["best_epoch"]) == (1, 1)
    assert 0 <= facts[f"validation_{CLAIMS[method]}_error"] <= 1
    assert facts["deploy"] == str(folder / "deploy.onnx")
    assert ("abstract" in facts) == has_cells == (folder / "abstract.onnx").exists()
    info = json.loads((folder / "run.json").read_text())
    assert info["configuration"]["method"] == method
    assert info["configuration"]["training"]["gradient_clip"] == 10
    assert info["configuration"]["training"]["patience"] == 0
    properties = {entry.key: entry.value for entry in onnx.load_model(facts["deploy"]).metadata_props}
    assert ("abscert.cells" in properties) == has_cells
    said = dict(pair.split("=") for pair in properties["abscert.training"].split(";"))
    assert (said["method"], said["claim"]) == (method, CLAIMS[method])
    assert said["radius"] == ("none" if method == "plain" else "1/50 (pixel scale)")


def test_the_options_reach_the_method(tmp_path: Path) -> None:
    options = ("--set", "share=0.25", "--set", "attack_steps=1", "--radius-scale", "training")
    train(tmp_path / "run", "sabr", *options)
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]["method_options"]
    assert (stored["share"], stored["attack_steps"], stored["radius_scale"]) == (0.25, 1, "training")
    assert abscert("baseline", "train", "--out", tmp_path / "run", "--method", "sabr", *DIGITS, *FAST,
                   "--radius", RADIUS, *options, "--resume").out.count("deploy.onnx") == 1  # fmt: skip


def test_a_radius_of_0_has_a_meaning(tmp_path: Path) -> None:
    facts = abscert(
        "baseline", "train", "--out", tmp_path, "--method", "ibp", *DIGITS, *FAST, "--radius", "0", "--json"
    )
    assert facts.json["method"] == "ibp"
    found = abscert("baseline", "certify", tmp_path, *DIGITS, "--radius", "0", "--limit", LIMIT, "--json").json
    assert found["unknown"] == 0
    images, labels = some_images()
    predictions = run_onnx(tmp_path / "deploy.onnx", images)[0].argmax(axis=1)
    assert found["certified"] == (predictions == labels).sum()


# --- resuming ---------------------------------------------------------------------------------------------------------


def interrupted(monkeypatch: pytest.MonkeyPatch, at_step: int) -> Callable[[], None]:
    """Interrupt trainings at a step as Ctrl-C does, until the returned function is called."""
    on_step, steps = ProgressObserver.on_step, []

    def stop(self: ProgressObserver, images: int, loss: float | None) -> None:
        on_step(self, images, loss)
        steps.append(images)
        if len(steps) == at_step:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressObserver, "on_step", stop)
    return monkeypatch.undo


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    return first.best.keys() == second.best.keys() and all(
        np.array_equal(first.best[name].numpy(), second.best[name].numpy()) for name in first.best
    )


@pytest.mark.parametrize(("method", "at_step"), [("ibp", 5), ("pgd", 5)])  # of 3 steps an epoch
def test_a_resumed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, at_step: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = (*DIGITS, *FAST[:2], "--epochs", "3", "--batch-size", "512", "--device", "cpu", "--radius", RADIUS)
    arguments = ("--method", method, *options)
    abscert("baseline", "train", "--out", whole, *arguments)
    undo = interrupted(monkeypatch, at_step)
    result = abscert("baseline", "train", "--out", broken, *arguments, status=130)
    undo()
    assert "add --resume to go on" in result.err
    assert not (broken / "deploy.onnx").exists()
    abscert("baseline", "train", "--out", broken, *arguments, "--resume")
    first, second = read_checkpoint(whole), read_checkpoint(broken)
    assert (first.finished, second.finished) == (True, True)
    assert same_weights(first, second)
    assert [row["loss"] for row in first.history] == [row["loss"] for row in second.history]
    assert len({row["loss"] for row in first.history}) == 3  # every epoch moves it
    images, _ = some_images()
    assert np.array_equal(run_onnx(whole / "deploy.onnx", images)[0], run_onnx(broken / "deploy.onnx", images)[0])


def test_another_method_does_not_go_on_with_a_training(
    trained: Mapping[str, tuple[Path, dict[str, Any]]],
) -> None:
    folder, _ = trained["ibp"]
    before = contents(folder)
    common = ("baseline", "train", "--out", folder, *DIGITS, *FAST, "--radius", RADIUS)
    assert "method: there 'ibp', now 'plain'" in refused(*common, "--method", "plain", "--resume")
    assert "ramp" in refused(*common, "--method", "ibp", "--set", "ramp=0.25", "--resume")
    assert "already holds a training; add --resume" in refused(*common, "--method", "ibp")
    assert contents(folder) == before


# --- certifying -------------------------------------------------------------------------------------------------------


def some_images() -> tuple[np.ndarray, np.ndarray]:
    data = load_data("digits", Split.TEST, None).first(LIMIT)
    (batch,) = data.batches(LIMIT)
    return data.pixels(batch.images), batch.labels


@pytest.mark.parametrize("method", TRAININGS)
def test_rows_are_of_the_claim_ball_and_their_counterexamples_replay(
    trained: Mapping[str, tuple[Path, dict[str, Any]]],
    certified: Mapping[str, tuple[Path, dict[str, Any]]],
    method: str,
) -> None:
    deploy, (out, facts) = trained[method][0] / "deploy.onnx", certified[method]
    records = read_records(out / RECORDS)
    images, labels = some_images()
    assert facts["claim"] == "ball"
    assert facts["images"] == len(records) == LIMIT
    predictions = run_onnx(deploy, images)[0].argmax(axis=1)
    for row, center, label, prediction in zip(records, images, labels, predictions, strict=True):
        assert (row.claim, row.radius, row.inputs, row.label) == ("ball", 0.02, "float", label)
        assert row.prediction == prediction
        assert (row.reachable_log2 is None) == (method != "reachable")
        assert (row.counterexample is not None) == (row.verdict == "falsified")
        assert row.verdict != "certified" or prediction == label
        if row.counterexample is not None:
            image = center if row.counterexample == "itself" else np.load(out / row.counterexample)
            assert (np.abs(image.astype(np.float64) - center.astype(np.float64)) <= 0.02).all()
            assert ((image >= 0) & (image <= 1)).all()
            assert run_onnx(deploy, image[None])[0].argmax() != label
    assert json.loads((out / "run.json").read_text())["configuration"]["white_box"] is True


def test_the_trainings_give_certified_and_falsified_rows_by_attack_and_bounds(
    certified: Mapping[str, tuple[Path, dict[str, Any]]],
) -> None:
    """What the test before rests on."""
    rows = [row for out, _ in certified.values() for row in read_records(out / RECORDS)]
    assert {"certified", "falsified"} <= {row.verdict for row in rows}
    assert any(row.counterexample not in (None, "itself") for row in rows)
    assert any(row.verdict == "certified" and row.method != "forward" for row in rows)


def test_the_file_alone_gives_the_verdicts_of_the_folder(
    trained: Mapping[str, tuple[Path, dict[str, Any]]],
    certified: Mapping[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    for name in ("plain", "reachable"):
        folder, out = trained[name][0], tmp_path / name
        abscert("baseline", "certify", folder / "deploy.onnx", *BALL, "--out", out, "--json")
        alone, whole = read_records(out / RECORDS), read_records(certified[name][0] / RECORDS)
        for first, second in zip(alone, whole, strict=True):
            assert (first.index, first.label, first.prediction) == (second.index, second.label, second.prediction)
            assert {first.verdict, second.verdict} != {"certified", "falsified"}
        assert sum(a.verdict == b.verdict for a, b in zip(alone, whole, strict=True)) > LIMIT / 2


@pytest.mark.parametrize("method", TRAININGS)
def test_a_certificate_holds(
    trained: Mapping[str, tuple[Path, dict[str, Any]]],
    certified: Mapping[str, tuple[Path, dict[str, Any]]],
    method: str,
) -> None:
    deploy, certificate = trained[method][0] / "deploy.onnx", certified[method][0].with_name("c.json")
    checked = abscert("check", certificate, deploy, *DIGITS, "--all", "--json").json
    assert checked["holds"] is True
    assert (checked["claim"], checked["rows"]) == ("ball", LIMIT)
    assert checked["decided_anew"] == checked["certified"]


def failed(certificate: Path, deploy: Path) -> set[str]:
    checks = abscert("check", certificate, deploy, *DIGITS, "--all", "--json", status=1).json["checks"]
    return {check["name"] for check in checks if not check["holds"]}


@pytest.mark.parametrize("method", ["plain", "ibp"])
def test_a_certificate_fails_after_the_file_was_changed(
    trained: Mapping[str, tuple[Path, dict[str, Any]]],
    certified: Mapping[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    method: str,
) -> None:
    model = onnx.load_model(str(trained[method][0] / "deploy.onnx"))
    bias = next(tensor for tensor in model.graph.initializer if tensor.dims == [10])
    values = numpy_helper.to_array(bias).copy()
    values[0] = np.nextafter(values[0], np.float32(9))
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save_model(model, str(tmp_path / "deploy.onnx"))
    assert failed(certified[method][0].with_name("c.json"), tmp_path / "deploy.onnx") == {"model"}


def falsify(row: dict[str, Any]) -> None:
    """Say of a certified image that a black one is its counterexample."""
    row["image"] = base64.b64encode(np.zeros(64, dtype="<f4").tobytes()).decode()
    row["record"].update(verdict="falsified", counterexample=f"counterexamples/{row['record']['index']:08d}.npy")


def certify(row: dict[str, Any]) -> None:
    row["image"] = None
    row["record"].update(verdict="certified", counterexample=None)


@pytest.mark.parametrize(
    ("verdict", "edit", "name"),
    [
        ("certified", falsify, "counterexamples, replayed through the file"),
        ("falsified", certify, "certified images, proven again"),
        ("falsified", lambda row: row["record"].update(reachable_log2=1.0), "reachable cells"),
        ("certified", lambda row: row["record"].update(label=(row["record"]["label"] + 1) % 10), "labels"),
    ],
)
def test_a_certificate_fails_after_a_row_was_changed(
    trained: Mapping[str, tuple[Path, dict[str, Any]]],
    certified: Mapping[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    verdict: str,
    edit: Callable[[dict[str, Any]], None],
    name: str,
) -> None:
    deploy, certificate = trained["plain"][0] / "deploy.onnx", certified["plain"][0].with_name("c.json")
    value = json.loads(certificate.read_text())
    rows = [
        row
        for row in value["rows"]
        if row["record"]["verdict"] == verdict and row["record"]["label"] == row["record"]["prediction"]
    ]
    edit(rows[0])
    path = tmp_path / "c.json"
    path.write_text(json.dumps(value))
    if edit is falsify:
        assert {"digest", name} <= failed(path, deploy)
    del value["digest"]
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**value, "digest": hashlib.sha256(canonical.encode()).hexdigest()}))
    assert name in failed(path, deploy)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_names_every_method_its_source_and_options() -> None:
    listed = {row["name"]: row for row in abscert("baseline", "list", "--json").json["methods"]}
    assert list(listed) == list(METHODS)
    assert {"ibp", "plain", "pgd", "reachable", "abstrain"} <= set(listed)
    assert all(row["summary"] and row["source"] for row in listed.values())
    assert [facts["name"] for facts in listed["ibp"]["options"]] == ["fast", "start", "ramp"]
    assert listed["ibp"]["options"][1] == {
        "name": "start",
        "meaning": "share of the epochs before the radius rises",
        "default": "0.02",
        "range": "0 to 1",
    }
    assert listed["plain"]["options"] == []
    text = abscert("baseline", "list").out
    assert all(f" {name} " in text for name in listed)
    (alone,) = abscert("baseline", "list", "sabr", "--json").json["methods"]
    assert alone == listed["sabr"]
    assert "did you mean sabr?" in refused("baseline", "list", "sabrr")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "nothing"), "expected a method: one of abstrain"),
        (("--method", "ibp", "--set", "share=0.5"), "ibp has no option 'share'; it has fast, start, ramp"),
        (("--method", "plain", "--set", "ramp=0.5"), "plain has no option 'ramp'; it has no options"),
        (("--method", "ibp", "--set", "radius=0.5"), "ibp has no option 'radius'"),
        (("--method", "ibp", "--set", "ramp"), "expected --set NAME=VALUE, each name once, got 'ramp'"),
        (("--method", "ibp", "--set", "ramp=0.1", "--set", "ramp=0.2"), "each name once"),
        (("--method", "ibp", "--set", "=0.1"), "ibp has no option ''"),
        (("--method", "ibp", "--set", "ramp="), "expected another value of ramp, got ''"),
        (("--method", "ibp", "--set", "ramp=fast"), "expected another value of ramp, got 'fast'"),
        (("--method", "ibp", "--set", "ramp=nan"), "ramp from 0 to 1"),
        (("--method", "pgd", "--set", "attack_steps=0"), "attack_steps of at least 1"),
        (("--method", "pgd", "--set", "attack_steps=1.5"), "expected another value of attack_steps"),
        (("--method", "ibp", "--set", "start=0.8", "--set", "ramp=0.5"), "start and ramp within the training"),
        (("--method", "sabr", "--set", "start=0.8", "--set", "ramp=0.5"), "start and ramp within the training"),
        (("--method", "ibp", "--cells", "2"), "expected no --cells"),
        (("--method", "plain", "--cells", "2"), "expected no --cells"),
        (("--method", "reachable", "--cells", "0"), "cells"),
        (("--method", "ibp", "--radius=-0.1"), "radius from 0 to 1"),
        (("--method", "plain", "--radius=-0.1"), "radius from 0 to 1"),
        (("--method", "ibp", "--radius", "1.5"), "radius from 0 to 1"),
        (("--method", "ibp", "--radius", "wide"), "radius such as 0.1 or 8/255"),
        (("--method", "ibp", "--activation", "swish"), "activation"),
        (("--method", "llm", "--activation", "sigmoid"), "use --activation relu"),
        (("--method", "lbp", "--activation", "relu"), "use --activation param-ramp"),
        (("--method", "ibp", "--network", "fc-99"), "expected a network: one of"),
        (("--method", "ibp", "--epochs", "0"), "epochs"),
        (("--method", "ibp", "--gradient-clip", "0"), "gradient"),
    ],
)
def test_options_without_meaning_are_refused(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    radius = () if any(option.startswith("--radius") for option in options) else ("--radius", "0.1")
    arguments = ("--out", tmp_path / "out", *DIGITS, *FAST, *radius, *options)
    assert words in refused("baseline", "train", *arguments)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--radius=-0.1",), "radius from 0 to 1"),
        (("--radius", "0.1", "--timeout=-1"), "time-out of at least 0"),
        (("--radius", "0.1", "--inputs", "uint8"), "17 levels"),
        (("--radius", "0.1", "--batch-size", "0"), "batch size of at least 1"),
    ],
)
def test_certifying_with_options_without_meaning_is_refused(
    trained: Mapping[str, tuple[Path, dict[str, Any]]], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    line = refused("baseline", "certify", trained["ibp"][0], *DIGITS, "--out", tmp_path / "out", *options)
    assert words in line
    assert not (tmp_path / "out").exists()


def test_certifying_what_is_no_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nothing"):
        assert "is not there" in refused("baseline", "certify", tmp_path / name, *BALL)
