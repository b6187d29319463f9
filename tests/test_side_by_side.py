"""benchmarks/side_by_side.py with a solver in the place of alpha-beta-CROWN that answers what a test wants."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import side_by_side
from command_line import train

ROOT: Final = Path(__file__).resolve().parents[1]
SCRIPT: Final = ROOT / "benchmarks" / "side_by_side.py"

API: Final = """
import contextlib, os
from types import SimpleNamespace
import torch

class Config(dict):
    from_defaults = classmethod(lambda kind: kind(general={}))
    def set(self, **given): self.update(given); return lambda: self

ConfigBuilder = Config
_config_context = lambda config: contextlib.nullcontext()

class VerificationSpec:
    @staticmethod
    def build_spec(lower, upper, clauses):
        assert lower.shape == upper.shape and bool((lower <= upper).all())
        assert len(clauses) == 1 and len(clauses[0]) == 9
        return lower

class ABCrownSolver:
    asked = 0
    def __init__(self, spec, network, config): self.middle = spec
    def solve(self):
        print("what it prints is no answer")
        ABCrownSolver.asked += 1  # the first is asked about twice
        if ABCrownSolver.asked == 3: os._exit(3)
        status = ["", "safe", "unsafe-pgd"][ABCrownSolver.asked] if ABCrownSolver.asked < 3 else 1 / 0
        return SimpleNamespace(status=status, stats={"attack_examples": self.middle[None]})
"""
LOADER: Final = """
import torch
def load_model_onnx(path):
    return torch.nn.Flatten(), None
"""


def row(
    place: int, ours: str, theirs: str, seconds: tuple[float, float], how: str = "safe-incomplete"
) -> dict[str, Any]:
    answers = [{"verdict": word, "how": how, "seconds": one} for word, one in zip((ours, theirs), seconds, strict=True)]
    return {"model": "net", "index": place, "budget": 10.0, "ours": answers[0], "theirs": answers[1]}


def test_the_table_counts_what_stands_in_the_rows(tmp_path: Path) -> None:
    rows = [
        row(0, "certified", "certified", (1.0, 4.0)),
        row(1, "certified", "falsified", (1.0, 1.0), "unsafe-bab"),
        row(2, "unknown", "falsified", (10.0, 11.0)),
        row(3, "falsified", "not replayed", (2.0, 1.0)),
        row(4, "unknown", "unknown", (10.0, 10.0)),
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    lines = side_by_side.table([path]).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("net", "5", "3 / 3", "2 / 1", "1 / 2", "2 / 2", "1", "0 / 1", "0.625 of 2", "1 of 1", "0 / 0")
    ]
    assert "- net: 2" in lines[lines.index("Decided by theirs alone:") + 1]
    assert "- net: 3" in lines[lines.index("Decided by ours alone:") + 1]
    for item in rows:
        item |= {"model": "folder/net/deploy.onnx", "radius": "0.1", "label": 3, "about": {}}
        item["ours"]["reason"] = "why"
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    side_by_side.keep([path], tmp_path / "kept.jsonl")
    assert side_by_side.table([tmp_path / "kept.jsonl"]).splitlines() == lines


@pytest.mark.slow
def test_both_are_asked_and_a_solver_that_dies_or_lies_is_told(tmp_path: Path) -> None:
    checkout, out = tmp_path / "complete_verifier", tmp_path / "answers.jsonl"
    checkout.mkdir()
    for name, text in (("api", API), ("load_model", LOADER), ("auto_LiRPA", "__version__ = '0'")):
        (checkout / f"{name}.py").write_text(text)
    model = train(tmp_path / "run", "--method", "reachable", "--radius", "0.02", "--cells", "4") / "deploy.onnx"
    asked = [*("ask", model, "--radius", "0.02", "--data", "digits", "--limit", "3", "--seconds", "1"), "--out", out]
    command = [sys.executable, SCRIPT, *asked, "--python", sys.executable, "--checkout", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run() -> list[dict[str, Any]]:
        subprocess.run([*map(str, command)], env=environment, check=True, capture_output=True)
        return list(side_by_side.read(out))

    rows = run()
    assert [item["index"] for item in rows] == [0, 1, 2]
    assert all(item["ours"]["verdict"] in ("certified", "falsified", "unknown") for item in rows)
    assert rows[0]["theirs"]["verdict"] in ("falsified", "box alone")  # by the least image of the ball
    assert (rows[0]["theirs"]["margin"] <= 0) == (rows[0]["theirs"]["verdict"] == "falsified")
    assert rows[1]["theirs"] == {"verdict": "unknown", "how": "ended", "reason": "exit status 3"}
    assert rows[2]["theirs"]["verdict"] == "certified"  # of a process that was started again
    assert run() == rows
