"""The traps of benchmarks/trap_files.py are what they are said to be, and the page of them says what was measured."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_oracle import guard_margins

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.graph.nodes import read_graph

ROOT = Path(__file__).parents[3]
NAMES = ["swallowed", "detour", "twice", "order", "overflow", "subnormal", "control"]


@pytest.fixture(name="files")
def _files(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("trap_files")


def trap(files: Any, name: str) -> Any:
    return {one.name: one for one in files.TRAPS}[name]


def test_these_are_all_the_traps(files: Any) -> None:
    assert [one.name for one in files.TRAPS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_trap_is_right_in_real_arithmetic_and_wrong_in_the_file(files: Any, name: str) -> None:
    one = trap(files, name)
    assert files.least_margin(one) >= 0.125
    if name == "order":  # a runtime on another machine may sum in another, and be right
        terms = np.array([2.0**28 * 0.75, *[0.0625] * 14, -(2.0**28) * 0.75], np.float32)
        assert np.cumsum(terms, dtype=np.float32)[-1] == 0
    else:
        first, second = one.run(files.WITNESS)
        assert (first > second) != one.is_wrong


@pytest.mark.parametrize("box", ["whole", "corner"])
@pytest.mark.parametrize("name", NAMES)
def test_only_the_control_is_proven(files: Any, name: str, box: str) -> None:
    one = trap(files, name)
    graph = read_graph(one.model(), Path(f"{name}.onnx"))
    low, high = (torch.full((1, files.INPUTS), end) for end in files.BOXES[box])
    label = torch.tensor([0])
    bounds = [
        float(Proof(graph, "x", (files.INPUTS,), 2, dtype).margins(low, high, label, method))
        for dtype, method in (
            (torch.float32, BoundMethod.IBP),
            (torch.float64, BoundMethod.IBP),
            (torch.float64, BoundMethod.CROWN_IBP),
            (torch.float64, BoundMethod.CROWN),
        )
    ]
    bounds.append(float(guard_margins(graph, low.numpy(), high.numpy(), 2)[0, 0]))
    if one.is_wrong:
        assert max(bounds) <= 0
    else:
        assert max(bounds) > 0.05
        assert np.isfinite(bounds[-1])  # intervals alone: of the whole box they lose sight


def test_files_properties_and_witnesses_are_written(files: Any, tmp_path: Path) -> None:
    files.write(tmp_path / "traps")
    written = {path.name for path in (tmp_path / "traps").iterdir()}
    assert written == {"traps.json"} | {
        name + end for name in NAMES for end in (".onnx", "-whole.vnnlib", "-corner.vnnlib")
    }
    rows = json.loads((tmp_path / "traps" / "traps.json").read_text())
    assert [row["trap"] for row in rows] == NAMES
    text = (tmp_path / "traps" / "order-corner.vnnlib").read_text()
    assert "(assert (>= X_11 0.984375))" in text
    assert "(assert (<= X_11 1.0))" in text
    assert "(assert (>= Y_1 Y_0))" in text


def test_the_page_has_the_table_that_the_kept_answers_give(files: Any) -> None:
    del files  # its folder is on the path now
    tools = importlib.import_module("traps_of_other_tools")
    table = tools.table(ROOT / "benchmarks" / "records" / "traps.jsonl")
    assert table in (ROOT / "docs" / "METHOD.md").read_text(encoding="utf-8")
