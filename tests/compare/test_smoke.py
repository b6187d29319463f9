"""The shipped plan digits-smoke from end to end: every run done, every table complete, one page."""

from pathlib import Path

import pytest
from command_line import abscert
from stored_records import build_tables

from compare.plans.plan import read_plan
from compare.tables.error_table import NOT_RUN


@pytest.mark.slow
def test_the_smoke_plan_gives_complete_tables_and_a_page(tmp_path: Path) -> None:
    results = tmp_path / "results"
    runs = read_plan("digits-smoke").runs()
    facts = abscert("compare", "run", "digits-smoke", "--out", results, "--json").json
    assert (facts["states"], facts["failures"]) == ({"done": len(runs)}, {})
    (table,) = build_tables(results)  # one protocol, and no run without figures
    assert len(table.rows) == len(runs)
    assert not any(cell == NOT_RUN for row in table.rows for cell in row)
    by_name = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert {row["method"] for row in by_name} == {run.method for run in runs}
    for row in by_name:
        assert 0 <= float(row["ball error %"]) <= 100
        assert bool(row["cell error %"]) == bool(row["cells"])
    page = tmp_path / "page.html"
    abscert("compare", "report", "--out", results, "--into", page)
    assert all(run.key in page.read_text(encoding="utf-8") for run in runs)
