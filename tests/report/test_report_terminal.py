"""Tables in the terminal: their numbers equal counting, claims stay apart, and nothing steers the terminal."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_rows import ROW, VERDICTS, cells_of, printed, random_rows, row
from rich.table import Table
from scipy.stats import binomtest

from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record
from abscert_plugin.report.terminal import (
    NamedRecords,
    class_table,
    reason_table,
    run_table,
    summary_table,
    summary_tables,
)

BALL: dict[str, Any] = {"claim": "ball"}
NUMBERS = ["images", *VERDICTS, "verified\nerror %", "95 %\ninterval", "clean\nerror %"]


def expected_numbers(rows: list[Record]) -> list[str]:
    """Count by hand; the interval is scipy's."""
    counts = [sum(row.verdict == verdict for row in rows) for verdict in VERDICTS]
    failed = len(rows) - counts[0]
    ends = binomtest(failed, len(rows)).proportion_ci(0.95, "exact")
    wrong = sum(row.prediction != row.label for row in rows)
    return [
        f"{len(rows):,}",
        *(f"{count:,}" for count in counts),
        f"{100 * failed / len(rows):.2f}",
        f"{100 * ends.low:.2f}\N{EN DASH}{100 * ends.high:.2f}",
        f"{100 * wrong / len(rows):.2f}",
    ]


samples = st.builds(random_rows, st.integers(1, 40), st.integers(0, 99))


@settings(max_examples=30)
@given(st.lists(samples, min_size=1, max_size=4))
def test_a_summary_has_one_line_per_file_whose_numbers_equal_counting(files: list[list[Record]]) -> None:
    table = summary_table([NamedRecords(f"file {place}", rows) for place, rows in enumerate(files)])
    header, *lines = cells_of(table)
    assert header == ["records", "claim", "radius", *NUMBERS, "img/s"]
    assert len(lines) == len(files)
    for place, (line, rows) in enumerate(zip(lines, files, strict=True)):
        is_any = any(row.verdict == "certified" for row in rows)
        claim = "cell\nthis-runtime" if is_any else "cell"
        assert line[:3] == [f"file {place}", claim, "\N{EM DASH}"]
        assert line[3:-1] == expected_numbers(rows)
        assert line[-1] == "4.0"  # each row took a quarter of a second


@settings(max_examples=30)
@given(samples)
def test_the_table_of_one_run_equals_counting(rows: list[Record]) -> None:
    _, *lines = cells_of(run_table(NamedRecords("one", rows)))
    images, certified, falsified, unknown, error, interval, clean = expected_numbers(rows)
    holds_for = {"certified for": "this-runtime"} if any(row.verdict == "certified" for row in rows) else {}
    assert dict(lines) == {
        "records": "one",
        "claim": "cell",
        "radius": "\N{EM DASH}",
        **holds_for,
        "images": images,
        "certified": certified,
        "falsified": falsified,
        "unknown": unknown,
        "verified error": f"{error} %",
        "its 95 % interval": f"{interval} %",
        "clean error": f"{clean} %",
        "images a second": "4.0",
    }


def test_large_counts_are_grouped_and_no_time_gives_no_speed() -> None:
    rows = [row(index, seconds=0.0) for index in range(1234)]
    ((_, line),) = [cells_of(summary_table([NamedRecords("many", rows)]))]
    assert line[3:5] == ["1,234", "1,234"]
    assert line[-1] == "\N{EM DASH}"
    assert ["images a second", "\N{EM DASH}"] in cells_of(run_table(NamedRecords("many", rows)))


@settings(max_examples=30)
@given(samples, st.booleans())
def test_classes_are_counted_one_by_one_in_the_order_of_their_labels(rows: list[Record], named: bool) -> None:
    names = ("zebra", "ape") if named else None  # the third class has no name
    header, *lines = cells_of(class_table(rows, names))
    assert header == ["class", *NUMBERS]
    labels = sorted({row.label for row in rows})
    assert [line[0] for line in lines] == [
        names[label] if names is not None and label < 2 else str(label) for label in labels
    ]
    for label, line in zip(labels, lines, strict=True):
        assert line[1:] == expected_numbers([row for row in rows if row.label == label])


@settings(max_examples=30)
@given(samples, st.integers(0, 9))
def test_reasons_are_counted_the_most_frequent_first(rows: list[Record], seed: int) -> None:
    rows = [replace(row, method=f"method {(row.index + seed) % 2}") for row in rows]
    header, *lines = cells_of(reason_table(rows))
    assert header == ["verdict", "reason", "method", "images", "%"]
    counted = Counter((row.verdict, row.reason, row.method) for row in rows)
    assert {tuple(line[:3]): int(line[3]) for line in lines} == counted
    assert len(lines) == len(counted)
    assert [int(line[3]) for line in lines] == sorted(counted.values(), reverse=True)
    assert [line[4] for line in lines] == [f"{100 * int(line[3]) / len(rows):.2f}" for line in lines]


# --- claims never meet ------------------------------------------------------------------------------------------------


def test_claims_never_share_a_table() -> None:
    cell, ball = random_rows(5), random_rows(7, seed=1, **BALL)
    runs = [NamedRecords("first", cell), NamedRecords("second", ball), NamedRecords("third", cell)]
    tables = summary_tables(runs)
    assert [str(table.title) for table in tables] == ["Verification, claim ball", "Verification, claim cell"]
    assert [[line[0] for line in cells_of(table)[1:]] for table in tables] == [["second"], ["first", "third"]]
    for table, claim in zip(tables, ("ball", "cell"), strict=True):
        assert {line[1] for line in cells_of(table)[1:]} == {f"{claim}\nthis-runtime"}
    with pytest.raises(RecordError, match=r"one claim in one table, got \['ball', 'cell'\]; use summary_tables"):
        summary_table(runs)


def test_radii_share_a_table_and_are_given_on_both_scales() -> None:
    pixel = random_rows(3, **BALL, radius=0.15, radius_scale="pixel")
    training = random_rows(3, **BALL, radius=0.3, radius_scale="training")
    (table,) = summary_tables([NamedRecords("one", pixel), NamedRecords("two", training)])
    assert [line[2] for line in cells_of(table)[1:]] == ["0.15 pixel\n0.3 training", "0.3 training\n0.15 pixel"]
    assert ["radius", "0.15 pixel, 0.3 training"] in cells_of(run_table(NamedRecords("one", pixel)))
    for table in (class_table(pixel, None), reason_table(pixel)):
        assert str(table.title).endswith("claim ball, radius 0.15 pixel (0.3 training)")


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: run_table(NamedRecords("mixed", rows)),
        lambda rows: summary_tables([NamedRecords("mixed", rows)]),
        lambda rows: class_table(rows, None),
        reason_table,
    ],
)
@pytest.mark.parametrize("second", [BALL, {"claim": "cell", "radius": 0.1, "radius_scale": "pixel"}])
def test_rows_of_two_claims_make_no_table(make: Callable[[list[Record]], Table], second: dict[str, str]) -> None:
    with pytest.raises(RecordError, match="one claim and one radius"):
        make([row(0), row(1, **second)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: run_table(NamedRecords("empty", [])),
        lambda: summary_tables([NamedRecords("empty", [])]),
        lambda: summary_table([]),
        lambda: class_table([], None),
        lambda: reason_table([]),
    ],
)
def test_no_rows_make_no_table(make: Callable[[], Table]) -> None:
    with pytest.raises(RecordError, match=r"got none|use summary_tables"):
        make()


# --- what a terminal gets ---------------------------------------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202e[red]name[/red] [/] :smile:"


def hostile_tables() -> list[Table]:
    first = replace(ROW, reason=HOSTILE, method=HOSTILE, verdict=HOSTILE)
    ball = replace(first, claim="ball", radius=0.1, radius_scale=HOSTILE)
    run = NamedRecords(HOSTILE, [first])
    return [
        run_table(run),
        run_table(NamedRecords(HOSTILE, [ball])),
        summary_table([run]),
        *summary_tables([run, NamedRecords(HOSTILE, [ball])]),
        class_table([first], (HOSTILE,)),
        reason_table([first]),
        reason_table([ball]),
        run_table(NamedRecords("claim", [replace(first, claim=HOSTILE)])),
    ]


@pytest.mark.parametrize("number", range(len(hostile_tables())))
def test_names_of_files_do_not_steer_the_terminal(number: int) -> None:
    table = hostile_tables()[number]
    # rich itself writes bold and colours here: none is asked for, but the title's weight may be
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(table))
    assert all(letter.isprintable() or letter == "\n" for letter in text), repr(text)
    assert "[red]name[/red] [/] :smile:" in text  # markup and emoji codes are shown as they stand


@pytest.mark.parametrize("width", [40, 80])
def test_every_number_of_a_run_is_readable_in_a_narrow_terminal(width: int) -> None:
    rows = random_rows(1500)
    text = printed(run_table(NamedRecords("a/long/path/" * 10, rows)), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for number in expected_numbers(rows):
        assert number in text
