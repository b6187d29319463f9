"""The page of a verification in a real browser: on a phone, and by the keyboard alone."""

from collections.abc import Iterator

import pytest
from browser import BROWSER, CONTRASTS, Browser, browser
from report_rows import picture_data, row, run_info

from abscert_plugin.grid import Grid
from abscert_plugin.report.page import PageContent, render_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

NAMES = tuple(f"kind-{letter}" for letter in "abcdefghijklmn")
DATA = picture_data((3, 8, 8), 28, NAMES)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    methods = ("branch and bound", "gradient attack", "crown-optimised", "forward")
    rows = [
        row(
            index,
            ("certified", "falsified", "unknown")[place % 3],
            claim="ball",
            label=place % 14,
            method=methods[place % 4],
            seconds=1234.5,
            margin=place - 14.5,
        )
        for place, index in enumerate(DATA.index.tolist())
    ]
    path = tmp_path_factory.mktemp("page") / "ball.html"
    path.write_text(render_page(PageContent(run_info(), rows, Grid(3), DATA)), encoding="utf-8")
    with browser() as found:
        found.open(path)
        yield found
        assert found.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_page_in_its_width_and_readable(page: Browser, dark: bool) -> None:
    page.resize(320, 700, dark)
    assert page.run("document.documentElement.scrollWidth") == 320
    assert [found for found in page.run(CONTRASTS) if found[0] < 4.5] == []


def test_a_box_that_scrolls_is_reached_by_the_keyboard_and_no_other(page: Browser) -> None:
    boxes = "[...document.querySelectorAll('.scroll')].map((box) => [box.tabIndex, box.scrollWidth > box.clientWidth])"
    page.resize(320, 700)
    assert [0, True] in page.run(boxes)
    for width in (320, 1300):
        page.resize(width, 700)
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert all((place == 0) == scrolls for place, scrolls in page.run(boxes))
    assert page.run("[...document.querySelectorAll('.scroll')].every((box) => box.ariaLabel && box.role === 'region')")


def test_tables_sort_by_the_keyboard_and_say_so(page: Browser) -> None:
    page.resize(1300, 900)
    column = "[...document.querySelectorAll('#classes tbody tr')].map((row) => row.cells[2].textContent)"
    for direction in ("ascending", "descending"):
        page.run("document.querySelector('#classes thead th:nth-child(3) button').focus()")
        page.press("Enter")
        said = page.run("[...document.querySelectorAll('#classes thead th')].map((head) => head.ariaSort)")
        assert said == [None, None, direction, None, None]
        rates = [float(text.rstrip(" %")) for text in page.run(column)]
        assert rates == sorted(rates, reverse=direction == "descending")


def test_a_long_table_and_the_gallery_leave_out_what_is_not_asked_for(page: Browser) -> None:
    give = (
        "(() => {{ const it = document.querySelector('{}'); it.value = '{}'; it.dispatchEvent(new Event('{}')); }})()"
    )
    shown = "[...document.querySelectorAll('{}')].filter((one) => !one.hidden).map((one) => one.{})"
    page.run(give.format(".filter input", " of KIND-C", "input"))
    assert page.run(shown.format("#classes tbody tr", "cells[0].textContent")) == ["kind-c"]
    assert page.run("document.querySelector('.filter output').value") == "1 of 14"
    page.run(give.format("#of", "unknown", "change"))
    assert page.run(shown.format("#gallery li", "dataset.verdict")) == 9 * ["unknown"]
