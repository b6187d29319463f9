"""docs/RESULTS.md and docs/results say what the committed records say: they are written out of them, not by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = ("RESULTS.md", "results/*.md", "results/*.svg")
LONGEST = 160


def written(folder: Path) -> dict[str, str]:
    paths = sorted(path for pattern in WRITTEN for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.slow
def test_the_pages_of_results_are_what_records_and_words_give(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/results.py"), "--into", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    made, committed = written(tmp_path), written(DOCS)
    assert sorted(made) == sorted(committed)
    for name, text in made.items():
        assert text == committed[name], f"docs/{name} is not what the records give; run `make results`"


def test_no_line_of_a_page_of_results_is_wider_than_a_screen() -> None:
    for name, text in written(DOCS).items():
        if name.endswith(".md"):
            assert [line for line in text.splitlines() if len(line) > LONGEST] == [], name


def test_the_first_page_has_six_figures_and_three_plots() -> None:
    text = (DOCS / "RESULTS.md").read_text(encoding="utf-8")
    figures = text.partition("## Six figures")[2].partition("\n## ")[0]
    assert sum(line.startswith("|") for line in figures.splitlines()) == 2 + 6
    plots = [line for line in text.splitlines() if line.startswith("![")]
    assert len(plots) == 3
    assert all((DOCS / line.rpartition("(")[2].rstrip(")")).is_file() for line in plots)
