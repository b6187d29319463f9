"""What refutes a query refutes it in both readings: in exact rationals, and with decimals and sums in float32."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from query_texts import query_text
from small_nets import Net, relu_file

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.query import refuting
from abscert_plugin.query.network import Network, open_network
from abscert_plugin.query.query import Query
from abscert_plugin.query.reading import parse
from abscert_plugin.query.refuting import Refuter
from abscert_plugin.query.solve import solve

pytest.importorskip("vnnlib")

SEEN = [
    # at the point, the constraint in VNN-LIB: exactly it fails, with float32 sums or decimals it holds
    ([2.0**24, 1.0], "(<= (+ Y[0,0] Y[0,1]) 16777216.0)"),
    ([2.0**24, 1.0], "(>= (- 16777216.0 Y[0,0] Y[0,1]) 0.0)"),
    ([float(np.float32(0.7))], "(>= Y[0,0] 0.7)"),
    ([float(np.float32(0.7))], "(>= (* 2.0 Y[0,0]) 1.4)"),
    ([float(np.float32(0.1)), 3.0], "(<= (* Y[0,0] Y[0,1]) 0.30000000447)"),
]


def question(folder: Path, point: list[float], constraint: str, kind: str) -> tuple[Query, Network]:
    places = [f"X[0,{place}]" for place in range(len(point))]
    texts = [
        f"({sign} {place} {exact(value)})" for place, value in zip(places, point, strict=True) for sign in ("<=", ">=")
    ]
    text = query_text([*texts, constraint], 2, kind, len(point), len(point))
    query = parse(text)
    return query, open_network(relu_file(folder / "relu.onnx", len(point)), query)


def exact(value: float) -> str:
    return np.format_float_positional(np.float64(value), trim="0")


@pytest.mark.parametrize(("point", "constraint"), SEEN)
def test_readings_that_differ_are_not_refuted_for_float32(point: list[float], constraint: str, tmp_path: Path) -> None:
    verdicts = {kind: solve(*question(tmp_path, point, constraint, kind), 3.0).verdict for kind in ("float32", "real")}
    assert verdicts["float32"] is QueryVerdict.UNKNOWN
    # products are bounded between ends, with the roundings of float32 in any case
    assert verdicts["real"] is (QueryVerdict.UNKNOWN if "Y[0,0] Y[0,1]) 0.3" in constraint else QueryVerdict.UNSAT)


@pytest.mark.parametrize(("point", "constraint"), SEEN[:4])
def test_roundings_that_are_left_out_are_seen(
    point: list[float], constraint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refuting, "_roundings", lambda terms: (0, Fraction(1)))
    assert solve(*question(tmp_path, point, constraint, "float32"), 3.0).verdict is QueryVerdict.UNSAT


def test_a_strict_limit_that_is_just_reached_is_refuted(tmp_path: Path) -> None:
    for sign, verdict in (("<", QueryVerdict.UNSAT), ("<=", QueryVerdict.SAT)):
        query, network = question(tmp_path, [0.5], f"({sign} Y[0,0] 0.5)", "float32")
        assert solve(query, network, 3.0).verdict is verdict


def test_linear_bounds_tell_how_they_depend_on_the_input(tmp_path: Path) -> None:
    """Of an affine network they are its weights."""
    weight = np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)
    path = Net([(weight, np.zeros(2, np.float32))]).write(tmp_path / "net.onnx")
    text = query_text(
        ["(<= X_0 1.0)", "(>= X_0 0.0)", "(<= X_1 1.0)", "(>= X_1 0.0)", "(<= Y_0 -9.0)", "(<= Y_1 -9.0)"], 1
    )
    query = parse(text)
    proof = open_network(path, query).proof
    refuter = Refuter(proof, query.cases[0], False)
    ends = torch.zeros((1, 2), dtype=torch.float64), torch.ones((1, 2), dtype=torch.float64)
    bounds, seen = refuter.explained(refuter.intervals(*ends, refined=False))
    assert torch.equal(seen[proof.source].reshape(2, 2), torch.from_numpy(weight.T).double())
    assert bool((bounds <= torch.tensor([[0.0, -2.0]])).all())
    assert bool((bounds >= torch.tensor([[0.0, -2.0]]) - 1e-5).all())  # float32 roundings of terms of size 6
