"""The page of a comparison: what it holds, escapes and links to, and how a real browser shows it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from browser import BROWSER, CONTRASTS, Browser, browser
from command_line import abscert, refused
from stored_records import RUN, store
from test_curves import IBP, verify

from compare.landscape.stored_landscape import LANDSCAPES, DrawnNetwork, LandscapeRecord
from compare.page.comparison_page import ComparisonContent, render_report
from compare.page.error_bars import charts
from compare.results.stored_run import DONE, RUNS
from compare.results.verified_run import verified_runs
from compare.tables.catalogue import select_tables

PLAN = """
title = "Digits, as the tests have it"
[[grid]]
data = ["digits"]
network = ["fc-3-code"]
method = ["plain", "abstrain"]
radius = ["0.05"]
certify = ["0.02", "0.08"]
cells = [2]
epochs = 2
batch_size = 128
claims = ["cell", "ball"]
timeout = 0.1
limit = 40
"""
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f00010101005d2b2c0f"
    "0000000049454e44ae426082"
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


class Page(HTMLParser):
    """What stands in the cells of all tables, what the page would load, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "td":
            self.cells.append("")
            self._open = True
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(str(value))
            elif name in ("src", "href", "xlink:href", "srcset", "data") and not str(value).startswith("data:"):
                self.loaded.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data


def page_of(results: Path, page: Path | None = None, data_dir: Path | None = None) -> str:
    return render_report(ComparisonContent.read(results), page or results / "page.html", data_dir)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store(tmp_path, RUN, {"cell": 3, "ball": 50})
    store(tmp_path, msgspec.structs.replace(RUN, method="reachable", options={"share": "0.1"}), {"ball": 20})
    store(tmp_path, msgspec.structs.replace(RUN, method="ibp", cells=None), {"ball": 110})
    return tmp_path


def test_the_page_holds_every_cell_of_the_tables_and_loads_nothing(results: Path) -> None:
    page = Page(page_of(results))
    expected = [cell for table in select_tables(results, "all") for row in table.rows for cell in row]
    assert page.cells[: len(expected)] == expected
    assert {"abstrain", "reachable share=0.1", "ibp"} <= set(page.cells[len(expected) :])
    assert not page.loaded


def test_bars_are_as_long_as_their_shares_and_claims_are_not_mixed(results: Path) -> None:
    ball, cell = charts(verified_runs(results)[0])
    assert [(bar.name, bar.value) for bar in ball.bars] == [
        ("reachable, 6 cells share=0.1", "10.00 %"),
        ("abstrain, 6 cells", "25.00 %"),
        ("ibp", "55.00 %"),
    ]
    assert (ball.title, ball.top) == ("claim ball, radius 0.15 (0.3)", "100 %")
    assert [sum(part.width for part in bar.parts) for bar in ball.bars] == pytest.approx([10, 25, 55])
    assert (cell.title, cell.top) == ("claim cell", "2 %")
    assert [(part.kind, part.width) for part in cell.bars[0].parts] == [("cell", cast(Any, pytest.approx(75)))]


def test_bars_part_what_is_falsified_from_what_is_unknown(tmp_path: Path) -> None:
    verify(tmp_path, IBP, {"0.1": (20, 30)})
    (chart,) = charts(verified_runs(tmp_path)[0])
    assert {part.kind: part.width for part in chart.bars[0].parts} == {
        "refuted": pytest.approx(20),
        "open": pytest.approx(30),
    }


def test_bars_of_one_setting_have_one_axis_and_other_trainings_their_own_bars(tmp_path: Path) -> None:
    verify(tmp_path, IBP, {"0.05": (4, 0), "0.1": (90, 0)})
    verify(tmp_path, msgspec.structs.replace(IBP, epochs=3), {"0.1": (10, 0)})
    small, large = charts(verified_runs(tmp_path)[0])
    assert small.top == large.top
    assert [bar.value for bar in large.bars] == ["5.00 %", "45.00 %"]


def test_what_records_say_is_text_and_not_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    store(tmp_path, msgspec.structs.replace(RUN, network=bad, options={"a": bad}), {"cell": 3, "ball": 50})
    text = page_of(tmp_path)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["results #1", "results #1/pages", ".", "results #1 beside"])
def test_links_lead_to_files_from_wherever_the_page_lies_and_name_no_folder_above(tmp_path: Path, where: str) -> None:
    above = tmp_path / "secret folder"
    results = above / "results #1"
    folder = store(results, msgspec.structs.replace(RUN, certify=("15 / 100",)), {"ball": 50})
    page = above / where / "page.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page_of(results, page)
    links = [link for link in Page(text).links if not link.startswith("#")]
    assert "secret" not in text
    assert str(tmp_path) not in text
    if where == "results #1 beside":
        assert links == []
        assert "have no links" in text
        return
    targets = {(page.parent / unquote(urlsplit(link).path)).resolve() for link in links}
    assert {folder, folder / "config.json", folder / "verify-ball-15 _ 100" / "records.jsonl"} <= targets
    assert all(target.exists() for target in targets)


def test_every_run_is_listed_with_its_state(results: Path) -> None:
    failed = msgspec.structs.replace(RUN, seed=1)
    folder = store(results, failed, {"cell": 3, "ball": 50})
    (folder / DONE).unlink()
    (folder / "failure.json").write_text(json.dumps({"key": failed.key, "reason": "the loss is <nan>"}))
    text = page_of(results)
    rows = text[text.index('<section id="runs">') :]
    keys = {path.name for path in (results / RUNS).iterdir()}
    assert len(keys) == 4
    assert all(key[:8] in rows for key in keys)
    assert "the loss is &lt;nan&gt;" in rows
    assert "3 of 4 runs are done" in text


# --- landscapes ------------------------------------------------------------------------------------------------------


def landscape(results: Path, name: str, content: bytes = PIXEL) -> Path:
    folder = results / LANDSCAPES
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.png"
    path.write_bytes(content)
    return path


RECORD = LandscapeRecord(
    title="Sharp & smooth",
    space="weights",
    unit="step",
    data="mnist",
    images=500,
    span=0.5,
    steps=(-0.5, 0.0, 0.5),
    seed=0,
    networks=(
        DrawnNetwork(name="plain", run="a", method="plain", cells=None, loss=0.25, curvature=12.5),
        DrawnNetwork(name="cells", run="b", method="abstrain", cells=80, loss=0.125, curvature=-3.0),
    ),
)


def test_landscapes_stand_on_the_page_with_their_numbers(results: Path) -> None:
    RECORD.write(landscape(results, "one").with_suffix(".json"))
    landscape(results, "two")
    text = page_of(results)
    assert text.count("data:image/png") == 2
    assert "Sharp &amp; smooth" in text
    cells = Page(text).cells
    at = cells.index("cells")
    assert cells[at : at + 4] == ["cells", "0.025", "0.1250", "-3"]


def test_a_page_has_a_limit_on_landscapes(results: Path) -> None:
    landscape(results, "large", PIXEL + bytes(7_000_000))
    text = page_of(results)
    assert "no room for <code>large</code>" in text
    assert len(text) < 1_000_000


def test_a_damaged_record_of_a_landscape_is_named(results: Path, tmp_path: Path) -> None:
    landscape(results, "one").with_suffix(".json").write_text('{"title": 3}')
    message = refused("compare", "report", "--out", results, "--into", tmp_path / "page.html")
    assert "one.json is not the record of a landscape" in message


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_the_page_or_says_why_not(results: Path, tmp_path: Path) -> None:
    into = tmp_path / "page.html"
    abscert("compare", "report", "--out", results, "--into", into)
    assert into.read_text() == page_of(results, into)
    assert "choose another --into" in refused("compare", "report", "--out", results, "--into", into / "page.html")
    assert "expected runs in" in refused("compare", "report", "--out", tmp_path / "none", "--into", into)


def test_a_plan_gives_its_title_and_its_runs_alone_also_those_to_do(results: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    into = tmp_path / "page.html"
    abscert("compare", "report", "--out", results, "--plan", plan, "--into", into)
    text = into.read_text()
    assert "<h1>Digits, as the tests have it</h1>" in text
    assert "0 of 2 runs are done" in text
    assert RUN.key[:8] not in text


@pytest.mark.slow
def test_the_page_is_made_without_torch(results: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from pathlib import Path; "
    code += "from compare.page.comparison_page import ComparisonContent, render_report; "
    code += f"print(render_report(ComparisonContent.read(Path({str(results)!r})), Path({str(results / 'p.html')!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "without torch" in done.stdout
    assert "reachable share=0.1" in done.stdout


# --- a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of real runs, with curves, counterexamples and a landscape."""
    home = tmp_path_factory.mktemp("real")
    (home / "plan.toml").write_text(PLAN)
    abscert("compare", "run", home / "plan.toml", "--out", home)
    RECORD.write(landscape(home, "one").with_suffix(".json"))
    abscert("compare", "report", "--out", home, "--into", home / "page.html")
    return home / "page.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


SCREENS = pytest.mark.parametrize(("width", "dark"), [(1300, False), (1300, True), (420, False), (420, True)])


@pytest.mark.slow
@needs_browser
@SCREENS
def test_a_browser_shows_the_page_whole_and_readable(chromium: Browser, real: Path, width: int, dark: bool) -> None:
    chromium.resize(width, 900, dark)
    chromium.open(real)
    assert chromium.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert chromium.run("innerWidth") == width
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("[...document.images].length") > 6
    assert chromium.run("[...document.images].filter((one) => !one.complete || !one.naturalWidth).length") == 0
    contrasts = chromium.run(CONTRASTS)
    assert len(contrasts) > 100
    assert [found for found in contrasts if found[0] < 4.5] == []
    page = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(255, 255, 255)") is not dark
    assert chromium.complaints == []
    assert [address for address in chromium.requests if not address.startswith("data:")] == [real.as_uri()]


@needs_browser
@SCREENS
def test_text_of_a_chart_is_large_enough_and_lies_in_it(chromium: Browser, real: Path, width: int, dark: bool) -> None:
    chromium.resize(width, 900, dark)
    chromium.open(real)
    boxes = chromium.run(
        """[...document.querySelectorAll(".figure > svg")].flatMap((svg) => {
          const outer = svg.getBoundingClientRect();
          return [...svg.querySelectorAll("text")].map((text) => {
            const box = text.getBoundingClientRect();
            const size = parseFloat(getComputedStyle(text).fontSize) * outer.width / svg.viewBox.baseVal.width;
            const inside = box.left >= outer.left && box.right <= outer.right && box.bottom <= outer.bottom;
            return [text.textContent, size, inside];
          });
        })"""
    )
    assert len(boxes) > 8
    assert [box for box in boxes if box[1] < 11 or not box[2]] == []


@needs_browser
def test_tables_sort_by_numbers_and_what_is_empty_stays_last(chromium: Browser, real: Path) -> None:
    chromium.resize(1300, 900)
    chromium.open(real)
    column = """(() => {
      const table = document.querySelector("table.sortable");
      const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.trim() === "%s");
      head.querySelector("button").click();
      return [head.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent.trim())];
    })()"""
    for name in ("ball error %", "cell error %"):
        for direction in ("ascending", "descending"):
            told, texts = chromium.run(column % name)
            assert told == direction
            numbers = [float(text) for text in texts if text]
            assert numbers == sorted(numbers, reverse=direction == "descending")
            assert len(set(numbers)) > (1 if name == "ball error %" else 0)
            assert texts[len(numbers) :] == [""] * (len(texts) - len(numbers))
    assert "" in texts
    told, texts = chromium.run(column % "method")
    assert texts == sorted(texts)


@needs_browser
def test_a_page_of_a_long_comparison_stays_within_a_phone(chromium: Browser, tmp_path: Path) -> None:
    options = {"loss": "mtl-ibp", "ramp": "0.4", "share": "0.1", "regulariser": "0.5", "a" * 60: "b" * 60}
    for place, network in enumerate(("dm-small", "n" * 80)):
        run = msgspec.structs.replace(RUN, network=network, options=options, epochs=place + 1)
        store(tmp_path, run, {"cell": 3, "ball": 50})
    page = tmp_path / "page.html"
    page.write_text(page_of(tmp_path))
    chromium.resize(420, 900)
    chromium.open(page)
    assert chromium.run("document.documentElement.scrollWidth") <= 420


@needs_browser
def test_a_landscape_without_a_record_and_links_do_not_trouble_the_browser(chromium: Browser, results: Path) -> None:
    landscape(results, "alone")
    page = results / "page.html"
    page.write_text(page_of(results))
    before = len(chromium.complaints)
    chromium.open(page)
    assert chromium.complaints[before:] == []
    hrefs = chromium.run("[...document.querySelectorAll('#runs a')].map((link) => link.href)")
    assert hrefs
    assert all(os.path.exists(unquote(re.sub("^file://", "", href))) for href in hrefs)  # noqa: PTH110
