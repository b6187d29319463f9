"""docs/RESULTS.md says what the committed records say: it is written out of them, not by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_page_of_results_is_what_its_records_and_words_give(tmp_path: Path) -> None:
    made = tmp_path / "RESULTS.md"
    command = [sys.executable, str(ROOT / "benchmarks/results.py"), "--into", str(made)]
    subprocess.run(command, check=True, timeout=300)
    assert made.read_text(encoding="utf-8") == (ROOT / "docs/RESULTS.md").read_text(encoding="utf-8"), (
        "docs/RESULTS.md is not what the records give; run `make results`"
    )
