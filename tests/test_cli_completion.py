"""Completion, by the protocol that the shells' scripts speak: words in the environment, suggestions on stdout."""

import io
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from command_line import linear_model
from typer.main import get_command

from abscert_plugin.cli import app


def completed(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Return what bash is told when its user presses the tabulator after a line."""
    words = line.split(" ")
    monkeypatch.setenv("_ABSCERT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit):
        get_command(app.build_app()).main(prog_name="abscert")
    return out.getvalue().split()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a run, a verification of it, a file of others, and what is nothing to us."""
    for name in ("runs/ball/deploy.onnx", "runs/ball/verify-ball/records.jsonl", "ball.json", "notes/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    linear_model(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("abscert ver", ["verify"]),
        ("abscert compare la", ["landscape"]),
        ("abscert verify --radius-", ["--radius-scale"]),
        ("abscert train --method crown", ["crown-ibp"]),
        ("abscert train --network fc-3", ["fc-3", "fc-3-code"]),
        ("abscert verify --data fa", ["fashion-mnist"]),
        ("abscert verify --claim b", ["ball"]),
        ("abscert verify --bound o", ["optimised"]),
        ("abscert data cif", ["cifar10"]),
        ("abscert compare plan mnist-c", ["mnist-cpu"]),
        ("abscert compare report --plan digits-s", ["digits-smoke"]),
        ("abscert verify ", ["model.onnx", "runs/ball", "runs/ball/deploy.onnx", "runs/ball/verify-ball"]),
        ("abscert show runs/ball/v", ["runs/ball/verify-ball", "runs/ball/verify-ball/records.jsonl"]),
        ("abscert baseline certify ru", ["runs/ball", "runs/ball/deploy.onnx", "runs/ball/verify-ball"]),
        ("abscert check ba", ["ball.json"]),
        ("abscert verify --checkpoint r", ["runs/ball", "runs/ball/verify-ball"]),
        ("abscert verify nothing", []),
    ],
)
def test_a_shell_completes(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: list[str]) -> None:
    assert completed(monkeypatch, line) == expected


def test_absolute_paths_are_completed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, f"abscert verify {folder}/mod") == [f"{folder}/model.onnx"]


def test_completion_starts_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys\n"
        "os.environ.update(_ABSCERT_COMPLETE='complete_bash', COMP_WORDS='abscert train --method ll', COMP_CWORD='3')\n"
        "from abscert_plugin.cli import main; sys.argv = ['abscert']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["llm"], "")
