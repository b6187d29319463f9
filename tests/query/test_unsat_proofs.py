"""Proofs of `unsat` in files: proven again without a search, and no forgery of one holds."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import json_values
from query_texts import box_texts, query_text
from small_nets import Net

from abscert_plugin.bounds.part_lines import numbers, packed
from abscert_plugin.bounds.waiting import nodes_of
from abscert_plugin.claim import QueryVerdict
from abscert_plugin.errors import RecordError
from abscert_plugin.query import unsat_proof
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import read_query
from abscert_plugin.query.solve import solve
from abscert_plugin.query.tree import CUT, SIGN, QueryNode, Region, closed_parts, listed
from abscert_plugin.query.unsat_proof import fault_of, read_unsat_proof, write_unsat_proof
from abscert_plugin.records import digest_of

pytest.importorskip("vnnlib")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a query, its network, a proof whose tree cuts inputs, and one whose tree fixes signs."""
    folder = tmp_path_factory.mktemp("proof")
    for name, inputs, sizes in (("cuts", 2, [2, 8, 8, 1]), ("signs", 24, [24, 6, 4, 1])):
        chance = np.random.default_rng(3)
        net = Net.drawn(chance, sizes)
        net.write(folder / f"{name}.onnx")
        most = max(float(net.single(chance.uniform(-1, 1, inputs), chance)[0]) for _ in range(1000))
        bounds = box_texts(1, inputs=inputs) if name == "cuts" else box_texts(1, -0.2, 0.2, inputs)
        if name == "signs":
            most = max(float(net.single(0.2 * np.sign(chance.standard_normal(24)), chance)[0]) for _ in range(5000))
        share = 1.15 if name == "cuts" else 1.25
        text = query_text([*bounds, f"(>= Y_0 {most * share:.6f})"], 1, inputs=inputs, outputs=1)
        (folder / f"{name}.vnnlib").write_text(text)
        query = read_query(folder / f"{name}.vnnlib")
        network = open_network(folder / f"{name}.onnx", query.query)
        outcome = solve(query.query, network, 60.0)
        assert outcome.verdict is QueryVerdict.UNSAT, outcome
        write_unsat_proof(folder / f"{name}.json", query, network, outcome.groups)
        kind = CUT if name == "cuts" else SIGN
        assert any(node[0] == kind for group in outcome.groups for node in listed(group.root))
    return folder


def fault(proven: Path, name: str, change: Change = lambda _: None, model: str = "", query: str = "") -> str:
    """Return what a check says of a proof that was changed, with a digest that fits."""
    value = json.loads((proven / f"{name}.json").read_text())
    change(value)
    value["digest"] = digest_of({key: item for key, item in value.items() if key != "digest"})
    path = proven / "forged.json"
    path.write_text(json.dumps(value))
    question = read_query(proven / f"{query or name}.vnnlib")
    network = open_network(proven / f"{model or name}.onnx", question.query)
    return fault_of(read_unsat_proof(path), question, network)


@pytest.mark.parametrize("name", ["cuts", "signs"])
def test_a_proof_holds_when_it_is_proven_again(proven: Path, name: str) -> None:
    assert fault(proven, name) == ""


def test_parts_are_bounded_alike_in_every_batch(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch whose boxes are all small, fewer hidden values are bounded by backward passes."""
    monkeypatch.setattr(unsat_proof, "_AT_ONCE", 1)
    assert fault(proven, "cuts") == ""


def drop(place: int) -> Change:
    return lambda value: value["groups"][0]["tree"].pop(place)


def put(place: int, node: list[Any]) -> Change:
    return lambda value: value["groups"][0]["tree"].__setitem__(place, node)


def move_cuts(value: dict[str, Any]) -> None:
    """Move the first cut, so that the parts behind it are others than those that were proven."""
    node = value["groups"][0]["tree"][0]
    node[2] = 0.9990234375 if node[2] < 0.5 else -0.9990234375


def lines(**changes: str) -> Change:
    return lambda value: value["groups"][0]["lines"].update(changes)


def infinite_multipliers(value: dict[str, Any]) -> None:
    stored = value["groups"][0]["lines"]
    stored["multipliers"] = packed(np.float32(np.inf) + numbers(stored["multipliers"], "<f4"))


FORGED: list[tuple[str, Change, str]] = [
    ("cuts", lambda value: value["groups"][0].__setitem__("tree", [["crown"]]), "not refuted by crown"),
    ("cuts", lambda value: value["groups"][0].__setitem__("tree", [["ibp"]]), "not refuted by ibp"),
    ("cuts", lambda value: value["groups"][0].__setitem__("tree", [["inputs"]]), "not refuted by inputs"),
    ("cuts", lambda value: value["groups"][0].__setitem__("tree", []), "leaves parts open"),
    ("cuts", lambda value: value["groups"].clear(), "other conjunctions"),
    ("cuts", lambda value: value["groups"].append(value["groups"][0]), "other conjunctions"),
    ("cuts", lambda value: value["groups"][0].update(conjunctions=[]), "other conjunctions"),
    ("cuts", lambda value: value["groups"][0].update(case=-1), "other conjunctions"),
    (
        "cuts",
        lambda value: value["groups"].append({"case": 999, "conjunctions": [], "tree": [["ibp"]]}),
        "other conjunctions",
    ),
    ("cuts", lambda value: value["groups"][0].update(case=1), "other conjunctions"),
    ("cuts", drop(-1), "leaves parts open"),
    ("cuts", lambda value: value["groups"][0]["tree"].append(["crown"]), "more nodes than parts"),
    ("cuts", move_cuts, "not refuted|not inside"),
    ("cuts", put(0, ["cut", 0, 5.0]), "not inside its part"),
    ("cuts", put(0, ["cut", 0, 10**400]), "not inside its part"),
    ("cuts", put(0, ["cut", 10**400, 0.5]), "no input"),
    ("cuts", put(0, ["cut", 0, 0.1]), "not inside its part"),
    ("cuts", put(0, ["cut", 7, 0.5]), "no input"),
    ("cuts", put(0, ["cut", True, 0.5]), "no input"),
    ("cuts", put(0, ["guess"]), "which is none"),
    ("cuts", lambda value: value["query"].update(sha256="0" * 64), "another query"),
    ("cuts", lambda value: value["model"].update(sha256="0" * 64), "another file"),
    ("cuts", lambda value: value.update(arithmetic="this-runtime"), "something else"),
    ("cuts", lambda value: value.update(says="All is well."), "something else"),
    ("signs", put(0, ["sign", 10**6]), "which is none"),
    ("signs", put(0, ["value", 10**6, 0.5]), "which is none"),
    ("signs", put(0, ["value", 0, 0.1]), "which is none"),
    ("signs", put(0, ["value", 0, 10**400]), "which is none"),
    ("signs", put(0, ["value", 0, None]), "which is none"),
    ("signs", lambda value: value["groups"][0].__setitem__("tree", [["crown"]]), "not refuted by crown"),
    (
        "signs",
        lambda value: value["groups"][0].__setitem__("tree", [["sign", 0], ["ibp"], ["ibp"]]),
        "not refuted by ibp",
    ),
    (
        "signs",
        lambda value: value["groups"][0].__setitem__("tree", [["sign", 0], ["sign", 0], *[["crown"]] * 3]),
        "twice",
    ),
    ("signs", lambda value: value["groups"][0].__setitem__("tree", [["optimised"]]), "not those of its tree's parts"),
    ("signs", lambda value: value["groups"][0].pop("lines"), "not refuted by optimised"),
    ("signs", lines(slopes=packed(np.array([7], "u1"))), "not those of its tree's parts"),
    ("signs", lines(rows=packed(np.array([], "<i4"))), "not refuted by optimised"),
    ("signs", lines(rows=packed(np.array([1], "<i4"))), "does not have"),
    ("signs", lines(bent=packed(np.array([10**6], "<i4"))), "does not have"),
    ("signs", lines(multipliers="AAAA"), "packed with zlib"),
    ("signs", infinite_multipliers, "not finite"),
    ("cuts", put(-1, ["optimised"]), "not refuted by optimised"),
]


@pytest.mark.parametrize(("name", "change", "reason"), FORGED)
def test_no_forgery_holds(proven: Path, name: str, change: Change, reason: str) -> None:
    assert re.search(reason, fault(proven, name, change))


def test_a_proof_of_more_lines_than_a_file_keeps_is_not_written(
    proven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the search holds none of them."""
    monkeypatch.setattr("abscert_plugin.bounds.part_lines._MOST_BYTES", 1)
    query = read_query(proven / "signs.vnnlib")
    network = open_network(proven / "signs.onnx", query.query)
    outcome = solve(query.query, network, 60.0)
    assert outcome.verdict is QueryVerdict.UNSAT
    assert all(node.lines is None for group in outcome.groups for node in nodes_of(group.root))
    with pytest.raises(RecordError, match=r"lines of [\d,]+ parts, more than a file of it can keep"):
        write_unsat_proof(tmp_path / "proof.json", query, network, outcome.groups)
    assert not list(tmp_path.iterdir())


def test_lines_of_other_parts_prove_nothing_wrong(proven: Path) -> None:
    """Any slopes and multipliers are sound, so that those of another part at worst prove too little."""

    def swapped(value: dict[str, Any]) -> None:
        stored = value["groups"][0]["lines"]
        stored["slopes"] = packed(255 - numbers(stored["slopes"], "u1"))
        stored["multipliers"] = packed(1e3 * numbers(stored["multipliers"], "<f4"))

    def negative(value: dict[str, Any]) -> None:
        stored = value["groups"][0]["lines"]
        stored["multipliers"] = packed(-1 - numbers(stored["multipliers"], "<f4"))

    assert fault(proven, "signs", negative) == "box 0: a part of its tree is not refuted by optimised"
    assert fault(proven, "signs", swapped) in ("", "box 0: a part of its tree is not refuted by optimised")


def test_a_former_proof_of_signs_holds() -> None:
    """Of the commit 872621a, which closed parts by the lines of CROWN alone; what it says is worded as today."""
    folder = Path(__file__).resolve().parents[1] / "fixtures" / "verified" / "unsat"
    question = read_query(folder / "query.vnnlib")
    stored = read_unsat_proof(folder / "proof.json")
    assert ["sign", 3] in stored.groups[0].tree
    assert fault_of(stored, question, open_network(folder / "net.onnx", question.query)) == ""


def test_a_proof_is_about_its_query_and_its_file_alone(proven: Path) -> None:
    assert "another query" in fault(proven, "cuts", query="signs", model="signs")
    other = Net.drawn(np.random.default_rng(9), [2, 8, 8, 1])
    other.write(proven / "other.onnx")
    assert "another file" in fault(proven, "cuts", model="other")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"kind": "abscert unsat proof", "schema": 1}', '{"kind": "abscert unsat proof", "schema": 2}'],
)
def test_what_is_no_proof_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"proof\.json"):
        read_unsat_proof(path)


def test_an_edit_by_hand_is_seen(proven: Path) -> None:
    value = json.loads((proven / "cuts.json").read_text())
    changed = copy.deepcopy(value)
    changed["versions"]["torch"] = "0"
    path = proven / "edited.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match="digest"):
        read_unsat_proof(path)


def test_the_parts_of_a_tree_cover_every_float32() -> None:
    root = QueryNode()
    low, high = root.split(CUT, 0, 0.5)
    low.kind = "ibp"
    below, above = high.split(CUT, 1, 0.25)
    below.kind = above.kind = "crown"
    whole = Region(np.zeros(2), np.ones(2))
    parts = closed_parts(listed(root), whole, in_float32=True, activations=0)
    ends = sorted((*part.lower.tolist(), *part.upper.tolist()) for found in parts.values() for part in found)
    after = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert ends == [
        (0.0, 0.0, 0.5, 1.0),
        (after, 0.0, 1.0, 0.25),
        (after, float(np.nextafter(np.float32(0.25), np.float32(1))), 1.0, 1.0),
    ]
    real = closed_parts(listed(root), whole, in_float32=False, activations=0)
    assert sorted(part.lower[0] for found in real.values() for part in found) == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("name", ["cuts", "signs"])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_odd_values_in_a_proof_are_refused(proven: Path, name: str, data: st.DataObject) -> None:
    value = json.loads((proven / f"{name}.json").read_text())
    changed = data.draw(json_values(value))
    if not isinstance(changed, dict) or changed == value:
        return
    changed["digest"] = digest_of({key: item for key, item in changed.items() if key != "digest"})
    path = proven / "odd.json"
    path.write_text(json.dumps(changed))
    question = read_query(proven / f"{name}.vnnlib")
    network = open_network(proven / f"{name}.onnx", question.query)
    try:
        stored = read_unsat_proof(path)
    except RecordError as error:
        fault = str(error)
    else:
        fault = fault_of(stored, question, network)
    told = {key: changed.get(key) for key in ("groups", "says", "arithmetic")}
    assert fault or told == {key: value[key] for key in told}
