"""Default options of a run: which networks are opened to decide the claim `ball`, and by whom it is decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abscert_plugin.claim import Verdict
from abscert_plugin.plugins import Registry
from abscert_plugin.records import RunInfo, read_records
from abscert_plugin.training.loop import SilentObserver
from abscert_plugin.verification import solvers
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.opening import NetworkChoice
from abscert_plugin.verification.solvers import SolverEntry
from compare.plans.plan import read_plan
from compare.running.defaults import network_choice
from compare.running.execute import execute

PLAN = """
title = "two solvers"
[[grid]]
data = ["digits"]
network = ["fc-3-code"]
method = ["ibp"]
radius = ["0.05"]
epochs = 1
batch_size = 512
limit = 5
"""


@pytest.mark.parametrize(
    ("shape", "is_opened"),
    [((1, 28, 28), True), ((3, 32, 32), True), ((3, 64, 64), True), ((3, 65, 65), False), ((3, 224, 224), False)],
)
def test_networks_of_large_images_are_run_and_never_opened(shape: tuple[int, int, int], is_opened: bool) -> None:
    chosen = network_choice(shape, Path("training"))
    assert chosen == (NetworkChoice(False, Path("training")) if is_opened else NetworkChoice(True, None))


@dataclass(frozen=True)
class Idle:
    """A solver that decides nothing."""

    configuration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def decide(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Sequence[Decided]:
        raise RuntimeError("too tired")


def test_a_plan_chooses_its_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Registry(SolverEntry, (SolverEntry("idle", "for a test", lambda *_: Idle()),), (), "solver")
    monkeypatch.setattr(solvers, "SOLVERS", table)
    monkeypatch.setattr("compare.plans.feasibility.SOLVERS", table)
    (tmp_path / "plan.toml").write_text(PLAN + 'solver = "idle"\n')
    (run,) = read_plan(str(tmp_path / "plan.toml")).runs()
    execute(run, tmp_path / run.key, None, SilentObserver(), lambda _: None)
    folder = tmp_path / run.key / "verify-ball-0.05"
    assert RunInfo.read(folder / "run.json").configuration["solver"] == "idle"
    rows = read_records(folder / "records.jsonl")
    assert len(rows) == 5
    assert {row.method for row in rows} <= {"forward", "idle"}
    assert any("too tired" in row.reason for row in rows)


@pytest.mark.parametrize("asked", ["this-runtime", "any-order"])
def test_a_plan_chooses_what_verdicts_hold_for(asked: str, tmp_path: Path) -> None:
    claims = PLAN.replace('"ibp"', '"abstrain"') + f'cells = [3]\nclaims = ["cell", "ball"]\narithmetic = "{asked}"\n'
    (tmp_path / "plan.toml").write_text(claims)
    (run,) = read_plan(str(tmp_path / "plan.toml")).runs()
    execute(run, tmp_path / run.key, None, SilentObserver(), lambda _: None)
    for folder in ("verify-cell", "verify-ball-0.05"):
        assert RunInfo.read(tmp_path / run.key / folder / "run.json").configuration["arithmetic"] == asked
    rows = read_records(tmp_path / run.key / "verify-cell/records.jsonl")
    assert {row.arithmetic for row in rows if row.verdict == Verdict.CERTIFIED} == {asked}
