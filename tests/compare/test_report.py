"""The page of a comparison: what it holds, what it escapes, and that a real browser opens and sorts it."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from command_line import abscert, refused
from test_tables import RUN, store

from compare.report import charts, render_report
from compare.tables import build_tables

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The cells of all tables, and every address that the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.loaded: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "td":
            self.cells.append("")
            self._open = True
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href") and value != "data:,"]

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store(tmp_path, RUN, {"cell": 3, "ball": 50})
    store(tmp_path, msgspec.structs.replace(RUN, method="reachable", options={"share": "0.1"}), {"ball": 20})
    store(tmp_path, msgspec.structs.replace(RUN, method="ibp", cells=None), {"ball": 110})
    return tmp_path


def test_the_page_holds_every_cell_of_the_tables_and_loads_nothing(results: Path) -> None:
    page = Page(render_report(results))
    for table in build_tables(results):
        assert [cell for row in table.rows for cell in row] == page.cells[: len(table.rows) * len(table.columns)]
    assert {"abstrain", "reachable", "ibp"} <= set(page.cells)
    assert not page.loaded


def test_bars_are_as_long_as_their_shares_and_claims_are_not_mixed(results: Path) -> None:
    from compare.collect import outcomes

    found = charts(outcomes(results)[0])
    by_claim = {"claim cell" in chart.title: chart for chart in found}
    assert len(found) == 2
    ball = by_claim[False]
    assert [(bar.name, bar.value) for bar in ball.bars] == [
        ("reachable, 6 cells share=0.1", "10.00%"),
        ("abstrain, 6 cells", "25.00%"),
        ("ibp", "55.00%"),
    ]
    assert ball.top == "100%"
    assert [sum(part.width for part in bar.parts) for bar in ball.bars] == pytest.approx([10, 25, 55])
    assert [part.kind for part in by_claim[True].bars[0].parts] == ["cell"]


def test_what_records_say_is_text_and_not_markup(tmp_path: Path) -> None:
    store(tmp_path, msgspec.structs.replace(RUN, network="<script>alert(1)</script>"), {"ball": 50})
    text = render_report(tmp_path)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_command_writes_the_page_or_says_why_not(results: Path, tmp_path: Path) -> None:
    into = tmp_path / "page.html"
    abscert("compare", "report", "--out", results, "--into", into)
    assert into.read_text() == render_report(results)
    assert "choose another --into" in refused(
        "compare", "report", "--out", results, "--into", tmp_path / "no" / "page.html"
    )
    assert "expected runs in" in refused("compare", "report", "--out", tmp_path / "none", "--into", into)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_opens_the_page_without_an_error_and_sorts_the_table(results: Path, tmp_path: Path) -> None:
    text = render_report(results)
    # after the page's own script: sort by the error, downwards, and tell what stands first
    probe = """
    <script>
    const heads = [...document.querySelectorAll("table.sortable th")];
    const place = heads.findIndex((head) => head.textContent === "error %");
    heads[place].querySelector("button").click();
    heads[place].querySelector("button").click();
    const first = document.querySelector("table.sortable tbody tr");
    document.title = "first " + first.cells[place].textContent + " " + heads[place].getAttribute("aria-sort");
    </script></body>"""
    page = tmp_path / "probed.html"
    page.write_text(text.replace("</body>", probe))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    result = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None
    assert title.group(1) == "first 55.00 descending"
    assert "CONSOLE" not in result.stderr
