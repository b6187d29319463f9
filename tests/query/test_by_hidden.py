"""Queries of many inputs, which are cut at hidden values: no point that is sampled contradicts a verdict."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from query_texts import box_texts, query_text
from small_nets import Net

from abscert_plugin.bounds.cut_choice import Cut
from abscert_plugin.bounds.cut_choice import chosen_cuts as real_choice
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import Drafts, PartBounds
from abscert_plugin.claim import QueryVerdict
from abscert_plugin.query.attack import Attack
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import parse
from abscert_plugin.query.refuting import Refuter
from abscert_plugin.query.solve import QueryOutcome, solve
from abscert_plugin.query.tree import COMBINED, OPTIMISED, SIGN, VALUE, Region, closed_parts, listed

pytest.importorskip("vnnlib")
pytestmark = pytest.mark.slow
INPUTS = 22
WIDTH = 0.3


def ascended(net: Net, chance: np.random.Generator, places: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Return a corner of the box at which the least of some outputs is large, and that output."""
    best, most = np.zeros(INPUTS), -np.inf
    for _ in range(20):
        point = WIDTH * np.sign(chance.standard_normal(INPUTS))
        for entry in np.tile(chance.permutation(INPUTS), 2):
            other = point.copy()
            other[entry] *= -1
            if min(net.single(other, chance)[list(places)]) > min(net.single(point, chance)[list(places)]):
                point = other
        value = float(min(net.single(point, chance)[list(places)]))
        if value > most:
            best, most = point, value
    return best, most


def outcome_of(seed: int, folder: Path, outputs: int, away: float, seconds: float = 3.0) -> QueryOutcome:
    """Return what is said of whether all outputs reach a limit, so far from one that a point reaches."""
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [INPUTS, 6, 4, outputs])
    path = net.write(folder / f"net{seed}.onnx")
    places = tuple(range(outputs))
    _, most = ascended(net, chance, places)
    limits = [f"(>= Y_{place} {most + away * (1 + abs(most)):.6f})" for place in places]
    query = parse(query_text([*box_texts(1, -WIDTH, WIDTH, INPUTS), *limits], 1, inputs=INPUTS, outputs=outputs))
    with pytest.MonkeyPatch.context() as patch:
        for way in ("first", "descend", "follow"):  # so that all rests on the proof
            patch.setattr(Attack, way, lambda *_: None)
        return solve(query, open_network(path, query), seconds)


@pytest.mark.parametrize("outputs", [1, 2])
def test_what_a_point_reaches_is_not_refuted(outputs: int, tmp_path: Path) -> None:
    for seed in range(3):
        assert outcome_of(seed, tmp_path, outputs, -0.001, 1.0).verdict is not QueryVerdict.UNSAT


def test_what_is_little_above_is_refuted(tmp_path: Path) -> None:
    found = [outcome_of(seed, tmp_path, 1, 0.1, 30.0) for seed in range(3)]
    assert {outcome.verdict for outcome in found} == {QueryVerdict.UNSAT}
    assert {node[0] for outcome in found for group in outcome.groups for node in listed(group.root)} == {
        SIGN,
        OPTIMISED,
    }


def test_parts_are_closed_by_sums_of_constraints_too(tmp_path: Path) -> None:
    outcome = outcome_of(3, tmp_path, 2, 0.3, 30.0)
    assert outcome.verdict is QueryVerdict.UNSAT
    assert COMBINED in {node[0] for group in outcome.groups for node in listed(group.root)}


def test_a_sign_that_is_chosen_again_is_kept_as_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []

    def choice(bounds: PartBounds, drafts: Drafts, wanted: np.ndarray, parts: Sequence[int]) -> list[Cut | None]:
        found = real_choice(bounds, drafts, wanted, parts)
        for row, part in enumerate(parts):
            if drafts.parts[part].cuts and not again:
                again.append(next(iter(drafts.parts[part].cuts)))
                found[row] = again[0], 0.0
        return found

    monkeypatch.setattr("abscert_plugin.query.by_hidden.chosen_cuts", choice)
    outcome = outcome_of(0, tmp_path, 1, 0.1, 30.0)
    assert outcome.verdict is QueryVerdict.UNSAT
    (group,) = outcome.groups
    nodes = listed(group.root)
    assert [VALUE, again[0], 0.0] in nodes
    box = np.full(INPUTS, WIDTH)
    assert set(closed_parts(nodes, Region(-box, box), False, 10)) == {OPTIMISED}


@pytest.mark.parametrize("fault", ["limit", "halves"])
def test_a_fault_in_parts_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most, halves = Refuter.most, Part.halves
    if fault == "limit":
        monkeypatch.setattr(Refuter, "most", lambda self, *given: most(self, *given) - 0.2)
    else:
        monkeypatch.setattr(Part, "halves", lambda self, *cut: halves(self, *cut)[:1] * 2)
    assert any(outcome_of(seed, tmp_path, 1, -0.02).verdict is QueryVerdict.UNSAT for seed in range(4))
