"""Summaries: counts against counting, intervals against scipy's own test, and rows that do not belong together."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.stats import binomtest

from abscert_plugin.errors import RecordError
from abscert_plugin.records import SCHEMA_VERSION, Record
from abscert_plugin.verification.summary import clopper_pearson, summarise, summarise_classes

ROW = Record(
    index=0,
    label=0,
    prediction=0,
    claim="cell",
    radius=None,
    radius_scale=None,
    verdict="certified",
    reason="",
    method="forward",
    reachable_log2=0.0,
    margin=None,
    seconds=0.25,
    counterexample=None,
    schema=SCHEMA_VERSION,
)
BALL = replace(ROW, claim="ball", radius=0.1, radius_scale="pixel")
verdicts = st.sampled_from(["certified", "falsified", "unknown"])
classes = st.integers(0, 3)


@st.composite
def rows_of_one_claim(draw: st.DrawFn) -> list[Record]:
    first = draw(st.sampled_from([ROW, BALL]))
    facts = draw(st.lists(st.tuples(verdicts, classes, classes), min_size=1, max_size=12))
    return [
        replace(first, index=place, verdict=verdict, label=label, prediction=prediction)
        for place, (verdict, label, prediction) in enumerate(facts)
    ]


def count(rows: Sequence[Record], verdict: str) -> int:
    total = 0
    for row in rows:
        if row.verdict == verdict:
            total += 1
    return total


@given(rows_of_one_claim())
def test_counts_and_rates_equal_counting(rows: list[Record]) -> None:
    summary = summarise(rows)
    counts = {verdict: count(rows, verdict) for verdict in ("certified", "falsified", "unknown")}
    assert counts == {"certified": summary.certified, "falsified": summary.falsified, "unknown": summary.unknown}
    assert summary.images == len(rows) == sum(counts.values())
    assert summary.verified_error * len(rows) == pytest.approx(counts["falsified"] + counts["unknown"])  # one division
    assert summary.clean_error * len(rows) == pytest.approx(len([0 for row in rows if row.prediction != row.label]))
    assert summary.interval[0] <= summary.verified_error <= summary.interval[1]
    assert summary.claim == rows[0].claim
    assert summary.seconds == 0.25 * len(rows)
    assert summary.images_per_second == 4


@given(rows_of_one_claim())
def test_classes_add_up_to_the_whole(rows: list[Record]) -> None:
    by_class = summarise_classes(rows)
    assert list(by_class) == sorted({row.label for row in rows})
    assert sum(summary.images for summary in by_class.values()) == len(rows)
    assert sum(summary.certified for summary in by_class.values()) == summarise(rows).certified
    for label, summary in by_class.items():
        assert summary == summarise([row for row in rows if row.label == label])


@given(st.data(), st.integers(1, 20_000))
def test_intervals_equal_the_exact_test_of_scipy(data: st.DataObject, trials: int) -> None:
    failures = data.draw(st.integers(0, trials) | st.sampled_from([0, 1, trials - 1, trials]))
    level = data.draw(st.sampled_from([0.5, 0.95, 0.999]))
    expected = binomtest(failures, trials).proportion_ci(level, "exact")
    low, high = clopper_pearson(failures, trials, level)
    # scipy finds the ends by root finding, to an absolute 2e-12
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-11)


def test_intervals_of_none_and_of_all() -> None:
    """The closed form of the two extreme counts."""
    assert clopper_pearson(0, 20) == (0.0, cast(Any, pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12)))
    assert clopper_pearson(20, 20) == (cast(Any, pytest.approx(0.025 ** (1 / 20), rel=1e-12)), 1.0)


def test_no_time_gives_no_rate() -> None:
    assert summarise([replace(ROW, seconds=0.0)]).images_per_second == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"claim": "ball"},
        {"radius": 0.1},
        {"radius": 0.1, "radius_scale": "training"},
    ],
)
@pytest.mark.parametrize("first", [ROW, replace(BALL, radius=0.2)])
def test_rows_of_different_claims_are_not_added_up(first: Record, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="one claim and one radius"):
        summarise([first, replace(first, index=1, **changes), replace(first, index=2, claim="other")])


@pytest.mark.parametrize("change", [{"radius": 0.2}, {"radius_scale": "training"}, {"claim": "cell"}])
def test_balls_of_different_radii_are_not_added_up(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="one claim and one radius"):
        summarise([BALL, replace(BALL, index=1, **change)])


def test_an_image_that_stands_twice_is_refused() -> None:
    with pytest.raises(RecordError, match="each image once"):
        summarise([ROW, replace(ROW, index=1), ROW])


def test_no_rows_are_refused() -> None:
    with pytest.raises(RecordError, match="at least one record"):
        summarise([])
