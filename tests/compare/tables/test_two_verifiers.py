"""Figures of an older verifier, or of other images, are told from the others and never averaged with them."""

import json
from pathlib import Path

import msgspec
import pytest
from stored_records import RUN, build_tables, named, store

from abscert_plugin.errors import RecordError
from compare.plans.planned_run import Run
from compare.results.verified_run import verified_runs
from compare.tables.paper_cells import gain_cell

IBP = msgspec.structs.replace(RUN, method="ibp", cells=None, claims=("ball",))
SABR = msgspec.structs.replace(IBP, method="sabr")


def prove(folder: Path) -> None:
    """Say of a run's balls that a verifier with proofs decided them."""
    for path in folder.glob("verify-ball-*/run.json"):
        content = json.loads(path.read_text())
        content["configuration"]["proofs"] = True
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(("proven", "flagged"), [((), 0), ((IBP,), 1), ((IBP, SABR), 0)])
def test_a_table_of_two_verifiers_says_so(proven: tuple[Run, ...], flagged: int, tmp_path: Path) -> None:
    for run in (IBP, SABR):
        folder = store(tmp_path, run, {"ball": 20})
        if run in proven:
            prove(folder)
    (table,) = build_tables(tmp_path)
    assert len(named(table)) == 2
    notes = [
        note for note in table.notes if note.startswith("Flagged: 1 of 2 verifications of balls are by a verifier")
    ]
    assert len(notes) == flagged


def test_seeds_of_two_verifiers_are_not_averaged(tmp_path: Path) -> None:
    store(tmp_path, IBP, {"ball": 20})
    prove(store(tmp_path, msgspec.structs.replace(IBP, seed=1), {"ball": 20}))
    with pytest.raises(RecordError, match="by verifiers with and without proofs; verify the latter again"):
        build_tables(tmp_path)


@pytest.mark.parametrize(("count", "gain"), [(200, "50.00"), (100, "")])
def test_errors_of_other_images_are_no_improvement(count: int, gain: str, tmp_path: Path) -> None:
    store(tmp_path, IBP, {"ball": 20})
    store(tmp_path, SABR, {"ball": 10}, count=count)
    runs = {one.run.method: one for one in verified_runs(tmp_path)[0]}
    assert gain_cell((runs["sabr"],), (runs["ibp"],), None).ours == gain
