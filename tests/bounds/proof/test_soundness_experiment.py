"""The soundness experiment in short; benchmarks/soundness.py runs it at length."""

import json
import sys
from pathlib import Path

import pytest
import soundness
from soundness_trials import attacks
from soundness_trials.nets import Experiment
from soundness_trials.traps import KINDS, Traps

from abscert_plugin.bounds.proof import arithmetic


def ignored(done: int) -> None:
    pass


def counted(nets: int) -> tuple[int, int]:
    """Return how many values lie outside their enclosures, and margins below their bounds."""
    found = Experiment(seed=1, ways=3).run(nets, ignored)
    assert found["nets"] == nets
    assert found["values"] > 1000 * nets
    return found["values_outside"], found["margins_below"]


def test_random_nets_compute_nothing_outside_their_enclosures() -> None:
    assert counted(8) == (0, 0)


def test_random_nets_show_a_proof_without_the_files_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    outside, below = counted(5)
    assert outside > 0
    assert below > 0


def test_no_trap_is_proven_and_honest_images_are(tmp_path: Path) -> None:
    found = Traps(seed=1, seconds=0.0, folder=tmp_path, every=0).run(len(KINDS), ignored, ("plain",))
    assert found["files_mislabelling"] == len(KINDS)
    assert found["proof_wrong"] == 0
    assert found["guard_wrong"] == 0
    for who in ("proof", "guard"):
        assert found[f"{who}_honest_certified"] > found[f"{who}_honest"] / 2


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_published_attacks_are_not_proven_but_when_tame(name: str, tmp_path: Path) -> None:
    if name != "Jia & Rinard 2021, at the boundary":  # it has to be searched for
        attacked = attacks.try_attack(name, 0, False, tmp_path)
        assert attacked["mislabelled"]
        assert not attacked["proof"]
        assert not attacked["guard"]
    tame = attacks.try_attack(name, 0, True, tmp_path)
    assert tame["proof"]
    assert not tame["mislabelled"]


def test_the_script_ends_with_a_line_for_the_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["soundness.py", "nets", "--count", "1", "--ways", "1"])
    with pytest.raises(SystemExit) as ended:
        soundness.main()
    assert not ended.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["command"] == "python benchmarks/soundness.py nets --count 1 --ways 1"
    assert record["counts"]["nets"] == 1
    assert " 0 margins below their bounds" in record["figure"]


def test_the_script_fails_where_there_are_faults() -> None:
    assert not soundness.faults({"an attack": {"proof_wrong": 0}, "values_outside": 0})
    assert soundness.faults({"an attack": {"proof_wrong": 2}, "values_outside": 1}) == 3
