"""The soundness experiment in short; benchmarks/soundness.py runs it at length."""

from pathlib import Path

import pytest
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
    assert found["proof_honest_certified"] > found["proof_honest"] / 2


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_published_attacks_are_not_proven_but_when_tame(name: str, tmp_path: Path) -> None:
    if name != "Jia & Rinard 2021, at the boundary":  # it has to be searched for
        attacked = attacks.try_attack(name, 0, False, tmp_path)
        assert attacked["mislabelled"]
        assert not attacked["proof"]
    tame = attacks.try_attack(name, 0, True, tmp_path)
    assert tame["proof"]
    assert not tame["mislabelled"]
