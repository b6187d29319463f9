"""Verdicts against brute force: no point that is sampled contradicts one, and of few float32 all are run."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from query_texts import FORMULAS, atoms, box_texts, decimal, formula_text, query_text
from small_nets import Net

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.errors import QueryError
from abscert_plugin.query import refuting, tree
from abscert_plugin.query.attack import Attack
from abscert_plugin.query.formula import Formula, Some
from abscert_plugin.query.network import Network, exactly, open_network
from abscert_plugin.query.query import Query
from abscert_plugin.query.reading import parse
from abscert_plugin.query.solve import QueryOutcome, solve

pytest.importorskip("vnnlib")
SECONDS = 4.0
OUTPUT_FORMULAS = st.lists(atoms(True), min_size=1, max_size=3).map(lambda parts: Some(tuple(parts)))


def fitted(text: str, path: Path) -> tuple[Query, Network]:
    query = parse(text)
    return query, open_network(path, query)


def points_of(query: Query, chance: np.random.Generator) -> list[np.ndarray]:
    """Return float32 points of the boxes: a grid with the ends, and random ones."""
    found = []
    for case in query.cases:
        low, high = case.inner
        sides = [np.linspace(a, b, 5, dtype=np.float32) for a, b in zip(low, high, strict=True)]
        found += [np.array(point, np.float32) for point in product(*sides)]
        found += [(low + chance.random(len(low)) * (high - low)).astype(np.float32) for _ in range(40)]
    return found


def contradicts(query: Query, network: Network, net: Net, outcome: QueryOutcome, chance: np.random.Generator) -> bool:
    """Return whether a verdict is wrong for what may be computed at a point that is tried here."""
    if outcome.verdict is QueryVerdict.SAT:
        assert outcome.answer is not None
        given = exactly(outcome.answer.inputs)
        outputs = net.exact(given) if query.is_real else exactly(network.run(outcome.answer.inputs))
        return not query.holds(given, outputs)
    if outcome.verdict is not QueryVerdict.UNSAT:
        return False
    for point in points_of(query, chance):
        given = exactly(point)
        computed = [network.run(point), net.single(point, chance), net.single(point, chance)]
        if query.holds(given, net.exact(given)) or any(query.holds(given, exactly(found)) for found in computed):
            return True
    return False


def test_how_far_it_is_is_told(tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    net = Net.drawn(chance, [2, 16, 16, 2])
    path = net.write(tmp_path / "net.onnx")
    highest = max(net.single(np.array(point), chance)[0] for point in product(np.linspace(-1, 1, 21), repeat=2))
    query, network = fitted(query_text([*box_texts(2), f"(>= Y[0,0] {highest + 0.05:.4f})"], 2), path)
    told: list[tuple[str, int, int | None, str]] = []
    solve(query, network, SECONDS, lambda what, done, total, note="": told.append((what, done, total, note)))
    names = list(dict.fromkeys(what for what, *_ in told))
    assert names[0] == "cases in which points are tried"
    assert names[-2:] == ["cases that are bounded", "rounds of cutting"]
    assert {total for what, _, total, _ in told if what.startswith("cases")} == {1}
    cutting = [step for step in told if step[0] == names[-1]]
    assert [done for _, done, _, _ in cutting] == list(range(len(cutting)))
    assert {note for *_, note in cutting} == {"1 of 1 conjunctions open"}


def case_of(
    seed: int, formula: Formula, version: int, kind: str, rank: int, folder: Path
) -> tuple[Query, Network, Net]:
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [2, 4, 3, 2], in_eighths=bool(seed % 2))
    path = net.write(folder / "net.onnx", rank=rank if version == 1 else 2)
    low, width = float(chance.choice([-1.0, 0.0, 0.25])), float(chance.choice([0.0, 0.125, 1.0]))
    text = query_text([*box_texts(version, low, low + width), formula_text(formula, version)], version, kind)
    return *fitted(text, path), net


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    formula=FORMULAS | OUTPUT_FORMULAS,
    version=st.sampled_from([1, 2]),
    kind=st.sampled_from(["float32", "real"]),
    rank=st.sampled_from([1, 2, 3]),
)
def test_no_point_contradicts_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, seed: int, formula: Formula, version: int, kind: str, rank: int
) -> None:
    try:
        query, network, net = case_of(seed, formula, version, kind, rank, tmp_path_factory.mktemp("net"))
    except QueryError:  # an empty box, or a constraint between inputs and outputs
        return
    outcome = solve(query, network, 0.5)
    assert not contradicts(query, network, net, outcome, np.random.default_rng(seed))


def neighbours(start: float, count: int) -> list[np.float32]:
    found = [np.float32(start)]
    for _ in range(count - 1):
        found.append(np.nextafter(found[-1], np.float32(np.inf)))
    return found


def few_floats(seed: int, folder: Path) -> tuple[Query, Network, bool]:
    """Return a query about 48 float32 with a limit near their outputs, and whether one of them satisfies it."""
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [1, 3, 1])
    path = net.write(folder / "net.onnx")
    inputs = neighbours(float(chance.uniform(-2, 2)), 48)
    outputs = [float(net.single(np.array([value]), chance)[0]) for value in inputs]
    limit = Fraction(min(outputs)) + Fraction(int(chance.integers(-3, 4)), 2 ** int(chance.integers(17, 27)))
    ends = [decimal(Fraction(float(value))) for value in (inputs[0], inputs[-1])]
    texts = [f"(>= X_0 {ends[0]})", f"(<= X_0 {ends[1]})", f"(<= Y_0 {decimal(limit)})"]
    query, network = fitted(query_text(texts, 1, inputs=1, outputs=1), path)
    is_met = any(query.holds([Fraction(float(x))], exactly(network.run(np.array([x])))) for x in inputs)
    return query, network, is_met


@pytest.mark.parametrize("seed", range(12))
def test_of_few_float32_none_is_missed(seed: int, tmp_path: Path) -> None:
    query, network, is_met = few_floats(seed, tmp_path)
    verdict = solve(query, network, SECONDS).verdict
    assert verdict is not (QueryVerdict.UNSAT if is_met else QueryVerdict.SAT)


@pytest.mark.parametrize("kind", ["float32", "real"])
def test_a_property_is_decided_both_ways(kind: str, tmp_path: Path) -> None:
    """|x0| + |x1| by ReLUs: at most 2 on the box, and above it nowhere."""
    weight = np.array([[1, -1, 0, 0], [0, 0, 1, -1]], np.float32)
    net = Net([(weight, np.zeros(4, np.float32)), (np.ones((4, 1), np.float32), np.zeros(1, np.float32))])
    path = net.write(tmp_path / "net.onnx")
    for limit, verdict in (("2.01", QueryVerdict.UNSAT), ("1.99", QueryVerdict.SAT)):
        text = query_text([*box_texts(2), f"(>= Y[0,0] {limit})"], 2, kind, outputs=1)
        assert solve(*fitted(text, path), SECONDS).verdict is verdict


def test_many_inputs_are_decided_by_signs(tmp_path: Path) -> None:
    """25 inputs: a sum of |x_k| has the bound of linear relaxations 25, its true maximum on a wedge is less."""
    count = 25
    chance = np.random.default_rng(5)
    net = Net.drawn(chance, [count, 6, 1])
    path = net.write(tmp_path / "net.onnx")
    values = [net.single(chance.uniform(-1, 1, count), chance)[0] for _ in range(300)]
    texts = box_texts(2, inputs=count)
    text = query_text([*texts, f"(>= Y[0,0] {4 * float(np.max(np.abs(values))):.3f})"], 2, inputs=count, outputs=1)
    query, network = fitted(text, path)
    outcome = solve(query, network, 20.0)
    assert outcome.verdict is QueryVerdict.UNSAT
    kinds = {node[0] for group in outcome.groups for node in tree.listed(group.root)}
    assert kinds <= {tree.SIGN, *tree.CLOSING}


@pytest.mark.slow
def test_an_answer_of_real_numbers_is_surely_one(tmp_path: Path) -> None:
    """In float32 2^24 + 1 is 2^24: an answer of the file is none of the exact network."""
    net = Net([(np.array([[1.0]], np.float32), np.array([2.0**24], np.float32))])
    path = net.write(tmp_path / "net.onnx")
    texts = ["(>= X[0,0] 0.75)", "(<= X[0,0] 1.0)", "(<= Y[0,0] 16777216.0)"]
    for kind, verdict in (("float32", QueryVerdict.SAT), ("real", QueryVerdict.UNSAT)):
        query, network = fitted(query_text(texts, 2, kind, inputs=1, outputs=1), path)
        found = solve(query, network, 2.0).verdict
        assert found is verdict or (kind == "real" and found is not QueryVerdict.SAT)


def wrong(seed: int, folder: Path) -> bool:
    """Return whether a verdict about a random network is contradicted."""
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [2, 4, 3, 2])
    path = net.write(folder / f"net{seed}.onnx")
    best = max(float(net.single(chance.uniform(-1, 1, 2), chance)[0]) for _ in range(100))
    text = query_text([*box_texts(1), f"(>= Y_0 {best - 0.05:.4f})"], 1)
    query, network = fitted(text, path)
    with pytest.MonkeyPatch.context() as patch:
        for way in ("first", "descend", "follow"):  # so that all rests on the proof
            patch.setattr(Attack, way, lambda *_: None)
        outcome = solve(query, network, 1.0)
    return contradicts(query, network, net, outcome, np.random.default_rng(seed))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["room", "cut", "conjunction"])
def test_a_fault_in_refuting_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(wrong(seed, tmp_path) for seed in range(2))
    room, cut, refuted = refuting.Refuter.room, tree.Region.cut, refuting.Refuter.refuted
    if fault == "room":
        monkeypatch.setattr(refuting.Refuter, "room", lambda self, *given: room(self, *given) + 1.0)
    elif fault == "cut":

        def lossy(self: tree.Region, place: int, value: float, in_float32: bool) -> tuple[tree.Region, tree.Region]:
            low, _ = cut(self, place, value, in_float32)
            return low, low

        monkeypatch.setattr(tree.Region, "cut", lossy)
    else:
        monkeypatch.setattr(refuting.Refuter, "refuted", lambda self, *given: refuted(self, *given) | True)
    assert any(wrong(seed, tmp_path) for seed in range(8))
