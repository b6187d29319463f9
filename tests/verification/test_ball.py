"""The claim `ball`, against running every reachable combination of cells of tiny networks."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from ball_oracle import GRIDS, LEVELS, Tiny, check_decided, tiny_case
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import SHAPE

from abscert_plugin.ball import Ball
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.errors import ConfigError, GridError
from abscert_plugin.front import Cells
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell_cut import CellCut
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.search import Search
from abscert_plugin.verification.sign_cut import SignCut

BATCH = 24
DEFAULT = Budget(60.0)
NOT_RUN_WHOLE = Budget(60.0, exhaustive=1, queries=10)
ONLY_SEARCH = replace(NOT_RUN_WHOLE, bounds=(), attacks=False, leaf=1)  # which splits down to single combinations


def batch_of(case: Tiny, ball: Ball, seed: int, count: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Return images, a third of their pixels a radius away from an edge or next to that, and labels."""
    random = np.random.default_rng(seed)
    if ball.inputs is Inputs.UINT8:
        images = np.array(LEVELS)[random.integers(0, 256, (count, *SHAPE))]
    else:
        images = random.random((count, *SHAPE), dtype=np.float32)
        edges = case.grid.edges[random.integers(0, case.grid.cells + 1, images.shape)].astype(np.float64)
        signs = random.choice([-1, 1], images.shape)
        near = np.clip(edges + signs * float(ball.radius.pixel), 0, 1).astype(np.float32)
        ulps = random.integers(-1, 2, images.shape)
        near = np.where(ulps < 0, np.nextafter(near, np.float32(0)), near)
        near = np.where(ulps > 0, np.nextafter(near, np.float32(1)), near)
        images = np.where(random.random(images.shape) < 1 / 3, near, images)
    return images, case.labels(images, random)


def decide(verifier: BallVerifier, images: np.ndarray, labels: np.ndarray) -> list[Decided]:
    return verifier.decide(images, labels, np.arange(len(images)))


def check(
    case: Tiny, ball: Ball, seed: int, budget: Budget, *, white_box: bool = True, count: int = BATCH
) -> Counter[tuple[str, str | None]]:
    """Assert that the verdicts on a batch are true, and return how many of each kind came from each method."""
    images, labels = batch_of(case, ball, seed, count)
    verifier = case.verifier(ball, budget, white_box=white_box)
    decided = decide(verifier, images, labels)
    check_decided(case, ball, images, labels, decided)
    return Counter((str(item.record.verdict), item.record.method) for item in decided)


cases = st.integers(0, 2 * len(GRIDS) - 1).map(tiny_case)
radii = st.sampled_from(["0", "1/255", "2/255", "8/255", "0.05", "0.1", "0.2", "0.3", "0.5", "1"]).map(Fraction)
balls = st.builds(Ball, radii.map(Radius) | st.floats(0, 0.6).map(Fraction).map(Radius), st.sampled_from(Inputs))
seeds = st.integers(0, 2**32)


@pytest.mark.slow
@settings(max_examples=60)
@given(cases, balls, seeds)
def test_verdicts_are_those_of_running_every_combination(case: Tiny, ball: Ball, seed: int) -> None:
    check(case, ball, seed, DEFAULT)


@pytest.mark.slow
@settings(max_examples=30)
@given(cases, balls, seeds)
def test_verdicts_of_bounds_and_search_are_those_of_running_every_combination(
    case: Tiny, ball: Ball, seed: int
) -> None:
    check(case, ball, seed, NOT_RUN_WHOLE)


@pytest.mark.slow
@settings(max_examples=60)
@given(cases, balls, seeds)
def test_verdicts_without_the_network_are_those_of_running_every_combination(case: Tiny, ball: Ball, seed: int) -> None:
    check(case, ball, seed, NOT_RUN_WHOLE, white_box=False)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_verdicts_of_the_search_alone_are_those_of_running_every_combination(number: int, inputs: Inputs) -> None:
    for radius in ("1/255", "0.1", "0.3"):
        check(tiny_case(number), Ball(Radius.parse(radius), inputs), number, ONLY_SEARCH, count=16)


@pytest.mark.slow
def test_each_step_decides_some_images_of_the_oracle() -> None:
    """Without this, the properties above might only ever see one step."""
    total = Counter[tuple[str, str | None]]()
    for number in (2, 3):
        for radius in ("0.05", "0.2"):
            ball = Ball(Radius.parse(radius))
            for budget in (DEFAULT, NOT_RUN_WHOLE):
                total += check(tiny_case(number), ball, 1, budget, count=36)
            total += check(tiny_case(number), ball, 1, NOT_RUN_WHOLE, white_box=False, count=36)
    total += check(tiny_case(3), Ball(Radius.parse("0.2")), 1, ONLY_SEARCH)
    seen = set(total)
    for method in ("forward", "exhaustive", "branch and bound"):
        assert {("certified", method), ("falsified", method)} <= seen
    assert {("falsified", "gradient attack"), ("falsified", "score attack")} <= seen
    assert {("certified", "ibp"), ("certified", "crown-ibp"), ("certified", "crown")} & seen
    unknown = sum(count for (verdict, _), count in total.items() if verdict == "unknown")
    assert unknown < 0.1 * total.total()


@pytest.mark.slow
def test_the_search_splits_more_than_once() -> None:
    results = []
    search = Search.run

    def remember(self: Search, *arguments: Any) -> object:
        results.append(search(self, *arguments))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "run", remember)
        check(tiny_case(3), Ball(Radius.parse("0.2")), 5, ONLY_SEARCH, count=60)
    few_by_cells, by_hidden, others_by_cells = results
    by_cells = few_by_cells | others_by_cells
    assert sum(found.certified and found.branches > 4 for found in by_hidden.values()) > 3
    assert sum(found.certified and found.branches > 7 for found in by_cells.values()) > 3


@pytest.mark.slow
def test_balls_of_few_combinations_are_searched_by_cells_first() -> None:
    case, ball = tiny_case(3), Ball(Radius.parse("0.2"))
    images, labels = batch_of(case, ball, 7)
    decided = decide(case.verifier(ball, ONLY_SEARCH), images, labels)
    by_size: dict[bool, set[bool]] = {True: set(), False: set()}
    for item in decided:
        if item.evidence is not None:
            by_size[2 ** cast(float, item.record.reachable_log2) > 64].add(item.evidence.by_hidden)
    assert by_size[False] == {False}
    assert True in by_size[True]


@pytest.mark.slow
def test_balls_of_few_combinations_are_searched_by_hidden_values_where_cells_take_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, ball = tiny_case(3), Ball(Radius.parse("0.2"))
    images, labels = batch_of(case, ball, 7)
    calls = []
    charge = Search._charge

    def slow(self: Search, outcomes: Any, branches: Any, start: float) -> None:
        calls.append(type(self._cut))
        late = isinstance(self._cut, CellCut) and SignCut not in calls
        charge(self, outcomes, branches, start - (100.0 * len(branches) if late else 0.0))

    monkeypatch.setattr(Search, "_charge", slow)
    decided = decide(case.verifier(ball, replace(ONLY_SEARCH, leaf=4, seconds=180.0)), images, labels)
    check_decided(case, ball, images, labels, decided)
    few = [item for item in decided if 1 < 2 ** cast(float, item.record.reachable_log2) <= 4 * 64]
    assert any(item.evidence is not None and item.evidence.by_hidden for item in few)


def facts(decided: list[Decided]) -> list[tuple[Any, ...]]:
    return [(item.record.verdict, item.record.label, item.record.reachable_log2) for item in decided]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [DEFAULT, NOT_RUN_WHOLE])
@pytest.mark.parametrize("white_box", [True, False])
def test_no_verdict_depends_on_the_batch(budget: Budget, white_box: bool) -> None:
    case, ball = tiny_case(10), Ball(Radius.parse("0.15"))
    images, labels = batch_of(case, ball, 3, 15)
    whole = facts(decide(case.verifier(ball, budget, white_box=white_box), images, labels))
    assert len({fact[0] for fact in whole}) > 1
    for size in (1, 7):
        verifier = case.verifier(ball, budget, white_box=white_box)
        parts = [decide(verifier, images[at : at + size], labels[at : at + size]) for at in range(0, len(images), size)]
        assert [fact for part in parts for fact in facts(part)] == whole


def test_no_time_leaves_the_clean_forward_pass() -> None:
    case, ball = tiny_case(2), Ball(Radius.parse("0.1"))
    images, labels = batch_of(case, ball, 0)
    decided = decide(case.verifier(ball, Budget(0.0)), images, labels)
    clean = case.table[tuple(np.moveaxis(case.grid.cell(images).reshape(-1, 4), 1, 0))].argmax(axis=1)
    for item, label, prediction in zip(decided, labels, clean, strict=True):
        record = item.record
        assert record.prediction == prediction
        assert (record.verdict == "falsified") == (label != prediction)
        assert (record.verdict == "certified") == (label == prediction and record.reachable_log2 == 0)
        if record.verdict == "unknown":
            assert "time-out of 0 s" in record.reason
    assert any(item.record.verdict == "unknown" for item in decided)


def test_a_falsified_row_names_its_image() -> None:
    case, ball = tiny_case(2), Ball(Radius.parse("0.2"))
    images, labels = batch_of(case, ball, 8)
    decided = case.verifier(ball).decide(images, labels, 5 + 2 * np.arange(BATCH))
    names = {item.record.counterexample for item in decided}
    assert {None, "itself"} < names
    for place, item in enumerate(decided):
        record = item.record
        assert (
            (record.verdict == "falsified") == (item.counterexample is not None) == (record.counterexample is not None)
        )
        assert record.counterexample in (None, "itself", f"counterexamples/{5 + 2 * place:08d}.npy")
        if record.counterexample == "itself":
            assert np.array_equal(cast(np.ndarray, item.counterexample), images[place])


def test_records_say_what_they_are_about() -> None:
    case, ball = tiny_case(3), Ball(Radius.parse("8/255"), Inputs.UINT8)
    images, labels = batch_of(case, ball, 0)
    decided = case.verifier(ball).decide(images, labels, np.arange(BATCH))
    reach = Cells(case.grid).reach(ball, images)
    for place, item in enumerate(decided):
        record = item.record
        assert (record.claim, record.radius_scale, record.inputs) == ("ball", "pixel", "uint8")
        assert record.radius == 8 / 255
        count = np.prod(reach.highest[place].astype(int) - reach.lowest[place] + 1)
        assert record.reachable_log2 == pytest.approx(np.log2(count), abs=1e-9)
        assert (record.index, record.label) == (place, labels[place])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seconds": -1.0}, "time-out of at least 0"),
        ({"seconds": float("nan")}, "time-out of at least 0"),
        ({"seconds": float("inf")}, "time-out of at least 0"),
        ({"exhaustive": 0}, "exhaustive of at least 1"),
        ({"restarts": 0}, "restarts of at least 1"),
        ({"bounds_at_once": 0}, "bounds_at_once of at least 1"),
        ({"queries": 1}, "at least 2 queries"),
        ({"leaf": 0}, "leaf of at least 1"),
        ({"branches_at_once": 0}, "branches_at_once of at least 1"),
    ],
)
def test_budgets_without_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Budget(**options)


@pytest.mark.parametrize("pixel", [np.nan, -0.5, 1.5, np.inf])
def test_a_pixel_outside_the_range_is_refused(pixel: float) -> None:
    images = np.zeros((1, *SHAPE), dtype=np.float32)
    images[0, 0, 1, 0] = pixel
    with pytest.raises(GridError, match="pixels in"):
        decide(tiny_case(0).verifier(Ball(Radius.parse("0.1"))), images, np.array([0]))
