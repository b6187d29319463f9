"""VNN-LIB SATisfactory, which another group wrote to test solvers: no verdict is wrong, and all are right but a few."""

from pathlib import Path

import pytest

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.errors import QueryError, UnsupportedModelError
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import read_query
from abscert_plugin.query.solve import solve

pytest.importorskip("vnntest", reason="vnnlib-satisfactory is not installed: pip install --no-deps vnnlib-satisfactory")
SECONDS = 20.0  # of which a query that is decided takes a few tenths
REFUSED = {
    *("hidden01", "hidden02", "hidden03", "hidden04", "hidden05"),  # hidden nodes
    *("multi_io01", "multi_io02", "multi_io03", "multi_io04"),  # several inputs or outputs
    *("network_equal01", "network_isomorphic01", "network_isomorphic02", "network_multiple01"),  # several networks
    "maxpool03",  # inputs without bounds
}
OPEN = {
    *("cast01", "cast03", "cast07", "pow03"),  # an operator, or a type, that proofs do not know
    "equal03",  # the constant 0 is taken as computed, so up to what underflow may do
}
TOO_SLOW = {
    "softmax01",  # of real numbers, shares are at most 1 exactly; roundings of float32 are allowed for in all proofs
    "softmax04",  # 58,000 parts
    "softmax05",  # the same in four dimensions
}
"""Not run here: they would take all of their time."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the suite's own code warns of
def test_no_verdict_is_wrong_and_most_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the suite writes
    from vnntest.core.generator import generate_all_tests

    found: dict[str, str] = {}
    for entry in generate_all_tests("full"):
        if entry["name"] in TOO_SLOW:
            continue
        place = tmp_path / ".vnnlib-satisfactory" / "tests" / entry["category"]
        try:
            query = read_query(place / entry["vnnlib"]).query
            verdict = solve(query, open_network(place / entry["onnx"], query), SECONDS).verdict
        except (QueryError, UnsupportedModelError):
            found[entry["name"]] = "refused"
            continue
        is_decided = verdict in (QueryVerdict.SAT, QueryVerdict.UNSAT)
        is_right = verdict == entry["expected"].lower()
        found[entry["name"]] = "right" if is_right else "wrong" if is_decided else "open"
    assert len(found) == 178 - len(TOO_SLOW)
    assert [name for name, outcome in found.items() if outcome == "wrong"] == []
    assert {name for name, outcome in found.items() if outcome == "refused"} <= REFUSED
    assert {name for name, outcome in found.items() if outcome == "open"} <= OPEN
