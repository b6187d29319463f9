"""What a certificate keeps proves its images again, without auto_LiRPA; what was forged does not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from ball_oracle import tiny_case
from plain_oracle import plain, plain_case
from sign_boxes import bump
from torch import nn

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.part_lines import KeptLines, numbers, packed
from abscert_plugin.bounds.waiting import nodes_of
from abscert_plugin.claim import Arithmetic, Radius
from abscert_plugin.errors import RecordError
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import CLOSING, RESEARCH, Evidence, TreeNode
from abscert_plugin.verification.proving import Prover
from abscert_plugin.verification.reproof import Reproof
from abscert_plugin.verification.search import Outcome, Problem, Search

pytestmark = pytest.mark.slow

ONLY_SEARCH = Budget(60.0, exhaustive=1, bounds=(), attacks=False, leaf=2)


@dataclass(frozen=True)
class Proven:
    """Certified rows with their images, and what proves them again."""

    reproof: Reproof
    rows: list[tuple[Decided, np.ndarray]]

    def fault(self, row: int = 0, tree: list[int] | None = None, **changes: Any) -> str:
        """Return what is wrong with a row whose tree, slopes or record is changed."""
        item, image = self.rows[row]
        evidence = item.evidence
        if tree is not None:
            evidence = Evidence(tree=packed(np.array(tree, dtype="<i4")))
        if "slopes" in changes:
            evidence = Evidence(slopes=changes.pop("slopes"))
        return self.reproof.fault(msgspec.structs.replace(item.record, **changes), image, evidence)

    def tree(self, row: int = 0) -> list[int]:
        evidence = self.rows[row][0].evidence
        assert evidence is not None
        return evidence.nodes()


def proven(case: Any, ball: Ball, budget: Budget, count: int = 30) -> Proven:
    deployed = Deployed(case.artifact)
    verifier = BallVerifier(deployed, case.white_box, ball, budget)
    images = np.random.default_rng(7).random((count, *case.artifact.metadata.image_shape), dtype=np.float32)
    labels = deployed.run(images).argmax(axis=1)
    decided = verifier.decide(images, labels, np.arange(count))
    rows = [pair for pair in zip(decided, images, strict=True) if pair[0].record.verdict == "certified"]
    longest = sorted(rows, key=lambda pair: -len((pair[0].evidence or Evidence()).tree or ""))
    return Proven(Reproof(deployed, ball), longest)


@pytest.fixture(scope="module")
def cells() -> Proven:
    return proven(tiny_case(3), Ball(Radius.parse("0.2")), replace(ONLY_SEARCH, leaf=1))


@pytest.fixture(scope="module")
def signs() -> Proven:
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    ).requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_()
    return proven(plain(network, (1, 1, 3)), Ball(Radius.parse("0.2")), ONLY_SEARCH, count=40)


@pytest.fixture(scope="module")
def curved() -> Proven:
    return bumpy()


def bumpy() -> Proven:
    """Return a proof by lines of parts whose tanh are cut."""
    network = bump([0.05, -0.05], [1.0, -1.0], nn.Tanh(), 4.0, 0.8)
    return proven(plain(network, (1, 1, 3)), Ball(Radius.parse("1.0")), ONLY_SEARCH, count=1)


@pytest.fixture
def no_lirpa(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("auto_LiRPA was asked")

    for name in ("margins", "linear_margins", "optimised_margins"):
        monkeypatch.setattr(LirpaBounder, name, never)


@pytest.mark.slow
@pytest.mark.usefixtures("no_lirpa")
def test_trees_prove_their_images_again(cells: Proven, signs: Proven) -> None:
    for case in (cells, signs):
        searched = [item for item, _ in case.rows if item.record.method == "branch and bound"]
        assert len(searched) > 3
        assert len(case.tree()) > 3, "none was cut"
        for row, (item, _) in enumerate(case.rows):
            assert item.record.arithmetic == Arithmetic.ANY_ORDER
            assert case.fault(row) == ""


@pytest.mark.usefixtures("no_lirpa")
def test_a_margin_that_is_more_than_the_tree_shows_fails(cells: Proven, signs: Proven) -> None:
    for case in (cells, signs):
        for row, (item, _) in enumerate(case.rows[:5]):
            assert item.record.margin is not None
            assert "is more than the" in case.fault(row, margin=item.record.margin + 0.1)
            assert case.fault(row, margin=item.record.margin / 2) == ""


@pytest.mark.usefixtures("no_lirpa")
def test_a_tree_that_is_cut_short_fails(cells: Proven, signs: Proven) -> None:
    for case in (cells, signs):
        tree = case.tree()
        assert case.fault(tree=tree[:-1]) == "its tree leaves parts open"
        assert case.fault(tree=[*tree, -1]) == "its tree has more nodes than parts"
        assert "none that a search writes" in case.fault(tree=[])
        assert "none that a search writes" in case.fault(tree=[-1 - len(CLOSING)])
        assert case.fault(tree=[10**6, *tree[1:]]) != ""


@pytest.mark.usefixtures("no_lirpa")
def test_a_tree_that_is_closed_too_early_fails(cells: Proven, signs: Proven) -> None:
    """The root alone is what the search could not close."""
    for case, closings in ((cells, (-2, -3, -4)), (signs, (-4,))):
        for closing in closings:
            assert "is bounded by" in case.fault(tree=[closing])
    assert "closed by something else" in signs.fault(tree=[-2])
    assert "lines were not kept" in signs.fault(tree=[-5])


@pytest.mark.usefixtures("no_lirpa")
def test_another_label_fails_and_nothing_kept_is_searched_for(cells: Proven, signs: Proven) -> None:
    for case in (cells, signs):
        label = case.rows[0][0].record.label
        assert case.fault(label=(label + 1) % 3) not in ("", RESEARCH)
        item, image = case.rows[0]
        assert case.reproof.fault(item.record, image, None) == RESEARCH
        assert case.reproof.fault(msgspec.structs.replace(item.record, method="magic"), image, None) == RESEARCH


@pytest.mark.usefixtures("no_lirpa")
def test_trees_of_cells_are_of_hidden_values_or_of_cells(cells: Proven) -> None:
    kinds = [evidence.by_hidden for item, _ in cells.rows if (evidence := item.evidence) is not None]
    assert set(kinds) == {True, False}
    row = next(row for row, (item, _) in enumerate(cells.rows) if item.evidence and item.evidence.by_hidden)
    item, image = cells.rows[row]
    assert item.evidence is not None
    for tree in ([-4], [0], [0, -5, -5]):
        forged = msgspec.structs.replace(item.evidence, tree=packed(np.array(tree, "<i4")))
        assert cells.reproof.fault(item.record, image, forged) != ""


@pytest.mark.usefixtures("no_lirpa")
def test_a_tree_of_cuts_of_a_tanh_proves_again_and_one_that_is_changed_does_not(curved: Proven) -> None:
    tree, (item, image) = curved.tree(), curved.rows[0]
    assert item.record.method == "branch and bound"
    assert len(tree) > 3
    assert curved.fault() == ""
    evidence = item.evidence
    assert evidence is not None
    assert evidence.lines is not None
    for changed, said in (
        (tree[:-1], "leaves parts open"),
        ([2, *tree[1:]], "does not have"),
        ([1 - tree[0], *tree[1:]], ""),
        ([-5], "lines are not those"),
    ):
        forged = msgspec.structs.replace(evidence, tree=packed(np.array(changed, dtype="<i4")))
        fault = curved.reproof.fault(item.record, image, forged)
        assert said in fault != ""
    none = msgspec.structs.replace(evidence.lines, slopes=packed(np.zeros(len(evidence.lines.slopes), np.uint8)))
    assert curved.reproof.fault(item.record, image, msgspec.structs.replace(evidence, lines=none)) != ""


@pytest.mark.parametrize("text", ["", "AAAA", "\N{SNOWMAN}", packed(np.zeros(3, dtype=np.uint8)) + "A" * 4])
def test_what_was_not_packed_is_no_tree(signs: Proven, text: str) -> None:
    item, image = signs.rows[0]
    assert signs.reproof.fault(item.record, image, Evidence(tree=text)) not in ("", RESEARCH)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = packed(np.zeros(10_000, dtype="<i4"))
    monkeypatch.setattr("abscert_plugin.verification.evidence.MOST_NODES", 250)
    with pytest.raises(RecordError, match="at most 1000 bytes"):
        Evidence(tree=bomb).nodes()
    monkeypatch.setattr("abscert_plugin.bounds.part_lines._MOST_BYTES", 900)
    with pytest.raises(RecordError, match="at most 900 bytes"):
        numbers(bomb, "<i4")


def test_a_tree_of_more_text_than_is_kept_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.verification.evidence.numbers", pytest.fail)
    with pytest.raises(RecordError, match="a tree of at most 1048576 characters, got 1048580"):
        Evidence(tree="A" * (2**20 + 4)).nodes()


def test_lines_that_are_more_than_a_file_keeps_are_forgotten(curved: Proven, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of minutes closes more parts than memory has room for the lines of."""
    outcomes: list[Outcome] = []
    run = Search.run

    def watched(search: Search, problems: Mapping[int, Problem]) -> dict[int, Outcome]:
        found = run(search, problems)
        outcomes.extend(found.values())
        return found

    monkeypatch.setattr(Search, "run", watched)
    for room, is_kept in ((2**27, True), (1, False)):
        outcomes.clear()
        monkeypatch.setattr("abscert_plugin.bounds.part_lines._MOST_BYTES", room)
        case = bumpy()
        assert case.rows[0][0].record.verdict == curved.rows[0][0].record.verdict == "certified"
        assert (case.rows[0][0].evidence is not None) is is_kept
        nodes = [node for outcome in outcomes for node in nodes_of(outcome.tree)]
        assert any(node.lines is not None for node in nodes) is is_kept
        assert (case.fault() == RESEARCH) is not is_kept


def test_lines_are_forgotten_when_they_become_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.bounds.part_lines._MOST_BYTES", 12)
    root = TreeNode()
    low, high = root.cut(0)
    kept, lines = KeptLines(root), Part(np.zeros((2, 3), dtype=np.uint8))
    for node in (low, high):
        kept.add(node, lines)
        assert (kept.are_whole, node.lines) == (True, lines)
    kept.add(low, None)
    assert low.lines is lines
    first, second = high.cut(1)
    kept.add(first, lines)
    kept.add(second, lines)
    assert not kept.are_whole
    assert [node.lines for node in nodes_of(root)] == [None] * 5


def test_what_crown_suffices_for_is_proven_again_without_a_search() -> None:
    """Of images bounded one by one nothing is optimised then, so there are no slopes to keep."""
    budget = Budget(60.0, only=BoundMethod.OPTIMISED, bounds_at_once=1)
    case = proven(plain_case(4), Ball(Radius.parse("0.15")), budget, count=12)
    assert [(item.record.method, item.evidence) for item, _ in case.rows] == [("crown", None)] * len(case.rows)
    assert len(case.rows) > 3
    assert [case.fault(row) for row in range(len(case.rows))] == [""] * len(case.rows)


@pytest.mark.slow
def test_optimised_slopes_prove_again_and_need_not_be_good() -> None:
    kept = []
    for number in range(6):
        case = proven(plain_case(number), Ball(Radius.parse("0.15")), Budget(60.0, only=BoundMethod.OPTIMISED))
        kept += [(case, row) for row, (item, _) in enumerate(case.rows) if item.evidence and item.evidence.slopes]
    assert len(kept) > 3, "CROWN was enough everywhere"
    for case, row in kept:
        assert case.fault(row) == ""
        record = case.rows[row][0].record
        assert record.margin is not None
        assert "is more than the" in case.fault(row, margin=record.margin + 0.1)
        stored = case.rows[row][0].evidence
        assert stored is not None
        assert stored.slopes is not None
        assert "expected" in case.fault(row, slopes=stored.slopes[:-1])
        short = tuple(packed(np.zeros(1, dtype=np.uint8)) for _ in stored.slopes)
        assert "expected" in case.fault(row, slopes=short)


def test_what_float64_alone_proves_is_proven_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case = proven(plain_case(0), Ball(Radius.parse("0.01")), Budget(60.0, only=BoundMethod.CROWN_IBP))
    record = case.rows[0][0].record
    assert record.method == BoundMethod.CROWN_IBP
    for quick, said, is_proven in ((-1.0, 2.0, True), (1.0, 2.0, True), (1.0, 2.1, False), (-1.0, 0.5, True)):
        monkeypatch.setattr(
            Prover,
            "least_margins",
            lambda self, *what, is_exact=False, quick=quick: np.array([2.0 if is_exact else quick]),
        )
        assert (case.fault(margin=said) == "") is is_proven


def test_a_tree_is_read_as_it_was_made() -> None:
    root = TreeNode()
    low, high = root.cut(5)
    low.closed_by, (first, second) = "ibp", high.cut(2)
    first.closed_by, second.closed_by = "run", "crown"
    found = Evidence.of_tree(root)
    assert found is not None
    assert found.nodes() == [5, -2, 2, -1, -4]


def test_a_tree_too_long_to_keep_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.verification.evidence._LONGEST", 3)
    assert Evidence.of_tree(TreeNode(closed_by="ibp")) is None
