"""`abscert card`: its figures are those of the records, its commands hold, and what contradicts is refused."""

import hashlib
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from command_line import abscert, contents, linear_model, refused, train

from abscert_plugin.claim import Arithmetic
from abscert_plugin.report.model_card import MEANING

CELL = "verify-deploy-digits-cell"
BALL = ("--claim", "ball", "--radius", "1/50", "--bound", "ibp")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training with two verifications, a certificate and a guard."""
    folder = train(tmp_path_factory.mktemp("card") / "run", "--cells", 2)
    abscert("verify", folder / "deploy.onnx", "--limit", 40)
    certificate = folder / "ball.json"
    abscert(
        "verify", folder / "deploy.onnx", *BALL, "--limit", 30, "--certificate", certificate, "--out", folder / "ball"
    )
    radii = ("--radius", "1/50", "--radius", "0.1")
    abscert("guard", folder / "deploy.onnx", *radii, "--largest", "--out", folder / "guard.onnx")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """Return a copy that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def card(text: str) -> tuple[dict[str, Any], str]:
    """Return the head of a card, read by PyYAML, and its body."""
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def metrics(head: dict[str, Any]) -> list[dict[str, Any]]:
    (model,) = head["model-index"]
    return [metric for result in model["results"] for metric in result["metrics"]]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_the_figures_of_the_head_are_those_of_the_records(run: Path) -> None:
    abscert("card", run, "--certificate", run / "ball.json", "--license", "mit")
    head, _ = card((run / "README.md").read_text())
    assert (head["license"], head["library_name"], head["datasets"]) == ("mit", "onnx", ["digits"])
    found = {one["args"]["claim"]: one for one in metrics(head) if one["type"] == "certified_accuracy"}
    assert found.keys() == {"cell", "ball"}
    for claim, folder in (("cell", CELL), ("ball", "ball")):
        own, told = rows(run / folder), found[claim]["args"]
        counts = Counter(row["verdict"] for row in own)
        assert found[claim]["value"] == counts["certified"] / len(own) > 0
        assert {name: told[name] for name in ("certified", "falsified", "unknown", "images")} == {
            **{name: counts[name] for name in ("certified", "falsified", "unknown")},
            "images": len(own),
        }
        assert told["model_sha256"] == sha256(run / "deploy.onnx")
        assert {row["arithmetic"] for row in own if row["verdict"] == "certified"} == {told["arithmetic"]}
        assert f"claim {claim}" in found[claim]["name"]
    assert "radius" not in found["cell"]["args"]
    ball = found["ball"]["args"]
    assert (ball["radius"], ball["radius_scale"], ball["inputs"]) == ("1/50", "pixel", "float")
    accuracy = {one["args"]["images"]: one["value"] for one in metrics(head) if one["type"] == "accuracy"}
    for folder in (CELL, "ball"):
        own = rows(run / folder)
        assert accuracy[len(own)] == sum(row["prediction"] == row["label"] for row in own) / len(own)


def test_the_body_keeps_claims_apart_and_names_each_file_by_its_checksum(run: Path) -> None:
    abscert("card", run, "--certificate", run / "ball.json")
    _, body = card((run / "README.md").read_text())
    cell, ball = (re.findall(r"\| digits, test \|.*", part)[0] for part in body.split("### Claim")[1:])
    own = Counter(row["verdict"] for row in rows(run / "ball"))
    counts = f"30 | {own['certified']} | {own['falsified']} | {own['unknown']}"
    assert f"| 0.02 (pixel scale) | all images | any-order | {counts} | {100 * own['certified'] / 30:.2f} |" in ball
    assert "pixel" not in cell
    for name in ("deploy.onnx", "guard.onnx", "ball.json"):
        assert re.search(rf"\| `{name}` \| .* \| `{sha256(run / name)}` \|", body)
    assert "0.02 (pixel scale), 0.1 (pixel scale); all images" in body
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert f"| {100 * history[0]['validation_error']:.2f} |" in body


def test_its_commands_and_its_python_run_in_the_folder_of_the_card(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "card"
    abscert("card", run, "--certificate", run / "ball.json", "--out", out)
    assert contents(out).keys() == {"README.md", "deploy.onnx", "guard.onnx", "ball.json"}
    shutil.rmtree(run)
    monkeypatch.chdir(out)
    text = (out / "README.md").read_text()
    commands = re.findall(r"```sh\n(.*)\n```", text)
    assert [shlex.split(line)[1] for line in commands] == ["check", "verify", "guard"]
    for line in commands:
        told = abscert(*shlex.split(line)[1:])
        if " verify " in line:
            certified = next(one["args"] for one in metrics(card(text)[0]) if one["args"].get("claim") == "cell")
            again = Counter(row["verdict"] for row in rows(out / "again-2"))
            assert again["certified"] == certified["certified"], told
    assert (out / "again.onnx").read_bytes() == (out / "guard.onnx").read_bytes()
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(python, names)
    assert [output.name for output in names["session"].get_outputs()][:2] == ["logits", "label"]


def test_every_arithmetic_has_a_meaning() -> None:
    assert MEANING.keys() == set(Arithmetic)


def test_without_verification_it_says_so_and_has_no_figure(run: Path) -> None:
    for name in (CELL, "ball"):
        shutil.rmtree(run / name)
    (run / "guard.onnx").unlink()
    result = abscert("card", run, "--json")
    assert result.json["verifications"] == 0
    assert "the card says so" in result.err
    head, body = card((run / "README.md").read_text())
    assert not {"model-index", "metrics"} & head.keys()
    assert "No verification of this file is on record: nothing is claimed of it." in body
    assert "There is nothing to check" in body
    assert "## Guard" not in body


def test_a_second_solver_is_asked_again_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear_model(tmp_path / "model.onnx")
    (tmp_path / "entries" / "one").mkdir(parents=True)
    (tmp_path / "entries" / "one" / "run_instance.sh").write_text(
        'echo "$2 $6" >> "$(dirname "$0")/asked"; echo unknown > "$5"'
    )
    monkeypatch.chdir(tmp_path / "entries")
    options = (
        "--data",
        "digits",
        "--claim",
        "ball",
        "--radius",
        "0.01",
        "--limit",
        12,
        "--black-box",
        "--timeout",
        0.1,
    )
    abscert("verify", tmp_path / "model.onnx", *options, "--then", "one=of mine", "--then-timeout", 7)
    asked = (tmp_path / "entries" / "one" / "asked").read_text()
    assert asked.splitlines()[0] == "of mine 7"
    abscert("card", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"```sh\n(.*)\n```", (tmp_path / "README.md").read_text())
    assert "--timeout 0.1" in line
    abscert(*shlex.split(line)[1:])
    assert (tmp_path / "entries" / "one" / "asked").read_text() == asked * 2


def test_a_file_of_others_is_told_of_by_its_verification_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear_model(tmp_path / "model.onnx")
    options = ("--data", "digits", "--claim", "ball", "--radius", "0.01", "--limit", 5, "--mean", "0.5", "--std", "0.5")
    abscert("verify", tmp_path / "model.onnx", *options)
    abscert("card", tmp_path / "model.onnx")
    text = (tmp_path / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"```sh\n(.*)\n```", text)
    abscert(*shlex.split(line)[1:])
    again, own = (rows(next(tmp_path.glob(pattern))) for pattern in ("again-1", "verify-*"))
    assert [row["verdict"] for row in again] == [row["verdict"] for row in own]
    assert "Nothing about its training is on record." in text
    abscert("card", tmp_path / "model.onnx")  # what the command wrote is the same verification
    assert (tmp_path / "README.md").read_text() == text


def test_tensors_in_other_files_are_copied(tmp_path: Path) -> None:
    model = onnx.load_model(str(linear_model(tmp_path / "model.onnx")))
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "big.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="w", size_threshold=0)
    abscert("card", path, "--out", tmp_path / "out")
    assert contents(tmp_path / "out").keys() == {"README.md", "big.onnx", "w"}
    onnx.load_model(str(tmp_path / "out" / "big.onnx"))


def test_a_former_card_is_kept_and_other_files_are_left_alone(run: Path, tmp_path: Path) -> None:
    (run / "README.md").write_text("mine")
    assert "renamed the former card" in abscert("card", run).err
    assert (run / "README.md.old-1").read_text() == "mine"
    before = contents(run)
    abscert("card", run)
    assert contents(run) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deploy.onnx").write_bytes(b"another")
    assert "choose another --out" in refused("card", run, "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == {"deploy.onnx": b"another"}


def test_verifications_of_other_files_are_left_out(run: Path) -> None:
    abscert("verify", run / "abstract.onnx", "--limit", 5)
    (run / CELL).rename(run / f"{CELL}.old-1")
    result = abscert("card", run, "--json")
    assert result.json["verifications"] == 1
    assert result.err.count("left out") == 2


# --- what contradicts ------------------------------------------------------------------------------------------------


def changed_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def doctored_model(run: Path) -> None:
    """Change one weight of the file."""
    model = onnx.load_model(str(run / "deploy.onnx"))
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
    onnx.save_model(model, str(run / "deploy.onnx"))


def changed_row(run: Path) -> None:
    path = run / CELL / "records.jsonl"
    path.write_text(path.read_text().replace('"claim":"cell"', '"claim":"ball"', 1))


def lost_row(run: Path) -> None:
    path = run / CELL / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def other_radius(run: Path) -> None:
    path = run / "ball" / "run.json"
    told = json.loads(path.read_text())
    changed_json(path, configuration={**told["configuration"], "radius": "1/10"})


def other_seed(run: Path) -> None:
    told = json.loads((run / "run.json").read_text())["configuration"]
    changed_json(run / "run.json", configuration={**told, "training": {**told["training"], "seed": 7}})


def changed_rows(run: Path, former: str, **values: object) -> None:
    """Change all rows of a verdict."""
    path = run / "ball" / "records.jsonl"
    told = [{**row, **values} if row["verdict"] == former else row for row in rows(path.parent)]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))


def changed_guard(run: Path, pattern: str, value: str) -> None:
    path = run / "guard.onnx"
    model = onnx.load_model(str(path))
    for entry in model.metadata_props:
        entry.value = re.sub(pattern, value, entry.value)
    onnx.save_model(model, str(path))


CONTRADICTIONS: list[tuple[Callable[[Path], object], str]] = [
    (doctored_model, "is about another file than"),
    (changed_row, "image 3 has no verdict on the claim"),
    (lost_row, "expected 40 rows"),
    (other_radius, "has no verdict on the claim"),
    (other_seed, "says that its training has seed 0"),
    (lambda run: changed_rows(run, "falsified", verdict="certified"), "the rest of its row contradicts"),
    (lambda run: changed_rows(run, "certified", prediction=11), "the rest of its row contradicts"),
    (
        lambda run: changed_rows(run, "certified", verdict="falsified", counterexample="itself"),
        "has other verdicts than another record",
    ),
    (lambda run: changed_guard(run, '"guards_sha256": ".', '"guards_sha256": "x'), "is the guard of another file"),
    (lambda run: changed_guard(run, r'"radii": \[.*\]', '"radii": []'), "expected radii of one scale"),
    (lambda run: changed_guard(run, '"any-order"', '"any"'), "does not say what it certifies"),
    (lambda run: changed_json(run / CELL / "run.json", seconds=None), "has ended"),
    (lambda run: changed_json(run / CELL / "run.json", data={"name": "digits"}), "does not say what was verified"),
    (lambda run: changed_json(run / "run.json", model={"path": "deploy.onnx"}), "does not say what was trained"),
    (lambda run: changed_json(run / "ball.json", device="another"), "its digest is not that of its content"),
    (lambda run: (run / "history.jsonl").write_text("{}\n"), "is not a training's history"),
    (lambda run: (run / "history.jsonl").write_text(""), "to tell the validation error of epoch 1 once"),
    (lambda run: shutil.copy(run / "abstract.onnx", run / "guard.onnx"), "is no guard"),
    (lambda run: shutil.copy(run / "guard.onnx", run / "deploy.onnx"), "is a guard, which certifies by itself"),
    (lambda run: (run / "deploy.onnx").unlink(), "expected deploy.onnx, or one ONNX file"),
    (lambda run: shutil.copy(run / "abstract.onnx", run / "deploy.onnx"), "takes interval images"),
]


@pytest.mark.parametrize(("change", "expected"), CONTRADICTIONS)
def test_what_contradicts_the_file_is_refused(run: Path, change: Callable[[Path], object], expected: str) -> None:
    change(run)
    before = contents(run)
    assert expected in refused("card", run, "--certificate", run / "ball.json")
    assert contents(run) == before


def test_options_without_meaning_are_refused(run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "--license" in refused("card", run, "--license", "My License", *out)
    assert "is not there" in refused("card", tmp_path / "nothing", *out)
    assert "cannot read" in refused("card", run, "--records", tmp_path / "nothing", *out)
    assert "is no guard" in refused("card", run, "--guard", run / "abstract.onnx", *out)
    same = shutil.copy(run / "guard.onnx", tmp_path / "deploy.onnx")
    assert "different names" in refused("card", run, "--guard", same, *out)
    (run / "deploy.onnx").rename(run / "a\nb.onnx")
    shutil.rmtree(run / CELL)
    assert "can be printed" in refused("card", run / "a\nb.onnx", *out)
    assert not (tmp_path / "out").exists()
