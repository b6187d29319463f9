"""Packages that are missing or broken: one line, and no other command stops."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import linear_model

from abscert_plugin.records import read_records

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from abscert_plugin.cli import main; main()"
WITHOUT_RUNTIME = WITHOUT_TORCH.replace("torch", "onnxruntime")


def run(
    code: str, *arguments: str, folder: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, [str(folder or ""), *sys.path]))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": search},
    )


def test_training_without_torch_is_one_line(tmp_path: Path) -> None:
    result = run(WITHOUT_TORCH, "train", "--out", str(tmp_path / "out"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: this command needs torch, which is not installed; install it with pip\n"


@pytest.mark.parametrize("command", ["guard --radius 0.1 --out guard.onnx", "wrap --cells 2 --out wrapped"])
def test_a_model_that_is_missing_is_told_before_torch_is_imported(command: str, tmp_path: Path) -> None:
    result = run(WITHOUT_TORCH, *command.split(), "missing.onnx", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: missing.onnx is not there\n")


@pytest.mark.slow
def test_a_training_and_a_verification_take_no_compiler_and_no_algebra(tmp_path: Path) -> None:
    """Each of the two takes torch longer to import than all else that these commands do."""
    code = """
import sys, torch
sys.modules["torch._dynamo"] = sys.modules["sympy"] = None
from abscert_plugin.cli import main
for words in (
    "train --data digits --network fc-3 --epochs 1 --average 0.9 --out run",
    "verify run --data digits --claim ball --radius 0.02 --limit 20 --out verified",
):
    sys.argv = ["abscert", *words.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""
    assert run(code, cwd=tmp_path).returncode == 0
    rows = read_records(tmp_path / "verified" / "records.jsonl")
    assert any(row.method not in ("forward", "pgd") for row in rows)


@pytest.mark.slow
def test_help_needs_no_onnxruntime_and_a_verification_without_one_is_one_line(tmp_path: Path) -> None:
    assert run(WITHOUT_RUNTIME, "verify", "--help").returncode == 0
    model, out = linear_model(tmp_path / "model.onnx"), tmp_path / "out"
    ball = ("--data", "digits", "--claim", "ball", "--radius", "0.1", "--out", str(out))
    result = run(WITHOUT_RUNTIME, "verify", str(model), *ball)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: onnxruntime is not installed; `pip install 'abscert-plugin[cpu]'`")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_plug_in_whose_import_fails_is_named_and_stops_no_other_command(tmp_path: Path) -> None:
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[abscert.commands]\nbroken = broken_plugin:register\n")
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no\\nluck')\n")
    code = "from abscert_plugin.cli import main; main()"
    data, listed = (run(code, *words, folder=tmp_path) for words in (("data", "--json"), ("--help",)))
    assert (data.returncode, data.stdout[0], data.stderr) == (0, "{", "")
    assert listed.returncode == 0
    assert "compare" in listed.stdout
    assert listed.stderr == (
        "note: left out broken (broken_plugin:register of the entry points abscert.commands): RuntimeError: no luck\n"
    )


def test_verify_is_explained_without_torch() -> None:
    code = """
import sys
from abscert_plugin.cli import main
sys.argv = ["abscert", "verify", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
needless = {"torch", "auto_LiRPA", "sklearn", "scipy", "jinja2", "baselines.cli", "compare.cli"} & set(sys.modules)
assert not needless, needless
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
