"""`abscert guard` in one line: what it writes, and what it refuses without leaving anything behind."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import Result, run
from soundness_trials.drafts import Draft
from soundness_trials.judging import plain_file
from tiny_networks import export_tiny, run_onnx, tiny_network

from abscert_plugin import guard
from abscert_plugin.artifact import write
from abscert_plugin.artifact.metadata import GUARD, SCALED


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return export_tiny(tiny_network(3), 3, tmp_path / "run").deploy


def refused(result: Result, folder: Path) -> str:
    """Return the one line of a refusal that left nothing behind."""
    assert result.status == 2
    assert not result.out
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err
    assert not list(folder.glob("guard*"))
    assert not list(folder.glob(".abscert*"))
    return result.err


def changed(path: Path, change: Any) -> Path:
    found = onnx.load(path)
    change(found)
    onnx.save(found, path.with_name("changed.onnx"))
    return path.with_name("changed.onnx")


def test_how_far_it_is_is_told_with_a_total(model: Path, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int | None]]] = {}

    def tell(what: str, done: int, total: int | None, note: str = "") -> None:
        told.setdefault(what, []).append((done, total))

    guard(model, tmp_path / "guard.onnx", 0.1, progress=tell)
    assert list(told) == ["nodes that are written", "images that it is run on"]
    for steps in told.values():
        assert len(steps) > 2
        (total,) = {of for _, of in steps}
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert steps[-1][0] == total


def test_columns_of_several_radii(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "guard.onnx"
    result = run("guard", model, "--radius", "1/255", "--radius", "0.1", "--largest", "--out", out, "--json")
    assert result.status == 0
    assert result.json["radii"] == ["1/255", "1/10"]
    images = np.random.default_rng(0).random((50, 1, 2, 2), dtype=np.float32)
    names = [output.name for output in onnxruntime.InferenceSession(str(out)).get_outputs()]
    assert names == ["logits", "label", "certified", "margin", "radius"]
    logits, label, certified, margin, largest = run_onnx(out, images)
    assert np.array_equal(label, logits.argmax(axis=1))
    assert certified.shape == margin.shape == (50, 2)
    assert (margin[:, 0] >= margin[:, 1]).all()
    told = [np.nextafter(np.float32(radius), np.float32(0)) for radius in (0.1, 1 / 255)]  # both are above in float32
    assert np.array_equal(largest, np.where(certified[:, 1], told[0], np.where(certified[:, 0], told[1], 0)))
    facts = json.loads({entry.key: entry.value for entry in onnx.load(out).metadata_props}[GUARD])
    assert facts["arithmetic"] == "any-order"
    for radius, name in (("1/255", "first"), ("0.1", "second")):  # a column is what a guard of that radius says
        assert run("guard", model, "--radius", radius, "--out", tmp_path / f"{name}.onnx").status == 0
        alone = run_onnx(tmp_path / f"{name}.onnx", images, ["certified", "margin"])
        place = 0 if name == "first" else 1
        assert np.array_equal(alone[0], certified[:, place])
        assert np.abs(alone[1] - margin[:, place]).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--radius", "0"], "above 0"),
        (["--radius", "1.5"], "radius"),
        (["--radius", "nan"], "radius"),
        (["--radius", "-0.1"], "radius"),
        (["--radius", "0.1", "--radius", "1/10"], "each radius once"),
        (["--radius", "0.1", "--inputs", "bits"], "inputs"),
        (["--radius", "0.1", "--bound", "crown"], "expected --bound: one of ibp, crown-ibp; got 'crown'"),
        (["--radius", "0.1", "--bound", "lines"], "expected --bound: one of ibp, crown-ibp; got 'lines'"),
    ],
)
def test_radii_that_have_no_meaning(model: Path, tmp_path: Path, options: list[str], line: str) -> None:
    assert line in refused(run("guard", model, *options, "--out", tmp_path / "guard.onnx"), tmp_path)


def test_a_backward_pass_certifies_no_less(model: Path, tmp_path: Path) -> None:
    images, found = np.random.default_rng(0).random((300, 1, 2, 2), dtype=np.float32), {}
    for bound in ("ibp", "crown-ibp"):
        out = tmp_path / f"{bound}.onnx"
        assert run("guard", model, "--radius", "0.02", "--radius", "0.1", "--bound", bound, "--out", out).status == 0
        found[bound] = run_onnx(out, images, ["margin", "certified", "label"])
        facts = json.loads({entry.key: entry.value for entry in onnx.load(out).metadata_props}[GUARD])
        assert facts["bound"] == bound
    assert (found["crown-ibp"][0] >= found["ibp"][0]).all()
    assert found["crown-ibp"][1].sum() >= found["ibp"][1].sum()


def test_a_net_without_a_layer_to_go_back_through(tmp_path: Path) -> None:
    draft = Draft()
    logits = draft.dense(draft.node("Flatten", SCALED), [[1.0, 0.0]], [0.0, 0.1])
    plain_file(draft.model(SCALED, (1, 1, 1), logits, 2), (1, 1, 1), 2, tmp_path / "net.onnx")
    command = ["guard", tmp_path / "net.onnx", "--radius", "0.1", "--bound", "crown-ibp"]
    assert "a ReLU and a dense layer" in refused(run(*command, "--out", tmp_path / "guard.onnx"), tmp_path)


def test_a_guard_has_no_guard(model: Path, tmp_path: Path) -> None:
    assert run("guard", model, "--radius", "0.1", "--out", tmp_path / "first.onnx").status == 0
    error = refused(
        run("guard", tmp_path / "first.onnx", "--radius", "0.1", "--out", tmp_path / "guard.onnx"), tmp_path
    )
    assert "is a guard" in error


def test_a_fixed_batch(model: Path, tmp_path: Path) -> None:
    def fix(found: onnx.ModelProto) -> None:
        for value in (*found.graph.input, *found.graph.output):
            value.type.tensor_type.shape.dim[0].ClearField("dim_param")
            value.type.tensor_type.shape.dim[0].dim_value = 1

    path = changed(model, fix)
    error = refused(run("guard", path, "--radius", "0.1", "--out", tmp_path / "guard.onnx"), tmp_path)
    assert "dynamic batch" in error


def test_the_node_that_mixes_images_is_named(tmp_path: Path) -> None:
    draft = Draft()
    pixels = draft.node("Flatten", SCALED)
    mixed = draft.node("Sub", pixels, draft.node("ReduceMean", pixels, axes=[0], keepdims=1))
    logits = draft.dense(mixed, [[1.0, 0.0]], [0.0, 0.1])
    plain_file(draft.model(SCALED, (1, 1, 1), logits, 2), (1, 1, 1), 2, tmp_path / "net.onnx")
    error = refused(run("guard", tmp_path / "net.onnx", "--radius", "0.1", "--out", tmp_path / "guard.onnx"), tmp_path)
    assert "ReduceMean" in error
    assert "dynamic batch" not in error


@pytest.mark.parametrize(
    ("operator", "line"), [("Sin", "Sin"), ("Cos", "Cos"), ("Sigmoid", "ends in"), ("large", "too large")]
)
def test_files_without_a_guard(tmp_path: Path, operator: str, line: str) -> None:
    draft = Draft()
    weight = 2.0**99 if operator == "large" else 1.0
    logits = draft.dense(draft.node("Flatten", SCALED), [[weight, 0.0]], [0.0, 0.1])
    if operator == "Sigmoid":
        logits = draft.node("Sigmoid", logits)
    elif operator != "large":
        logits = draft.dense(draft.node(operator, logits), np.eye(2), [0.0, 0.0])
    plain_file(draft.model(SCALED, (1, 1, 1), logits, 2), (1, 1, 1), 2, tmp_path / "net.onnx")
    error = refused(run("guard", tmp_path / "net.onnx", "--radius", "0.1", "--out", tmp_path / "guard.onnx"), tmp_path)
    assert line in error


def test_a_full_disk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("guard", model, "--radius", "0.2", "--out", tmp_path / "guard.onnx").status == 0
    before = (tmp_path / "guard.onnx").read_bytes()

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "save_model", full)
    result = run("guard", model, "--radius", "0.1", "--out", tmp_path / "guard.onnx")
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert "No space left" in result.err
    assert (tmp_path / "guard.onnx").read_bytes() == before


@pytest.mark.parametrize("out", ["guard.txt", "net.onnx"])
def test_no_place_for_a_guard(model: Path, tmp_path: Path, out: str) -> None:
    place = model if out == "net.onnx" else tmp_path / out
    before = model.read_bytes()
    assert "--out" in refused(run("guard", model, "--radius", "0.1", "--out", place), tmp_path)
    assert model.read_bytes() == before
