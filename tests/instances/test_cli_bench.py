"""`abscert bench`: its table and page, going on, other solvers' results, and what it refuses."""

from functools import partial
from pathlib import Path

import pytest
from command_line import abscert, refused
from query_texts import box_texts, query_text
from small_nets import relu_file
from stand_in import COMMAND, started, write_list

from abscert_plugin.cli import bench as command
from abscert_plugin.instances.bench import Bench
from abscert_plugin.report.cactus import cactus

QUERIES = ["sat", "unsat", "unknown", "refuses"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a list that the stand-in runs."""
    monkeypatch.setattr(command, "Bench", partial(Bench, command=COMMAND))
    write_list(tmp_path / "tiny", QUERIES)
    return tmp_path / "tiny"


def test_a_run_ends_with_a_table_and_a_page(tiny: Path) -> None:
    out = tiny.parent / "out"
    said = abscert("bench", tiny / "instances.csv", "--out", out).out
    line = next(line for line in said.splitlines() if line.split()[:1] == ["tiny"])
    assert line.split()[1:-1] == ["4", "2", "1", "1", "1", "0", "1"]
    page = (out / "bench.html").read_text()
    assert 'id="decided">2 of 4<' in page
    assert "an operator is missing" in page
    facts = abscert("bench", tiny, "--out", out, "--json").json
    assert facts["results"] == {"sat": 1, "unsat": 1, "unknown": 1, "timeout": 0, "error": 1}
    assert started(tiny) == QUERIES
    abscert("bench", tiny, "--out", out, "--fresh", "--limit", 1, "--timeout", 9)
    assert started(tiny) == [*QUERIES, "sat"]
    assert len((tiny.parent / "out.old-1" / "records.jsonl").read_text().splitlines()) == 4


def test_a_contradiction_is_told_and_gives_status_1(tiny: Path) -> None:
    other = tiny.parent / "<other>"
    other.mkdir()
    lines = {"sat": "sat,0.5", "unsat": "sat,0.25", "unknown": "unsat,0.1"}
    (other / "results.csv").write_text("".join(f"tiny,net.onnx,{q}.vnnlib,0,{said}\n" for q, said in lines.items()))
    asked = ("bench", tiny, "--out", tiny.parent / "out", "--against", other)
    said = abscert(*asked, status=1).out
    assert "sat against unsat" in said
    assert abscert(*asked, "--json", status=1).json["contradictions"] == 1
    page = (tiny.parent / "out" / "bench.html").read_text()
    assert 'id="wrong"' in page
    assert "<other>" not in page
    assert "&lt;other&gt;" in page
    assert page.count('class="other"') == 1


def test_results_of_other_instances_are_told(tiny: Path) -> None:
    path = tiny.parent / "results.csv"
    path.write_text("other,net.onnx,q.vnnlib,0,sat,1\n")
    assert "says nothing of these instances" in abscert("bench", tiny, "--out", tiny / "o", "--against", path).err


def test_bad_input_is_one_line_and_nothing_is_run(tiny: Path) -> None:
    out = tiny.parent / "out"
    assert "cannot read" in refused("bench", tiny / "none.csv", "--out", out)
    assert "found neither" in refused("bench", tiny, "--out", out, "--against", tiny)
    assert "--memory above 0" in refused("bench", tiny, "--out", out, "--memory", 0)
    assert "above 0" in refused("bench", tiny, "--out", out, "--timeout", "nan")
    assert "cannot make the folder" in refused("bench", tiny, "--out", tiny / "net.onnx" / "out")
    (tiny / "sat.vnnlib").unlink()
    assert "there is no file" in refused("bench", tiny, "--out", out)
    assert not out.exists()
    assert started(tiny) == []


@pytest.mark.slow
def test_real_instances_are_decided(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    relu_file(folder / "net.onnx", 2)
    for name, limit in (("met", "0.5"), ("unmet", "1.5")):
        (folder / f"{name}.vnnlib").write_text(query_text([*box_texts(1), f"(>= Y_0 {limit})"], 1))
    (folder / "instances.csv").write_text("net.onnx,met.vnnlib,60\nnet.onnx,unmet.vnnlib,60\n")
    facts = abscert("bench", folder, "--out", tmp_path / "out", "--json").json
    assert facts["results"] == {"sat": 1, "unsat": 1, "unknown": 0, "timeout": 0, "error": 0}
    assert (tmp_path / "out" / "real" / "net_met.counterexample").read_text().startswith("((X_0 ")


def test_a_cactus_plot_has_a_step_for_each_instance() -> None:
    plot = cactus({"a": [1.0, 0.1], "b": []}, 4)
    first, second = plot.curves
    assert (first.count, second.count, second.path) == (2, 0, "")
    assert first.path.count("H") == 2
    assert [tick.text for tick in plot.ys] == ["0.1 s", "1 s"]
    assert [tick.text for tick in plot.xs] == ["0", "1", "2", "3", "4"]
    quick, slow = (float(part.split()[1].split("H")[0]) for part in first.path.removeprefix("M").split("L"))
    assert quick > slow  # of SVG, whose y axis points down
    assert cactus({"a": []}, 0).curves[0].path == ""
