"""The scripts in examples/, run as a user runs them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from box_oracle import lirpa_or_skip

from abscert_plugin.records import read_records

ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples"


def run(name: str, *arguments: object) -> str:
    """Return what an example prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_training_is_verified_and_its_records_are_read(tmp_path: Path) -> None:
    told = run("train_and_verify", tmp_path)
    cell, ball = tmp_path / "verify-cell", tmp_path / "verify-ball"
    certified = {
        folder: sum(row.verdict == "certified" for row in read_records(folder / "records.jsonl"))
        for folder in (cell, ball)
    }
    assert f"claim cell: {certified[cell]} of 359 images certified" in told
    assert f"claim ball, radius 0.02 (pixel scale): {certified[ball]} of 50 images certified" in told
    assert all(certified.values())
    lines = run("read_records", cell, ball).splitlines()
    titles = [line for line in lines if not line.startswith(" ")]
    assert [title.split(": ")[0] for title in titles] == ["verify-cell (cell)", "verify-ball (ball, radius 1/50)"]
    counts = [int(match[1]) for line in lines if (match := re.match(r" +(\d+) ", line))]
    assert sum(counts) == 359 + 50


@pytest.mark.slow
def test_a_scikit_learn_classifier_is_wrapped_and_verified(tmp_path: Path) -> None:
    told = run("wrap_scikit_learn", tmp_path)
    found = re.search(r"claim cell: (\d+) of 359 images certified with 8 cells", told)
    assert found is not None
    assert int(found[1]) > 300


def test_every_example_says_how_it_is_run() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert f"python examples/{path.name} " in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_auto_lirpa_bounds_a_classifier_behind_phi() -> None:
    lirpa_or_skip()
    widths = re.findall(r"^([A-Z-]+): logits lie within (\d+\.\d+)$", run("bound_by_auto_lirpa", 0.1), re.MULTILINE)
    assert [method for method, _ in widths] == ["IBP", "CROWN-IBP", "CROWN"]
    ibp, crown_ibp, crown = (float(width) for _, width in widths)
    assert 0 < crown < crown_ibp < ibp
