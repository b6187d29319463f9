"""`abscert show --html` on the claim `ball`: counterexamples with their labels, uneven cells, and lying run.json."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import abscert, train

from abscert_plugin.records import read_records

LIMIT = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("ball") / "run", "--cells", 2)
    abscert(
        "verify", folder / "deploy.onnx", "--claim", "ball", "--radius", 0.2, "--limit", LIMIT, "--out", folder / "v"
    )
    return folder


def copied(run: Path, to: Path, **model: object) -> Path:
    """Copy the folder of the verification, with other facts on the model in its run.json."""
    shutil.copytree(run / "v", to)
    facts = json.loads((to / "run.json").read_text())
    facts["model"] |= model
    (to / "run.json").write_text(json.dumps(facts))
    return to


def page_of(folder: Path, page: Path) -> str:
    abscert("show", folder, "--html", page)
    return page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_each_stored_counterexample_is_shown_with_the_label_that_the_file_gives_it(run: Path, tmp_path: Path) -> None:
    text = page_of(run / "v", tmp_path / "page.html")
    rows = [row for row in read_records(run / "v" / "records.jsonl") if row.verdict != "certified"]
    stored = [row for row in rows if row.counterexample not in (None, "itself")]
    assert stored
    pictures = text[text.index('id="gallery"') :].count("data:image/png;base64,")
    assert pictures == 5 * len(stored) + 2 * (len(rows) - len(stored))
    assert text.count("the counterexample is predicted") == len(stored)
    assert "the image's own label" not in text
    assert "cannot be shown" not in text


@pytest.mark.slow
def test_without_the_model_of_the_run_the_labels_are_left_out(run: Path, tmp_path: Path) -> None:
    for place, folder in (
        ("away", copied(run, tmp_path / "away")),
        ("other", copied(run, run / "other", sha256="0" * 64)),
        ("path", copied(run, run / "path", path="../run/deploy.onnx")),
        ("zero", copied(run, run / "zero", path="a\0b")),
    ):
        text = page_of(folder, tmp_path / f"{place}.html")
        assert 'class="many"' in text
        assert "the counterexample is predicted" not in text


@pytest.mark.slow
def test_a_run_that_lost_its_counterexamples_still_makes_a_page(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "bare")
    shutil.rmtree(folder / "counterexamples")
    text = page_of(folder, tmp_path / "page.html")
    assert "The stored counterexample cannot be shown: the file is missing." in text
    assert 'class="many"' not in text


def test_uneven_cells_are_read_from_the_edges_of_run_json(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "uneven", edges=[0.125])
    assert "2, with edges at 0.125 (pixel scale)" in page_of(folder, tmp_path / "page.html")


@pytest.mark.parametrize("edges", [[], [0.1, 0.2], ["<b>"], [2], [-1], 7, {"a": 1}, [None], [10**400], [[0.5]]])
def test_edges_that_are_none_are_refused(run: Path, tmp_path: Path, edges: object) -> None:
    folder = copied(run, tmp_path / "lie", edges=edges)
    result = abscert("show", folder, "--html", tmp_path / "page.html", status=2)
    assert "run.json" in result.err
    assert not (tmp_path / "page.html").exists()


def test_the_terminal_says_which_step_decided_how_many(run: Path) -> None:
    rows = read_records(run / "v" / "records.jsonl")
    text = abscert("show", run / "v").out
    assert "Decided by, claim ball, radius 0.2 pixel (0.4 training)" in text
    last = text[text.index("Decided by") :]
    for method in {row.method for row in rows}:
        assert f" {method} " in last
