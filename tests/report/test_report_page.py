"""The page of a run: valid HTML on its own, its numbers, its order, and nothing that a file can smuggle in."""

import math
import re
from typing import Any

import pytest
from html_page import Element, parse_page
from msgspec.structs import replace
from report_rows import VERDICTS, picture_data, random_rows, row, run_info
from scipy.stats import binomtest

from abscert_plugin.data import DataSet
from abscert_plugin.errors import RecordError
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.report import page
from abscert_plugin.report.bars import MAX_BARS, class_chart
from abscert_plugin.report.page import MAX_ITEMS, MAX_REASONS, PageContent, render_page

DATA = picture_data((1, 4, 4), 30)
NAMED = picture_data((1, 4, 4), 30, ("cat", "dog", "fox"))


def rows_of(data: DataSet, seed: int = 0) -> list[Record]:
    """Return rows of every image, with random verdicts."""
    rows = random_rows(len(data), seed)
    facts = zip(rows, data.index.tolist(), data.labels.tolist(), strict=True)
    return [replace(one, index=index, label=label, margin=index * 7 % 11 - 5.0) for one, index, label in facts]


def rendered(rows: list[Record], **options: Any) -> Element:
    run = options.pop("run", None) or run_info()
    return parse_page(render_page(PageContent(run, rows, **options)))


def items(root: Element) -> list[Element]:
    return root.by_id("gallery").all("li")


def failing(rows: list[Record]) -> list[Record]:
    return [one for one in rows if one.verdict != "certified"]


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_equal_counting(seed: int) -> None:
    rows = random_rows(1234, seed)
    root = rendered(rows)
    for verdict in VERDICTS:
        assert root.by_id(verdict).text == f"{sum(one.verdict == verdict for one in rows):,}"
    failed = len(failing(rows))
    ends = binomtest(failed, len(rows)).proportion_ci(0.95, "exact")
    assert root.by_id("verified-error").text == f"{100 * failed / len(rows):.2f} %"
    assert root.by_id("interval").text == f"95 % interval {100 * ends.low:.2f}\N{EN DASH}{100 * ends.high:.2f} %"
    wrong = sum(one.prediction != one.label for one in rows)
    assert root.by_id("clean-error").text == f"{100 * wrong / len(rows):.2f} %"
    assert root.by_id("images").text == "1,234"
    widths = [span.attributes["style"] for span in root.all("div", kind="shares")[0].all("span")]
    expected = [100 * sum(one.verdict == verdict for one in rows) / len(rows) for verdict in VERDICTS]
    assert widths == [f"width: {share:.3f}%" for share in expected]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spared", [1, 4])
def test_the_chart_of_classes_equals_counting(seed: int, spared: int) -> None:
    rows = [one if one.index % spared == 0 else replace(one, verdict="certified") for one in random_rows(200, seed)]
    root = rendered(rows, data=NAMED)
    head, *lines = root.by_id("classes").table()
    top = float(re.findall(r"(\S+) %", head[1])[1])
    assert [line[0] for line in lines] == list(NAMED.classes)
    assert (top < 100) == (spared > 1)
    bars = root.by_id("classes").all("td", kind="track")
    for label, (line, bar) in enumerate(zip(lines, bars, strict=True)):
        own = [one for one in rows if one.label == label]
        error = 100 * len(failing(own)) / len(own)
        ends = binomtest(len(failing(own)), len(own)).proportion_ci(0.95, "exact")
        assert line[2:] == [
            f"{error:.2f} %",
            f"{100 * ends.low:.2f}\N{EN DASH}{100 * ends.high:.2f} %",
            f"{len(failing(own))} of {len(own)}",
        ]
        fill, thin = (
            [float(part) for part in re.findall(r"([\d.]+)%", span.attributes["style"])] for span in bar.all("span")
        )
        # lengths are in per cent of an axis that ends at `top` per cent; two decimals are written
        assert fill == pytest.approx([100 * error / top], abs=0.006)
        assert thin == pytest.approx([1e4 * ends.low / top, 1e4 * (ends.high - ends.low) / top], abs=0.011)
        assert sum(thin) <= 100.01


@pytest.mark.parametrize(("failures", "top"), [(0, 0.05), (1, 0.1), (30, 0.5), (90, 1.0)])
def test_the_axis_ends_at_the_first_round_rate_above_every_interval(failures: int, top: float) -> None:
    rows = [row(index, "falsified" if index < failures else "certified") for index in range(100)]
    chart = class_chart(rows, None)
    assert chart.top == top >= chart.bars[0].summary.interval[1]


def test_with_many_classes_the_worst_are_drawn() -> None:
    rows = [
        row(index, "unknown" if index < 40 else "certified", label=index // 2) for index in range(2 * (MAX_BARS + 9))
    ]
    root = rendered(rows)
    lines = root.by_id("classes").table()[1:]
    assert len(lines) == MAX_BARS
    assert [line[0] for line in lines[:20]] == [str(label) for label in range(20)]
    assert {line[2] for line in lines[:20]} == {"100.00 %"}
    assert f"The {MAX_BARS} classes with the highest verified error, out of {MAX_BARS + 9}." in root.text


def test_reasons_are_counted_and_the_rarest_left_to_a_line() -> None:
    rows = [row(place * 100 + n, "unknown", reason=f"reason {place}") for place in range(15) for n in range(20 - place)]
    root = rendered(rows)
    lines = root.by_id("reasons").table()[1:]
    assert lines == [["unknown", f"reason {place}", str(20 - place)] for place in range(MAX_REASONS)]
    assert f"And {15 - MAX_REASONS} rarer reasons." in root.text


# --- the images that are not certified --------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, DATA])
def test_every_failing_image_is_shown_the_most_negative_margin_first(data: DataSet | None) -> None:
    rows = rows_of(DATA)
    shown = items(rendered(rows, data=data, grid=Grid(3)))
    expected = sorted(failing(rows), key=lambda one: (one.margin, one.index))
    assert [int(item.attributes["data-index"]) for item in shown] == [one.index for one in expected]
    for rank, (item, one) in enumerate(zip(shown, expected, strict=True)):
        assert item.attributes["data-rank"] == str(rank)
        assert item.attributes["data-label"] == str(one.label)
        names = DATA.classes if data is not None else "012"
        for part in (names[one.label], one.verdict, f"predicted {names[one.prediction]}", one.reason):
            assert part in item.text
        assert f"index {one.index}" in item.text
        assert f"margin {one.margin:+.3g}".replace("-", "\N{MINUS SIGN}") in item.text


def test_rows_without_a_margin_come_last_and_have_no_number() -> None:
    nothing = row(0, "unknown", margin=None, prediction=-1)
    rows = [nothing, row(1, "falsified", margin=-1.0), row(2, "unknown", margin=0.0)]
    shown = items(rendered(rows))
    assert [item.attributes["data-index"] for item in shown] == ["1", "2", "0"]
    assert "predicted none" in shown[-1].text
    assert "margin \N{EM DASH}" in shown[-1].text


def test_past_the_limit_the_least_margins_are_shown_and_the_page_says_so() -> None:
    count = MAX_ITEMS + 7
    root = rendered([row(index, "falsified", margin=float(-index)) for index in range(count)])
    assert [int(item.attributes["data-index"]) for item in items(root)] == list(range(count - 1, 6, -1))
    assert f"{MAX_ITEMS} of {count} are shown, those with the most negative margin" in root.by_id("shown").text


def test_large_pictures_lower_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_PICTURE_BYTES", 5 * 2 * math.prod(DATA.shape))
    rows = [replace(one, verdict="falsified") for one in rows_of(DATA)]
    root = rendered(rows, data=DATA)
    assert len(items(root)) == 5
    assert "5 of 30 are shown" in root.by_id("shown").text


def test_a_run_without_failures_says_so() -> None:
    root = rendered([row(0), row(1)])
    assert root.by_id("shown").text == "Every image is certified."
    assert not root.all("ol")


def test_the_choice_of_classes_lists_those_shown() -> None:
    rows = [row(0, "falsified", label=2), row(1, "unknown", label=0), row(2, label=1)]
    options = rendered(rows, data=NAMED).by_id("only").all("option")
    assert [(option.attributes["value"], option.text) for option in options] == [
        ("", "all"),
        ("0", "cat"),
        ("2", "fox"),
    ]


# --- what the page says of itself -------------------------------------------------------------------------------------


def test_the_claim_stands_in_title_and_head() -> None:
    cell = rendered([row(0)])
    assert cell.all("title")[0].text == "pictures, deploy.onnx, claim cell"
    assert "It does not cover the l-infinity ball" in cell.all("p", kind="scope")[0].text
    ball = rendered([row(0, claim="ball")])
    assert ball.all("title")[0].text.endswith("claim ball, radius 0.1 pixel (0.2 training)")
    assert "every image within the radius" in ball.all("p", kind="scope")[0].text
    narrower = rendered([row(0, claim="ball", inputs="uint8")]).all("p", kind="scope")[0].text
    assert "every 8-bit image within the radius" in narrower
    assert "every image" not in narrower


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0), row(0)],
        [row(0), row(1, claim="ball")],
        [row(0, claim="other")],
        [row(0, claim="<b>")],
        [row(0, claim="ball", inputs="all")],
    ],
)
def test_rows_that_make_no_run_make_no_page(rows: list[Record]) -> None:
    with pytest.raises(RecordError, match="expected"):
        render_page(PageContent(run_info(), rows))


def test_an_unfinished_run_and_missing_rows_are_told() -> None:
    root = rendered([row(0)], run=run_info(seconds=None, data={"name": "pictures", "images": 2000}))
    notices = [notice.text for notice in root.all("p", kind="notice")]
    assert notices == [
        "This run has not finished; the figures are of the rows written so far.",
        "These are the rows of 1 of the run's 2,000 images.",
    ]
    assert not rendered([row(0)], run=run_info(data={"images": 1})).all("p", kind="notice")


def test_everything_in_run_json_is_there() -> None:
    run = run_info(configuration={"a key": "a value", "number": 3, "nothing": None})
    tables = [line for table in rendered([row(0)], run=run).all("details")[0].all("table") for line in table.table()]
    assert ["a key", "a value"] in tables
    assert ["number", "3"] in tables
    assert ["nothing", "none"] in tables
    assert ["sha256", "ab" * 32] in tables


# --- what files cannot do ---------------------------------------------------------------------------------------------

HOSTILE = "</title></style><script>alert(1)</script>\"'><img src=http://x.example/p onerror=alert(2)>{{ 7 * 6 }}`&lt;"


def hostile_page() -> Element:
    verdicts = ["falsified", "unknown", HOSTILE, "certified"]
    rows = [
        replace(one, verdict=verdict, reason=f"{HOSTILE} {one.index}", method=HOSTILE)
        for one, verdict in zip(rows_of(DATA)[:4], verdicts, strict=True)
    ]
    entries = {HOSTILE: HOSTILE, "list": [HOSTILE]}
    run = run_info(
        configuration=entries,
        versions={HOSTILE: HOSTILE},
        device=HOSTILE,
        provider=HOSTILE,
        data={**entries, "name": HOSTILE, "split": HOSTILE},
        model={**entries, "path": HOSTILE, "sha256": HOSTILE * 2, "network": HOSTILE},
    )
    return rendered(rows, run=run, grid=Grid(3), data=picture_data((1, 4, 4), 30, (HOSTILE,) * 3))


def test_hostile_names_and_reasons_are_text_and_nothing_else() -> None:
    root = hostile_page()
    clean = rendered(rows_of(DATA)[:4], data=DATA, grid=Grid(3))
    assert len(root.all("script")) == len(clean.all("script")) == 1
    assert root.all("script")[0].text == clean.all("script")[0].text
    assert "alert" not in root.all("script")[0].text + root.all("style")[0].text
    assert not [name for element in root.walk() for name in element.attributes if name.startswith("on")]
    shown = " ".join(HOSTILE.split())
    assert shown in root.all("title")[0].text
    assert all(shown in item.text for item in items(root))
    assert [line[0] for line in root.by_id("classes").table()[1:]] == [shown] * 3
    assert shown in root.by_id("only").text
    assert all(shown in picture.attributes["alt"] for picture in root.by_id("gallery").all("img"))
    assert len(root.by_id("gallery").all("img")) == 2 * len(items(root)) == 6


def test_the_page_asks_for_nothing_from_outside() -> None:
    for root in (hostile_page(), rendered(rows_of(DATA), data=DATA, grid=Grid(3))):
        for element in root.walk():
            for name in ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"):
                assert element.attributes.get(name, "data:").startswith("data:"), element
            assert "url(" not in element.attributes.get("style", "")
            assert element.tag not in ("iframe", "object", "embed", "base", "audio", "video")
        assert not re.search(r"url\(|@import|https?:", root.all("style")[0].text + root.all("script")[0].text)
        (policy,) = root.all("meta", **{"http-equiv": "Content-Security-Policy"})
        assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")
