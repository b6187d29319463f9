"""Every subcommand on digits: what it writes, what it prints, and what `--json` says."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from command_line import FAST, TEST_IMAGES, Result, abscert, contents, linear_model, train
from tiny_networks import run_onnx

from abscert_plugin.data import DATA_SETS, Split, load_data
from abscert_plugin.records import read_records
from abscert_plugin.training import run
from abscert_plugin.training.config import TrainingConfig

COMMANDS = ["train", "tune", "export", "wrap", "verify", "guard", "card", "show", "data", "demo"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("cli") / "run", "--cells", 4)


@pytest.fixture(scope="module")
def verified(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    for name in ("deploy", "abstract"):
        abscert("verify", trained / f"{name}.onnx", "--out", folder / name)
    return folder


def errors(model: Path) -> int:
    """Return how many test images of digits an ONNX file mislabels."""
    data = load_data("digits", Split.TEST)
    batch = data.take(np.arange(len(data)))
    (logits,) = run_onnx(model, data.pixels(batch.images))
    return int((logits.argmax(axis=1) != batch.labels).sum())


# --- the command itself -----------------------------------------------------------------------------------------------


def test_without_a_subcommand_it_lists_them() -> None:
    listed = abscert().out
    assert abscert("--help").out == listed
    for name in COMMANDS:
        assert f"  {name} " in listed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_explains_itself(name: str) -> None:
    usage, *lines = abscert(name, "--help").out.splitlines()
    assert f"abscert {name}" in usage
    assert any(line.strip().startswith("-h, --help") for line in lines)


def test_the_version_is_printed() -> None:
    assert abscert("--version").out.startswith("abscert-plugin ")


# --- train, export ----------------------------------------------------------------------------------------------------


def test_train_writes_what_the_readme_promises_and_the_error_that_it_reports(trained: Path, tmp_path: Path) -> None:
    facts = abscert("train", *FAST, "--cells", 4, "--out", tmp_path / "run", "--json").json
    promised = {"network", "activation", "cells", "granularity", "epochs", "best_epoch", "validation_cell_error"}
    assert promised | {"seconds", "deploy", "abstract"} <= facts.keys()
    assert (facts["network"], facts["activation"], facts["cells"], facts["granularity"]) == ("fc-3", "relu", 4, 0.5)
    assert (facts["epochs"], facts["best_epoch"]) == (1, 1)
    assert facts["deploy"] == str(tmp_path / "run" / "deploy.onnx")
    for name in ("deploy.onnx", "abstract.onnx", "history.jsonl", "run.json", "checkpoint.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    data = load_data("digits", Split.VALIDATION)
    batch = data.take(np.arange(len(data)))
    (logits,) = run_onnx(tmp_path / "run" / "deploy.onnx", data.pixels(batch.images))
    assert facts["validation_cell_error"] == pytest.approx(np.mean(logits.argmax(axis=1) != batch.labels))
    # the same seed gives the same weights
    assert (tmp_path / "run" / "deploy.onnx").read_bytes() == (trained / "deploy.onnx").read_bytes()


def test_train_prints_a_table_and_logs_epochs_to_stderr(tmp_path: Path) -> None:
    result = abscert("train", *FAST, "--granularity", 0.5, "--out", tmp_path / "run")
    assert "fc-3, relu" in result.out
    assert f"wrote {tmp_path / 'run' / 'deploy.onnx'}" in result.out
    assert result.err.startswith("epoch   1  loss ")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "run" / "deploy.onnx").metadata_props}
    assert metadata["abscert.cells"] == "4"


def test_a_finished_training_is_only_read_when_resumed(trained: Path) -> None:
    before = contents(trained)
    result = abscert("train", *FAST, "--cells", 4, "--out", trained, "--resume", "--json")
    assert result.json["best_epoch"] == 1
    assert result.err == ""  # no epoch was run
    after = contents(trained)
    assert all(after[name] == before[name] for name in before if name != "run.json")


def test_export_writes_the_same_files_again(trained: Path, tmp_path: Path) -> None:
    result = abscert("export", trained, "--out", tmp_path / "deep" / "out", "--json")
    assert result.json == {
        "abstract": str(tmp_path / "deep" / "out" / "abstract.onnx"),
        "deploy": str(tmp_path / "deep" / "out" / "deploy.onnx"),
        "best_epoch": 1,
    }
    for name in ("abstract.onnx", "deploy.onnx"):
        assert (tmp_path / "deep" / "out" / name).read_bytes() == (trained / name).read_bytes()


def test_export_goes_to_the_run_by_default_and_says_where(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "--cells", 2)
    (folder / "deploy.onnx").unlink()
    assert f"wrote {folder / 'deploy.onnx'} and {folder / 'abstract.onnx'} (epoch 1" in abscert("export", folder).out
    assert (folder / "deploy.onnx").is_file()


@pytest.mark.parametrize("name", ["[/red]", "[bold]x", ":smile:", "a b\N{SNOWMAN}"])
def test_folders_are_shown_by_their_own_names(trained: Path, tmp_path: Path, name: str) -> None:
    assert f"wrote {tmp_path / name / 'deploy.onnx'}" in abscert("export", trained, "--out", tmp_path / name).out


# --- tune -------------------------------------------------------------------------------------------------------------


def test_tune_tries_cells_exports_the_best_and_resumes_to_the_same(tmp_path: Path) -> None:
    arguments = [
        "tune",
        *FAST,
        "--radius",
        "0.2",
        "--radius-scale",
        "training",
        "--steps",
        2,
        "--out",
        tmp_path / "out",
    ]
    first = abscert(*arguments, "--json").json
    steps = json.loads((tmp_path / "out" / "tune.json").read_text())["steps"]
    best = min(steps, key=lambda step: (step["validation_error"], step["cells"]))
    assert {"best_cells", "deploy", "network", "cells", "granularity", "best_epoch", "validation_cell_error"} <= set(
        first
    )
    assert first["best_cells"] == first["cells"] == best["cells"]
    assert first["validation_cell_error"] == best["validation_error"]
    metadata = {entry.key: entry.value for entry in onnx.load(first["deploy"]).metadata_props}
    assert metadata["abscert.cells"] == str(best["cells"])
    again = abscert(*arguments, "--resume")
    assert "best" in again.out
    for step in steps:  # nothing is cut short in a terminal of 80 columns
        assert f"{step['lower_gradient']:+.2e}" in again.out
        assert f"{step['upper_gradient']:+.2e}" in again.out
    assert "epoch" not in again.err
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["steps"] == steps


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deploy", "abstract"])
def test_verify_reports_what_its_records_say(trained: Path, tmp_path: Path, name: str) -> None:
    facts = abscert("verify", trained / f"{name}.onnx", "--out", tmp_path / "out", "--json").json
    rows = read_records(Path(facts["records"]))
    assert len(rows) == facts["images"] == TEST_IMAGES
    assert facts["certified"] == sum(row.verdict == "certified" for row in rows)
    assert facts["falsified"] == errors(trained / "deploy.onnx") > 0
    assert (facts["claim"], facts["arithmetic"]) == ("cell", "any-order")
    assert facts["unknown"] <= 3  # what rounding in another order may undo
    assert facts["verified_error"] == (facts["falsified"] + facts["unknown"]) / TEST_IMAGES
    assert facts["clean_error"] == facts["falsified"] / TEST_IMAGES
    assert facts["data"]["name"] == "digits"


def test_verify_keeps_its_records_beside_the_model_and_names_its_claim(trained: Path) -> None:
    result = abscert("verify", trained / "deploy.onnx", "--limit", 20)
    folder = trained / "verify-deploy-digits-cell"
    assert len(read_records(folder / "records.jsonl")) == 20
    assert f"records: {folder / 'records.jsonl'}" in result.out
    assert "It does not cover the l-infinity ball" in " ".join(result.out.split())


def test_another_run_in_the_same_folder_is_refused_until_it_is_set_aside(trained: Path, tmp_path: Path) -> None:
    arguments = ["verify", trained / "deploy.onnx", "--out", tmp_path / "out"]
    abscert(*arguments)
    before = contents(tmp_path / "out")
    assert "--fresh" in abscert(*arguments, "--limit", 5, status=2).err
    assert contents(tmp_path / "out") == before
    assert "renamed the former run" in abscert(*arguments, "--limit", 5, "--fresh").err
    assert contents(tmp_path / "out.old-1") == before
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == 5


def test_one_cell_is_legal_and_both_commands_say_that_it_decides_nothing(tmp_path: Path) -> None:
    def notes(result: Result) -> bool:
        return "with one cell every image is the same to the network" in " ".join(result.err.split())

    trained = abscert("train", *FAST, "--cells", 1, "--out", tmp_path)
    verified = abscert("verify", tmp_path / "deploy.onnx", "--json")
    assert notes(trained)
    assert notes(verified)
    assert len({row.prediction for row in read_records(Path(verified.json["records"]))}) == 1


# --- wrap -------------------------------------------------------------------------------------------------------------


def test_wrap_puts_a_model_under_abstraction_and_verify_runs_it(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "model.onnx")
    wrapped = abscert("wrap", model, "--cells", 16, "--out", tmp_path / "out", "--json").json
    assert wrapped.keys() == {"deploy", "abstract", "notes"}
    facts = abscert("verify", wrapped["deploy"], "--json").json
    assert facts["falsified"] + facts["unknown"] == errors(Path(wrapped["deploy"]))
    text = abscert("wrap", model, "--cells", 16, "--out", tmp_path / "out").out
    assert text == f"wrote {wrapped['deploy']} and {wrapped['abstract']}\n"


# --- show, data, demo -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deploy", "deploy/records.jsonl"])
def test_show_takes_a_folder_or_a_file(verified: Path, name: str) -> None:
    text = abscert("show", verified / name).out
    rows = read_records(verified / "deploy" / "records.jsonl")
    falsified = sum(row.verdict == "falsified" for row in rows)
    for title in ("Verification, claim cell", "Classes, claim cell", "Reasons, claim cell"):
        assert title in text
    assert any(line.split() == ["falsified", str(falsified)] for line in text.splitlines())
    assert f"{100 * falsified / len(rows):.2f} %" in text


@pytest.mark.parametrize("width", [80, 160])
def test_show_puts_two_files_side_by_side_and_cuts_no_number(
    verified: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = abscert("show", verified / "deploy", verified / "abstract" / "records.jsonl").out
    assert text.count("Verification, claim cell") == (1 if width > 120 else 2)
    assert text.count(f" {TEST_IMAGES} ") == 2
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_show_writes_a_page_with_a_picture_of_every_failure(verified: Path, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "page.html"
    result = abscert("show", verified / "deploy", "--html", page)
    assert f"wrote {page}" in result.out
    rows = read_records(verified / "deploy" / "records.jsonl")
    text = page.read_text(encoding="utf-8")
    failing = [row.index for row in rows if row.verdict != "certified"]
    shown = {index for index in range(1797) if f'data-index="{index}"' in text}
    margins = {row.index: cast(float, row.margin) for row in rows}
    assert shown == set(sorted(failing, key=lambda index: margins[index])[:200])
    assert text[text.index('id="gallery"') :].count("data:image/png;base64,") == 2 * len(shown)
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_show_goes_without_pictures_where_the_images_are_not_those_of_the_run(verified: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records.jsonl").write_bytes((verified / "deploy" / "records.jsonl").read_bytes())
    run = json.loads((verified / "deploy" / "run.json").read_text())
    for name, note in (("[/no]", "[/no], got no such file"), ("digits", "these are not the images")):
        run["data"] = {**run["data"], "name": name, "sha256": "0"}
        (tmp_path / "run" / "run.json").write_text(json.dumps(run))
        result = abscert("show", tmp_path / "run", "--html", tmp_path / "page.html")
        assert result.err.startswith("note: without pictures, since")
        assert note in result.err
        assert "data:image/png" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_data_lists_the_sets_and_whether_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSCERT_DATA", raising=False)
    rows = abscert("data", "--data-dir", tmp_path / "nothing", "--json").json["data_sets"]
    assert [row["name"] for row in rows] == list(DATA_SETS)
    assert {row["name"]: row["state"] for row in rows} == dict.fromkeys(DATA_SETS, "missing") | {"digits": "found"}
    text = abscert("data", "--data-dir", tmp_path / "nothing").out
    assert all(name in text for name in DATA_SETS)
    assert "found" in text
    assert "[" not in text  # no markup is left over


def test_data_describes_one_set() -> None:
    facts = abscert("data", "digits", "--json").json
    assert facts["name"] == "digits"
    assert [part["split"] for part in facts["splits"]] == ["train", "validation", "test"]
    assert sum(part["images"] for part in facts["splits"]) == 1797
    for part in facts["splits"]:
        assert (part["shape"], part["levels"], len(part["classes"])) == ([1, 8, 8], 16, 10)
    text = abscert("data", "digits").out
    assert all(part["sha256"][:16] in text for part in facts["splits"])


@pytest.mark.slow
def test_demo_does_the_whole_job_and_sets_a_former_one_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = TrainingConfig(epochs=1, batch_size=512, learning_rate=1e-3)
    monkeypatch.setattr(run, "default_config", lambda *of: quick)
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine").write_text("kept")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")  # nobody listens there
    result = abscert("demo", "--out", out, "--web")
    assert {json.loads(line)["epoch"] for line in (out / "history.jsonl").read_text().splitlines()} == {1}
    assert "renamed the former demo" in result.err
    assert (tmp_path / "demo.old-1" / "mine").read_text() == "kept"
    written = ("verify/records.jsonl", "tune/tune.json", "tune/deploy.onnx", "report.html", "guard.onnx", "try.html")
    for name in ("deploy.onnx", *written):
        assert (out / name).stat().st_size > 0
    (note,) = [line for line in result.err.splitlines() if line.startswith("note: try.html has no onnxruntime-web")]
    assert "cannot fetch http://127.0.0.1:9/" in note
    assert len(read_records(out / "verify" / "records.jsonl")) == TEST_IMAGES
    assert f"All files are in {out}." in result.out
