"""Sums of constraints: their weights against a linear program, what they refute against points that are sampled."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from query_texts import box_texts, query_text
from scipy.optimize import linprog
from small_nets import Net, relu_file

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.query import refuting
from abscert_plugin.query.attack import Attack
from abscert_plugin.query.combining import combination
from abscert_plugin.query.network import exactly, open_network
from abscert_plugin.query.query import Query
from abscert_plugin.query.reading import parse, read_query
from abscert_plugin.query.refuting import Refuter
from abscert_plugin.query.solve import QueryOutcome, solve
from abscert_plugin.query.tree import COMBINED, listed
from abscert_plugin.query.unsat_proof import fault_of, read_unsat_proof, write_unsat_proof
from abscert_plugin.records import digest_of


def test_weights_are_found_where_a_linear_program_says_that_there_are_some() -> None:
    chance = np.random.default_rng(0)
    slopes, room = chance.standard_normal((60, 4, 3)), -4 * chance.random((60, 4))
    radius = torch.ones((60, 3), dtype=torch.float64)
    weights, sums = combination(torch.from_numpy(slopes), torch.from_numpy(room), radius)
    middles = room + np.abs(slopes).sum(2)
    is_empty = [
        linprog(np.zeros(3), A_ub=slope, b_ub=-middle, bounds=[(-1, 1)] * 3).status == 2
        for slope, middle in zip(slopes, middles, strict=True)
    ]
    found = (sums > 0).tolist()
    assert 10 < sum(is_empty) < 60
    assert not any(one and not other for one, other in zip(found, is_empty, strict=True))
    assert sum(found) >= sum(is_empty) - 2
    assert bool(((weights >= 0) & (weights <= 1)).all())
    least = (weights.numpy() * middles).sum(1) - np.abs(np.einsum("bl,ble->be", weights.numpy(), slopes)).sum(1)
    assert ((least > 0) == found).all()


def test_nothing_is_combined_of_what_is_not_known() -> None:
    room = torch.tensor([[-torch.inf, 1.0], [-torch.inf, -torch.inf]], dtype=torch.float64)
    weights, sums = combination(torch.full((2, 2, 3), torch.nan).double(), room, torch.ones((2, 3)).double())
    assert bool((sums == -torch.inf).all())
    assert bool(weights.isfinite().all())


MIRRORED = Net(
    [
        (np.array([[1, -1], [0.5, -0.5]], np.float32), np.zeros(2, np.float32)),
        (np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
    ]
)
"""relu(t) and relu(-t) of t = x0 + x1 / 2: never above 0 both."""


def mirrored(folder: Path, *others: str) -> QueryOutcome:
    texts = [*box_texts(1), *others, "(>= Y_0 0.9)", "(>= Y_1 0.9)"]
    (folder / "q.vnnlib").write_text(query_text(texts, 1))
    query = read_query(folder / "q.vnnlib")
    network = open_network(MIRRORED.write(folder / "net.onnx"), query.query)
    outcome = solve(query.query, network, 20.0)
    write_unsat_proof(folder / "proof.json", query, network, outcome.groups)
    return outcome


def checked(folder: Path, change: dict[str, object]) -> str:
    """Return what is said of the proof with another first group."""
    value = json.loads((folder / "proof.json").read_text())
    value["groups"][0].update(change)
    value["digest"] = digest_of({key: item for key, item in value.items() if key != "digest"})
    (folder / "forged.json").write_text(json.dumps(value))
    query = read_query(folder / "q.vnnlib")
    return fault_of(read_unsat_proof(folder / "forged.json"), query, open_network(folder / "net.onnx", query.query))


def test_what_no_constraint_refutes_their_sum_does(tmp_path: Path) -> None:
    outcome = mirrored(tmp_path)
    assert outcome.verdict is QueryVerdict.UNSAT
    ((kind, weights),) = listed(outcome.groups[0].root)
    assert (kind, len(weights)) == (COMBINED, 2)
    assert checked(tmp_path, {}) == ""


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ([COMBINED, [1.0, 0.0]], "not refuted by combined"),
        ([COMBINED, [0.0, 0.0]], "not refuted by combined"),
        ([COMBINED, [1.0]], "not refuted by combined"),
        ([COMBINED, []], "not refuted by combined"),
        ([COMBINED, [1.0, -1.0]], "which is none"),
        ([COMBINED, [1.0, 1e9]], "which is none"),
        ([COMBINED, [True, True]], "which is none"),
        ([COMBINED], "which is none"),
        (["crown"], "not refuted by crown"),
    ],
)
def test_other_weights_are_refused(node: list[object], reason: str, tmp_path: Path) -> None:
    mirrored(tmp_path)
    assert reason in checked(tmp_path, {"tree": [node]})


def test_constraints_of_several_conjunctions_are_not_summed(tmp_path: Path) -> None:
    """Both hold somewhere: that no point satisfies both at once says nothing of either alone."""
    query = parse(query_text([*box_texts(1), "(or (and (>= Y_0 0.9)) (and (>= Y_1 0.9)))"], 1))
    network = open_network(MIRRORED.write(tmp_path / "net.onnx"), query)
    assert Refuter(network.proof, query.cases[0], False).combinable == 0


def read_at(folder: Path, point: list[float], constraints: list[str], kind: str, weights: list[float]) -> bool:
    """Return whether a sum of constraints is refuted at a point of a network that gives its input."""
    texts = [f"({sign} X[0,{k}] {value:.1f})" for k, value in enumerate(point) for sign in ("<=", ">=")]
    query = parse(query_text([*texts, *constraints], 2, kind, len(point), len(point)))
    proof = open_network(relu_file(folder / "relu.onnx", len(point)), query).proof
    refuter = Refuter(proof, query.cases[0], query.is_real)
    ends = torch.tensor([point], dtype=torch.float64)
    values = refuter.intervals(ends, ends, refined=True)
    return bool(refuter.combined(values, torch.tensor([weights], dtype=torch.float64))[0])


def test_a_sum_that_float32_rounds_is_not_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2^24 + 1 is 2^24 in float32: 1 too much is none there, 8 too much is."""
    near, far = [2.0**24, 1.0, 2.0**24], [2.0**24, 8.0, 2.0**24]
    texts = ["(<= (+ Y[0,0] Y[0,1]) Y[0,2])", "(<= Y[0,1] 1.0)"]
    assert not read_at(tmp_path, near, texts, "float32", [1.0, 1.0])
    assert read_at(tmp_path, near, texts, "real", [1.0, 1.0])
    assert read_at(tmp_path, far, texts, "float32", [1.0, 0.0])
    monkeypatch.setattr(refuting, "_loosened", lambda bounds, slack, output: bounds)
    assert read_at(tmp_path, near, texts, "float32", [1.0, 1.0])


def drawn(seed: int, folder: Path) -> tuple[Query, QueryOutcome, bool]:
    """Return a query of three constraints, its verdict, and whether a point contradicts it: one satisfies it if even.

    Points are not tried in deciding it, so that all rests on the proof.
    """
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [2, 6, 4, 3])
    points = [chance.uniform(-1, 1, 2).astype(np.float32) for _ in range(400)]
    outputs = np.array([net.single(point, chance) for point in points])
    goal = outputs[int(chance.integers(len(points)))] + (0.8 if seed % 2 else -0.05) * outputs.std(0)
    texts = [f"(>= Y_{place} {value:.5f})" for place, value in enumerate(goal)]
    query = parse(query_text([*box_texts(1), *texts], 1, outputs=3))
    network = open_network(net.write(folder / f"net{seed}.onnx"), query)
    with pytest.MonkeyPatch.context() as patch:
        for way in ("first", "descend", "follow"):
            patch.setattr(Attack, way, lambda *_: None)
        outcome = solve(query, network, 1.5)
    is_wrong = outcome.verdict is QueryVerdict.UNSAT and any(
        query.holds(exactly(point), exactly(found)) for point, found in zip(points, outputs, strict=True)
    )
    return query, outcome, is_wrong


@pytest.mark.slow
def test_no_point_contradicts_what_is_combined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [drawn(seed, tmp_path) for seed in (3, 5, 9, 2)]
    assert not any(is_wrong for _, _, is_wrong in found)
    kinds = [node[0] for _, outcome, _ in found for group in outcome.groups for node in listed(group.root)]
    assert COMBINED in kinds
    loosened = refuting._loosened
    monkeypatch.setattr(refuting, "_loosened", lambda bounds, *others: loosened(bounds, *others) - 1.0)
    monkeypatch.setattr(Refuter, "refuted", lambda self, _, bounds: torch.zeros((len(bounds), 1), dtype=torch.bool))
    assert any(drawn(seed, tmp_path)[2] for seed in (0, 2, 4, 6))
