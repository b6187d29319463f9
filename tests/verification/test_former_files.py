"""Runs and certificates of the commit f9a1fb5 are read, gone on with and checked as they were then."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import abscert

from abscert_plugin.records import read_records

FORMER = Path(__file__).resolve().parents[1] / "fixtures" / "verified"
MODELS = {"ball-cells": "cells", "ball-plain": "plain", "cell": "cells"}
CLAIMS = {
    "ball-cells": ("--claim", "ball", "--radius", "0.05", "--timeout", "30"),
    "ball-plain": ("--claim", "ball", "--radius", "0.05", "--timeout", "30"),
    "cell": (),
}
OF_THE_MACHINE = ("threads", "onnxruntime")


@pytest.mark.parametrize("name", MODELS)
def test_a_former_certificate_holds(name: str) -> None:
    model = FORMER / MODELS[name] / "deploy.onnx"
    result = abscert("check", FORMER / f"{name}.json", model, "--data", "digits", "--all", "--json")
    found = json.loads(result.out)
    assert found["holds"], found
    assert found["decided_anew"] == found["certified"] > 5


@pytest.mark.parametrize("name", MODELS)
def test_a_former_run_is_gone_on_with(name: str, tmp_path: Path) -> None:
    """All but the machine's own facts are compared, so what a verdict depends on is described as it was."""
    model = FORMER / MODELS[name] / "deploy.onnx"
    command = ("verify", model, "--data", "digits", *CLAIMS[name], "--limit", 25, "--json")
    abscert(*command, "--out", tmp_path / "now")
    shutil.copytree(FORMER / name, tmp_path / "former")
    path = tmp_path / "former" / "run.json"
    former, now = json.loads(path.read_text()), json.loads((tmp_path / "now" / "run.json").read_text())
    former["versions"] = now["versions"]
    former["configuration"] |= {key: now["configuration"][key] for key in OF_THE_MACHINE}
    path.write_text(json.dumps(former))
    rows = read_records(tmp_path / "former" / "records.jsonl")
    abscert(*command, "--out", tmp_path / "former")
    assert read_records(tmp_path / "former" / "records.jsonl") == rows
    assert [row.verdict for row in read_records(tmp_path / "now" / "records.jsonl")] == [row.verdict for row in rows]
