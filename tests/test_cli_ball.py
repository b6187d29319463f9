"""`abscert verify --claim ball` on digits: its facts, its rows, its counterexamples, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import abscert, contents, refused, train
from tiny_networks import run_onnx

from abscert_plugin.data import Split, load_data
from abscert_plugin.records import RECORDS, Record, read_records

LIMIT = 40
BALL = ("--data", "digits", "--claim", "ball", "--limit", LIMIT, "--batch-size", 16, "--json")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("ball") / "run", "--cells", 2) / "deploy.onnx"


def verify(model: Path, out: Path, *options: object) -> tuple[dict[str, Any], list[Record]]:
    found = abscert("verify", model, *BALL, "--out", out, *options).json
    return found, read_records(out / RECORDS)


def rows(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(row.index, row.label, row.prediction, row.verdict, row.reachable_log2) for row in records]


@pytest.fixture(scope="module")
def tenth(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Record], Path]:
    out = tmp_path_factory.mktemp("tenth")
    return (*verify(deploy, out, "--radius", "0.1"), out)


def test_the_facts_are_those_of_the_rows(deploy: Path, tenth: tuple[dict[str, Any], list[Record], Path]) -> None:
    facts, records, _ = tenth
    named = tuple(facts[name] for name in ("claim", "radius", "radius_scale", "inputs"))
    assert named == ("ball", "1/10", "pixel", "float")
    assert facts["images"] == LIMIT == len(records)
    for verdict in ("certified", "falsified", "unknown"):
        assert facts[verdict] == sum(row.verdict == verdict for row in records)
    assert facts["certified"] > 0
    assert facts["falsified"] > 0
    assert facts["verified_error"] == pytest.approx(1 - facts["certified"] / LIMIT)
    assert facts["seconds"] > 0
    assert len(facts["model_sha256"]) == 64
    for row in records:
        assert (row.claim, row.radius, row.radius_scale, row.inputs) == ("ball", 0.1, "pixel", "float")


def test_a_run_holds_its_rows_and_counterexamples_and_nothing_else(
    tenth: tuple[dict[str, Any], list[Record], Path],
) -> None:
    _, records, out = tenth
    stored = {row.counterexample for row in records} - {None, "itself"}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {RECORDS, "run.json", *stored}
    assert any(row.counterexample == "itself" for row in records)


def test_every_falsified_row_has_an_image_that_can_be_replayed(
    deploy: Path, tenth: tuple[dict[str, Any], list[Record], Path]
) -> None:
    _, records, out = tenth
    data = load_data("digits", Split.TEST, None).first(LIMIT)
    (batch,) = data.batches(LIMIT)
    centers = data.pixels(batch.images)
    stored = 0
    for row, center in zip(records, centers, strict=True):
        assert (row.counterexample is not None) == (row.verdict == "falsified")
        if row.counterexample is None:
            continue
        image = center
        if row.counterexample != "itself":
            stored += 1
            image = np.load(out / row.counterexample)
        # a difference of two float32 is exact in float64
        assert (np.abs(image.astype(np.float64) - center.astype(np.float64)) <= 0.1).all()
        assert ((image >= 0) & (image <= 1)).all()
        assert run_onnx(deploy, image[None])[0].argmax() != row.label
    assert stored == len(list((out / "counterexamples").glob("*.npy"))) > 0


def test_a_radius_on_the_training_scale_is_half_as_long(
    deploy: Path, tmp_path: Path, tenth: tuple[dict[str, Any], list[Record], Path]
) -> None:
    facts, records = verify(deploy, tmp_path, "--radius", "0.2", "--radius-scale", "training")
    assert rows(records) == rows(tenth[1])
    assert (facts["radius"], facts["radius_scale"]) == ("1/5", "training")
    assert {(row.radius, row.radius_scale) for row in records} == {(0.2, "training")}


def test_the_file_alone_never_contradicts_its_opened_network(
    deploy: Path, tmp_path: Path, tenth: tuple[dict[str, Any], list[Record], Path]
) -> None:
    _, records = verify(deploy, tmp_path, "--radius", "0.1", "--black-box", "--timeout", "0.05")
    assert {row.method for row in records} <= {"forward", "exhaustive", "score attack", "none"}
    for alone, opened in zip(records, tenth[1], strict=True):
        assert {alone.verdict, opened.verdict} != {"certified", "falsified"}


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 5, 16])
def test_a_run_that_was_killed_is_gone_on_with(
    deploy: Path, tmp_path: Path, tenth: tuple[dict[str, Any], list[Record], Path], kept: int
) -> None:
    out = Path(shutil.copytree(tenth[2], tmp_path / "out"))
    path = out / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]) + b'{"index": 1')
    _, records = verify(deploy, out, "--radius", "0.1")
    assert rows(records) == rows(tenth[1])
    assert path.read_bytes().splitlines(keepends=True)[:kept] == lines[:kept]


def test_another_radius_does_not_join_a_former_run(
    deploy: Path, tenth: tuple[dict[str, Any], list[Record], Path]
) -> None:
    before = contents(tenth[2])
    line = refused("verify", deploy, *BALL, "--radius", "0.05", "--out", tenth[2])
    assert "another run" in line
    assert contents(tenth[2]) == before


def test_our_own_solver_goes_on_with_a_run_that_names_none(
    deploy: Path, tmp_path: Path, tenth: tuple[dict[str, Any], list[Record], Path]
) -> None:
    shutil.copytree(tenth[2], tmp_path, dirs_exist_ok=True)
    assert verify(deploy, tmp_path, "--radius", "0.1", "--solver", "abscert")[1] == tenth[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--claim", "cell", "--solver", "abscert"), "expected --solver with --claim ball"),
        (("--claim", "ball", "--radius", "0.1", "--solver", "fig"), "expected a solver: one of abscert"),
        (
            ("--claim", "ball", "--radius", "0.1", "--solver", "fig", "--certificate", "c.json"),
            "expected no --certificate with --solver fig",
        ),
    ],
)
def test_a_solver_that_has_no_meaning_is_refused(
    deploy: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refused("verify", deploy, "--data", "digits", *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_opened_is_run_alone_and_that_is_said(deploy: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(deploy))
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "scores"
    model.graph.node.append(onnx.helper.make_node("Asinh", ["scores"], ["logits"]))
    path = tmp_path / "deploy.onnx"
    onnx.save_model(model, str(path))
    options = ("--radius", "0.01", "--timeout", "0.2", "--out", tmp_path / "out")
    result = abscert("verify", path, *BALL, *options)
    assert result.json["images"] == LIMIT
    assert "note: nothing is proven, and verdicts hold for this runtime alone" in result.err
    assert "stays closed to gradients" in result.err
    assert "Asinh" in result.err
    assert {row.method for row in read_records(tmp_path / "out" / RECORDS)} <= {
        "forward", "exhaustive", "score attack", "none",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "run.json").read_text())["configuration"]["white_box"] is False


@pytest.mark.slow
def test_the_network_of_the_checkpoint_gives_the_verdicts_of_the_files_own(
    deploy: Path, tmp_path: Path, tenth: tuple[dict[str, Any], list[Record], Path]
) -> None:
    options = ("--radius", "0.1", "--exhaustive", "1", "--checkpoint", deploy.parent)
    certificate = tmp_path / "certificate.json"
    _, records = verify(deploy, tmp_path / "out", *options, "--certificate", certificate)
    assert rows(records) == rows(tenth[1])
    assert {row.method for row in records} & {"ibp", "crown-ibp", "crown", "optimised", "gradient attack"}
    checked = abscert("check", certificate, deploy, "--data", "digits", "--checkpoint", deploy.parent, "--json")
    assert checked.json["holds"] is True


def test_a_file_that_cannot_be_read_is_opened_by_its_checkpoint(deploy: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(deploy))
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "scores"  # the inverse of the function: no layer of the reader, and the same logits
    model.graph.node.extend(
        [onnx.helper.make_node("Asinh", ["scores"], ["inner"]), onnx.helper.make_node("Sinh", ["inner"], ["logits"])]
    )
    path = tmp_path / "deploy.onnx"
    onnx.save_model(model, str(path))
    alone = abscert("verify", path, *BALL, "--radius", "0.01", "--timeout", "0.2", "--out", tmp_path / "alone")
    assert "stays closed to gradients" in alone.err
    opened = abscert(
        "verify", path, *BALL, "--radius", "0.01", "--checkpoint", deploy.parent, "--out", tmp_path / "opened"
    )
    assert "nothing is proven" in opened.err
    assert "stays closed to gradients" not in opened.err
    assert json.loads((tmp_path / "opened" / "run.json").read_text())["configuration"]["white_box"] is True


@pytest.mark.slow
def test_a_checkpoint_that_is_not_the_files_is_refused(deploy: Path, tmp_path: Path) -> None:
    of_seed = train(tmp_path / "seed", "--cells", 2, "--seed", 1)
    of_size = train(tmp_path / "size", "--cells", 2, "--network", "fc-5")
    for folder in (of_seed, of_size):
        line = refused("verify", deploy, *BALL[:-1], "--radius", "0.1", "--checkpoint", folder, "--out", tmp_path / "o")
        assert "expected the logits of its torch module within" in line
    empty = tmp_path / "empty"
    empty.mkdir()
    line = refused("verify", deploy, *BALL[:-1], "--radius", "0.1", "--checkpoint", empty, "--out", tmp_path / "o")
    assert "expected a training in" in line
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--claim", "cell", "--checkpoint", "run"], "expected --checkpoint with --claim ball"),
        (["--claim", "ball", "--radius", "0.1", "--checkpoint", "run", "--black-box"], "--black-box or --checkpoint"),
        (["--claim", "ball"], "expected --radius for the claim ball"),
        (["--claim", "cell", "--radius", "0.1"], "expected --radius with --claim ball"),
        (["--claim", "ball", "--radius=-0.1"], "radius from 0 to 1"),
        (["--claim", "ball", "--radius", "nan"], "radius such as 0.1 or 8/255"),
        (["--claim", "ball", "--radius", "inf"], "radius such as 0.1 or 8/255"),
        (["--claim", "ball", "--radius", "8/255/2"], "radius such as 0.1 or 8/255"),
        (["--claim", "ball", "--radius", "1.5"], "radius from 0 to 1"),
        (["--claim", "ball", "--radius", "2.5", "--radius-scale", "training"], "radius from 0 to 1"),
        (["--claim", "ball", "--radius", "0.1", "--timeout=-1"], "time-out of at least 0"),
        (["--claim", "ball", "--radius", "0.1", "--timeout", "nan"], "time-out of at least 0"),
        (["--claim", "ball", "--radius", "0.1", "--exhaustive", "0"], "exhaustive of at least 1"),
        (["--claim", "ball", "--radius", "0.1", "--inputs", "uint8"], "17 levels"),
        (["--claim", "ball", "--radius", "0.1", "--inputs", "int4"], "inputs"),
        (["--claim", "ball", "--radius", "0.1", "--batch-size", "0"], "batch size of at least 1"),
    ],
)
def test_options_without_meaning_are_refused(deploy: Path, tmp_path: Path, options: list[str], words: str) -> None:
    assert words in refused("verify", deploy, "--data", "digits", "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_the_interval_network_is_refused(deploy: Path, tmp_path: Path) -> None:
    line = refused("verify", deploy.with_name("abstract.onnx"), *BALL, "--radius", "0.1", "--out", tmp_path / "out")
    assert "expected a deploy.onnx for the claim `ball`" in line
