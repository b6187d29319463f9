"""The scripts in examples/, run as a user runs them."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest
from box_oracle import lirpa_or_skip
from scripts import run_script

from abscert_plugin.records import read_records

ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples"


def run(name: str, *arguments: object) -> str:
    """Return what an example prints."""
    return run_script(EXAMPLES / f"{name}.py", *arguments, folder=ROOT)


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


def skip_without(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; docs/howto/peers.md has a run")


@pytest.mark.slow
def test_foolbox_attacks_a_deployed_file_and_fools_no_certified_image() -> None:
    skip_without("foolbox")
    told = run("attack_by_foolbox", 0.05)
    found = re.findall(r"^(straight-through|cells): (\d+) fooled, 0 of them certified$", told, re.MULTILINE)
    assert [kind for kind, _ in found] == ["straight-through", "cells"]
    certified = re.match(r"(\d+) of 297 images certified", told)
    assert certified is not None
    assert all(0 < int(count) <= 297 - int(certified[1]) for _, count in found)


@pytest.mark.slow
def test_verdicts_are_scores_of_a_certified_classifier_of_art() -> None:
    skip_without("art")
    clean, attacked, certified = map(float, re.findall(r"accuracy.* (\d+\.\d)%", run("scores_for_art", 0.05)))
    assert 50 < certified <= attacked <= clean


@pytest.mark.slow
def test_alpha_beta_crown_verifies_a_network_with_cells_by_its_own_solver() -> None:
    skip_without("abcrown")
    told = run("inside_abcrown", 0.05)
    found = re.findall(r"ABCrownSolver says (\w+)-?.*, we say (\w+)$", told, re.MULTILINE)
    assert len(found) == 10
    contradictions = {("safe", "falsified"), ("unsafe", "certified")}
    assert not contradictions & set(found)


@pytest.mark.slow
def test_auto_lirpa_bounds_a_classifier_behind_phi() -> None:
    lirpa_or_skip()
    widths = re.findall(r"^([A-Z-]+): logits lie within (\d+\.\d+)$", run("bound_by_auto_lirpa", 0.1), re.MULTILINE)
    assert [method for method, _ in widths] == ["IBP", "CROWN-IBP", "CROWN"]
    ibp, crown_ibp, crown = (float(width) for _, width in widths)
    assert 0 < crown < crown_ibp < ibp
