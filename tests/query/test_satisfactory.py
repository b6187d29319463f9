"""VNN-LIB SATisfactory, which another group wrote to test solvers: no verdict is wrong, and these many are right."""

from collections import Counter
from pathlib import Path

import pytest

from abscert_plugin.errors import QueryError, UnsupportedModelError
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import read_query
from abscert_plugin.query.solve import Verdict, solve

pytest.importorskip("vnntest", reason="vnnlib-satisfactory is not installed: pip install --no-deps vnnlib-satisfactory")
RIGHT = 142
"""Of 178. More are right as proofs learn more operators; fewer would be a loss."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the suite's own code warns of
def test_no_verdict_is_wrong_and_most_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the suite writes
    from vnntest.core.generator import generate_all_tests

    found: Counter[str] = Counter()
    wrong = []
    for entry in generate_all_tests("full"):
        place = tmp_path / ".vnnlib-satisfactory" / "tests" / entry["category"]
        try:
            query = read_query(place / entry["vnnlib"]).query
            verdict = solve(query, open_network(place / entry["onnx"], query), 10.0).verdict
        except (QueryError, UnsupportedModelError):  # several networks, hidden nodes, several inputs or outputs
            found["refused"] += 1
            continue
        is_decided = verdict in (Verdict.SAT, Verdict.UNSAT)
        if is_decided and verdict != entry["expected"].lower():
            wrong.append((entry["name"], verdict))
        found["right" if is_decided else "open"] += 1
    assert not wrong
    assert found["right"] >= RIGHT, found
