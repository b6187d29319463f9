"""`verify --certificate` and `check`: what holds is found to hold, what was changed is found out."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import abscert, refused, train
from forged import Edit, edited, failed

pytestmark = pytest.mark.slow  # the file as a whole

LIMIT = 30
ON = ("--data", "digits")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("check") / "run", "--cells", 2) / "deploy.onnx"


@pytest.fixture(scope="module")
def ball(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    claim = ("--claim", "ball", "--radius", "1/10", "--limit", LIMIT, "--out", folder / "run")
    abscert("verify", deploy, *ON, *claim, "--certificate", folder / "c.json", "--json")
    return folder / "c.json"


@pytest.fixture(scope="module")
def cell(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cell")
    abscert("verify", deploy, *ON, "--out", folder / "run", "--certificate", folder / "c.json", "--json")
    return folder / "c.json"


def first(value: dict[str, Any], verdict: str) -> dict[str, Any]:
    return next(row for row in value["rows"] if row["record"]["verdict"] == verdict and row["image"] is not None)


def certify(value: dict[str, Any]) -> None:
    row = first(value, "falsified")
    row["image"] = None
    row["record"].pop("counterexample")
    row["record"].update(verdict="certified", counterexample=None)


def move_outside(value: dict[str, Any]) -> None:
    row = first(value, "falsified")
    image = np.frombuffer(base64.b64decode(row["image"]), dtype="<f4")
    row["image"] = base64.b64encode((1 - image).astype("<f4").tobytes()).decode()


def cut_image(value: dict[str, Any]) -> None:
    first(value, "falsified")["image"] = "AAAA"


def change_label(value: dict[str, Any]) -> None:
    value["rows"][3]["record"]["label"] = (value["rows"][3]["record"]["label"] + 1) % 10


def not_a_number(value: dict[str, Any]) -> None:
    row = first(value, "falsified")
    row["image"] = base64.b64encode(np.full(64, np.nan, dtype="<f4").tobytes()).decode()


def enlarge_config(value: dict[str, Any]) -> None:
    value["configuration"]["radius"] = "1/2"


def enlarge(value: dict[str, Any]) -> None:
    enlarge_config(value)
    for row in value["rows"]:
        row["record"]["radius"] = 0.5


def forget(value: dict[str, Any], **said: Any) -> None:
    """Say something else of the certified images, and keep nothing that proves them: they are searched for again."""
    for row in value["rows"]:
        if row["record"]["verdict"] == "certified" and row["record"]["method"] != "forward":
            row["evidence"] = None
            row["record"].update({"method": "branch and bound", **said})


def rename_image(value: dict[str, Any]) -> None:
    value["rows"][0]["record"]["index"] = 10**6


def test_what_holds_is_found_to_hold(deploy: Path, ball: Path, cell: Path) -> None:
    for path in (ball, cell):
        result = abscert("check", path, deploy, *ON, "--all", "--json").json
        assert result["holds"]
        assert failed(result) == []
        assert len(result["checks"]) == 15
        told = {name: result[name] for name in ("radius", "radius_scale", "inputs", "arithmetic") if name in result}
        of_ball = {"radius": "1/10", "radius_scale": "pixel", "inputs": "float"} if path == ball else {}
        assert told == {**of_ball, "arithmetic": "any-order"}
        assert result["not_proven"] == 0
    value = json.loads(ball.read_text())
    verdicts = [row["record"]["verdict"] for row in value["rows"]]
    assert {"certified", "falsified"} <= set(verdicts)
    assert any(row["image"] for row in value["rows"])
    assert value["configuration"]["radius"] == "1/10"
    assert "within the radius" in value["says"]
    lines = abscert("check", ball, deploy, *ON, "--sample", "5").out.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == 15
    certified = verdicts.count("certified")
    for name in ("certified images, proven again", "margins of certified images"):
        assert f"ok      {name}: 5 of {certified}; {certified - 5} not proven" in lines
    assert any("certified images were drawn with --seed" in line for line in lines)
    others = f"{verdicts.count('falsified')} falsified, {verdicts.count('unknown')} unknown"
    counts = f"{certified} of {len(verdicts)} images are certified, {others}"
    assert f"claim ball, radius 0.1 (pixel scale), all images, arithmetic any-order: {counts}" in lines


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (certify, "certified images, proven again"),
        (move_outside, "counterexamples, replayed through the file"),
        (cut_image, "counterexamples, replayed through the file"),
        (change_label, "labels"),
        (enlarge, "certified images, proven again"),
        (enlarge, "reachable cells"),
        (enlarge_config, "rows agree with the claim"),
        (not_a_number, "counterexamples, replayed through the file"),
        (lambda value: value["rows"].pop(), "images are in the data set"),
        (lambda value: value["rows"][0]["record"].update(reachable_log2=0.5), "reachable cells"),
        (lambda value: first(value, "falsified")["record"].update(prediction=77), "rows agree with the claim"),
        (lambda value: value.update(says="All is well."), "rows agree with the claim"),
        (lambda value: value["configuration"].update(inputs="uint8"), "claim fits the file and the data"),
        (lambda value: value["versions"].update({"abscert-plugin": "99"}), "version"),
        (lambda value: value["model"].update(cells=3), "grid"),
        (rename_image, "images are in the data set"),
        (lambda value: forget(value, method="zzz"), "rows agree with the claim"),
        (lambda value: forget(value, margin=1e9), "predictions and margins of the images"),
        (lambda value: forget(value, margin=None), "predictions and margins of the images"),
        (lambda value: value["model"].update(sha256="0" * 64), "model"),
        (lambda value: value["data"].update(sha256="0" * 64), "data"),
    ],
)
def test_an_edit_is_found_out_even_where_the_digest_was_made_anew(
    deploy: Path, ball: Path, tmp_path: Path, edit: Edit, name: str
) -> None:
    path = edited(ball, tmp_path / "c.json", edit)
    assert name in failed(abscert("check", path, deploy, *ON, "--all", "--json", status=1).json)


def test_of_a_file_that_is_run_alone_no_proof_is_confirmed(deploy: Path, ball: Path, tmp_path: Path) -> None:
    """A certificate of any order names methods that run points, which show this runtime's order alone."""
    (check,) = [
        check
        for check in abscert("check", ball, deploy, *ON, "--black-box", "--json", status=1).json["checks"]
        if check["holds"] is False
    ]
    assert "of what is run alone nothing is proven" in check["detail"]


def test_an_edit_is_found_by_the_digest(deploy: Path, ball: Path, tmp_path: Path) -> None:
    path = edited(ball, tmp_path / "c.json", lambda value: value["rows"][0]["record"].update(seconds=1.0), digest=False)
    assert failed(abscert("check", path, deploy, *ON, "--json", status=1).json) == ["digest"]


def test_a_certificate_is_of_one_file(ball: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "run", "--cells", 3) / "deploy.onnx"
    result = abscert("check", ball, other, *ON, status=1)
    assert "FAILED" in result.out
    assert "another file" in result.out


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda value: value.update(schema=5), "schema 1 to 4"),
        (lambda value: value.update(extra=1), "not a certificate"),
        (lambda value: value.pop("rows"), "not a certificate"),
        (lambda value: value.update(claim="all"), "claim cell or ball"),
        (lambda value: value["rows"].append(value["rows"][0]), "stands twice"),
        (lambda value: value["rows"][0]["record"].update(verdict="sure"), "verdict 'sure'"),
        (lambda value: first(value, "falsified")["record"].update(verdict="certified"), "contradicts"),
        (lambda value: first(value, "falsified").update(image=None), "that is not there"),
        (lambda value: value.update(rows=[]), "no verdict"),
        (lambda value: value["rows"][0]["record"].update(seconds=float("nan")), "NaN is no number"),
        (lambda value: value["rows"][0]["record"].update(label="3"), "not a certificate"),
        (lambda value: value["rows"][0].update({"\ud800": 1}), "not a JSON file"),
        (lambda value: value["configuration"].update(radius="1e999999"), "have no meaning"),
        (lambda value: value["configuration"].update(radius="-1"), "radius from 0 to 1"),
        (lambda value: value["configuration"].update(radius_scale="inches"), "have no meaning"),
    ],
)
def test_what_is_no_certificate_is_refused(deploy: Path, ball: Path, tmp_path: Path, edit: Edit, message: str) -> None:
    assert message in refused("check", edited(ball, tmp_path / "c.json", edit), deploy, *ON)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[1]",
        b'{"schema": 1}',
        b'{"schema": 1, "schema": 1}',
        b'{"schema": []}',
        b'{"schema": {}}',
    ],
)
def test_another_file_is_refused(deploy: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    refused("check", tmp_path / "c.json", deploy, *ON)


def test_a_file_cut_anywhere_is_refused(deploy: Path, ball: Path, tmp_path: Path) -> None:
    whole = ball.read_bytes()
    for length in range(0, len(whole) - 2, len(whole) // 7):
        (tmp_path / "c.json").write_bytes(whole[:length])
        refused("check", tmp_path / "c.json", deploy, *ON)


def test_a_certificate_that_cannot_be_written_loses_no_row(deploy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = ("--out", tmp_path / "run")
    asked = ("verify", deploy, *ON, "--claim", "cell", *out)
    assert "cannot write" in refused(*asked, "--certificate", tmp_path / "file" / "c.json")
    assert (tmp_path / "run" / "records.jsonl").exists()


def test_the_interval_network_has_a_certificate_of_cells(deploy: Path, tmp_path: Path) -> None:
    abstract = deploy.with_name("abstract.onnx")
    out = ("--out", tmp_path / "run", "--certificate", tmp_path / "new" / "c.json")
    abscert("verify", abstract, *ON, *out, "--json")
    facts = abscert("check", tmp_path / "new" / "c.json", abstract, *ON, "--json").json
    assert facts["holds"]
    assert facts["decided_anew"] == 100
    assert facts["rows"] == facts["certified"] + facts["falsified"] + facts["unknown"]
    assert failed(abscert("check", tmp_path / "new" / "c.json", deploy, *ON, "--json", status=1).json) == ["model"]


def test_a_check_needs_no_time_to_search_where_proofs_were_kept(deploy: Path, ball: Path) -> None:
    assert abscert("check", ball, deploy, *ON, "--timeout", "0", "--all", "--json").json["holds"]


def test_a_sample_is_drawn_by_chance_unless_a_seed_is_given(deploy: Path, ball: Path) -> None:
    def seed(*options: object) -> int:
        found = abscert("check", ball, deploy, *ON, "--sample", 5, "--json", *options).json["seed"]
        assert isinstance(found, int)
        return found

    assert len({seed() for _ in range(3)}) == 3
    assert seed("--seed", 7) == 7


@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_changes_no_verdict(deploy: Path, ball: Path, tmp_path: Path, size: int) -> None:
    claim = ("--claim", "ball", "--radius", "1/10", "--limit", LIMIT, "--out", tmp_path / "run", "--batch-size", size)
    abscert("verify", deploy, *ON, *claim, "--certificate", tmp_path / "c.json", "--json")

    def verdicts(path: Path) -> list[tuple[int, str]]:
        rows = json.loads(path.read_text())["rows"]
        return [(row["record"]["index"], row["record"]["verdict"]) for row in rows]

    assert verdicts(tmp_path / "c.json") == verdicts(ball)


def test_a_row_that_names_a_path_of_its_own_opens_none(deploy: Path, tmp_path: Path) -> None:
    claim = ("--claim", "ball", "--radius", "1/10", "--limit", 5, "--out", tmp_path / "run")
    abscert("verify", deploy, *ON, *claim, "--json")
    path = tmp_path / "run" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0].update(verdict="falsified", counterexample="../../secret.npy")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = refused("verify", deploy, *ON, *claim, "--certificate", tmp_path / "c.json")
    assert "got another name" in line
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("options", [("--sample", "0"), ("--seed=-1",), ("--timeout=-1",), ("--timeout", "nan")])
def test_options_without_meaning_are_refused(deploy: Path, ball: Path, options: tuple[str, ...]) -> None:
    assert "at least" in refused("check", ball, deploy, *ON, *options)


def test_a_missing_model_is_refused(ball: Path, tmp_path: Path) -> None:
    assert "is not there" in refused("check", ball, tmp_path / "deploy.onnx", *ON)
