"""Runs and certificates of the commit f9a1fb5 are read and checked."""

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
    "cell": ("--claim", "cell"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_former_certificate_holds(name: str) -> None:
    model = FORMER / MODELS[name] / "deploy.onnx"
    result = abscert("check", FORMER / f"{name}.json", model, "--data", "digits", "--all", "--json")
    found = json.loads(result.out)
    assert found["holds"], found
    assert found["decided_anew"] == found["certified"] > 5


@pytest.mark.parametrize("name", MODELS)
def test_a_former_run_is_read_and_not_gone_on_with(name: str, tmp_path: Path) -> None:
    """Its bounds were not proven, so it is no run that proven rows may be added to."""
    model = FORMER / MODELS[name] / "deploy.onnx"
    shutil.copytree(FORMER / name, tmp_path / "former")
    path = tmp_path / "former" / "run.json"
    former = json.loads(path.read_text())
    before = (tmp_path / "former" / "records.jsonl").read_bytes()
    command = ("verify", model, "--data", "digits", *CLAIMS[name], "--limit", 25, "--json")
    result = abscert(*command, "--out", tmp_path / "former", status=2)
    assert "holds another run (configuration." in result.err
    assert (tmp_path / "former" / "records.jsonl").read_bytes() == before
    assert json.loads(path.read_text()) == former
    rows = read_records(tmp_path / "former" / "records.jsonl")
    kinds = {(row.verdict, row.holds_for) for row in rows}
    assert ("certified", "this-runtime" if name == "cell" else "unproven") in kinds
    abscert(*command, "--out", tmp_path / "now")
    assert [row.verdict for row in read_records(tmp_path / "now" / "records.jsonl")] == [row.verdict for row in rows]
