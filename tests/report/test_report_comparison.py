"""Two runs image by image: transitions and differences against counting, and what is refused or said."""

from pathlib import Path

import pytest
from command_line import abscert, refused
from html_page import parse_page
from report_rows import VERDICTS, cells_of, picture_data, random_rows, row, run_info

from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record, RecordWriter, RunInfo
from abscert_plugin.report.comparison import Comparison, changed_table, transition_table
from abscert_plugin.report.comparison_page import render_comparison
from abscert_plugin.report.page import PageContent

DATA = picture_data((1, 4, 4), 30)
NAMES = ("first", "second")
TOLD = {"name": "pictures", "split": "test", "sha256": DATA.sha256}


def content(rows: list[Record], **changes: object) -> PageContent:
    return PageContent(run_info(**{"data": TOLD, **changes}), rows, None, DATA)


def of_images(seed: int, count: int = 30, start: int = 0) -> list[Record]:
    rows = random_rows(30, seed)
    labelled = [
        row(5 + place, one.verdict, label=place % 3, prediction=one.prediction) for place, one in enumerate(rows)
    ]
    return labelled[start : start + count]


@pytest.mark.parametrize("seed", range(3))
def test_transitions_and_differences_equal_counting(seed: int) -> None:
    first, second = of_images(seed), of_images(seed + 10, 20, 4)
    comparison = Comparison.of(NAMES, content(first), content(second))
    verdicts = [{one.index: one.verdict for one in rows} for rows in (first, second)]
    both = sorted(verdicts[0].keys() & verdicts[1].keys())
    assert [pair.first.index for pair in comparison.pairs] == both
    assert comparison.alone == (10, 0)
    expected = [
        [str(sum((verdicts[0][at], verdicts[1][at]) == (one, other) for at in both)) for other in VERDICTS]
        for one in VERDICTS
    ]
    assert [line[1:] for line in cells_of(transition_table(comparison))[1:]] == expected
    page = parse_page(render_comparison(comparison))
    assert [line[1:] for line in page.by_id("transitions").table()[1:]] == expected
    changed = {at for at in both if verdicts[0][at] != verdicts[1][at]}
    listed = page.by_id("images").table()[1:]
    assert {int(line[0]): (line[2], line[3]) for line in listed} == {
        at: (verdicts[0][at], verdicts[1][at]) for at in changed
    }
    assert {int(line[0]) for line in cells_of(changed_table(comparison))[1:]} == changed
    assert len(page.by_id("gallery").all("li")) == len(page.by_id("gallery").all("img")) == len(changed)
    ranks = [{line[2], line[3]} == {"certified", "falsified"} for line in listed]
    assert ranks == sorted(ranks, reverse=True)
    assert "10 images are in first alone" in page.text


def test_runs_on_other_images_are_refused() -> None:
    rows = of_images(0)
    with pytest.raises(RecordError, match="expected runs on the same images"):
        Comparison.of(NAMES, content(rows), content(rows, data={**TOLD, "sha256": "1" * 64}))
    with pytest.raises(RecordError, match="no image in common"):
        Comparison.of(NAMES, content(rows[:3]), content(rows[3:]))
    with pytest.raises(RecordError, match="different labels"):
        Comparison.of(NAMES, content(rows), content([row(5, label=2)]))


def test_what_must_be_known_of_both_is_said() -> None:
    model = {"path": "deploy.onnx", "sha256": "ab" * 32}
    certified, falsified = [row(5, label=0)], [row(5, "falsified", label=0)]
    clash = Comparison.of(NAMES, content(certified, model=model), content(falsified, model=model))
    assert any("one is wrong" in notice for notice in clash.notices)
    other = Comparison.of(
        NAMES, content(certified, model=model), content(falsified, model={**model, "sha256": "c" * 64})
    )
    assert other.notices == []
    claims = Comparison.of(NAMES, content(certified), content([row(5, claim="ball", label=0)]))
    assert any("The claims differ" in notice for notice in claims.notices)
    settings = {setting.name: setting for setting in other.settings}
    assert settings["model sha256"].differs
    assert not settings["batch_size"].differs
    assert [setting.differs for setting in other.settings] == sorted((s.differs for s in other.settings), reverse=True)


def test_nothing_of_a_file_gets_into_the_page_as_markup() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    rows = [row(5, "falsified", label=0, reason=hostile)]
    told = content(rows, configuration={hostile: hostile}, device=hostile)
    page = parse_page(render_comparison(Comparison.of((hostile, hostile), told, content([row(5, label=0)]))))
    assert all(image.attributes["src"].startswith("data:") for image in page.all("img"))
    assert page.text.count("onerror") >= 4


def stored(folder: Path, rows: list[Record], info: RunInfo) -> Path:
    folder.mkdir()
    with RecordWriter(folder / "records.jsonl") as writer:
        writer.write(rows)
    info.write(folder / "run.json")
    return folder


def test_the_command_compares_two_runs_and_says_or_refuses_where_it_cannot(tmp_path: Path) -> None:
    rows = of_images(1)
    first = stored(tmp_path / "a", rows, run_info(data=TOLD))
    second = stored(tmp_path / "b", of_images(2), run_info(data=TOLD))
    other = stored(tmp_path / "c", rows, run_info(data={**TOLD, "sha256": "1" * 64}))
    page = tmp_path / "page.html"
    assert "Verdicts of both runs" in abscert("show", first, second, "--html", page).out
    assert parse_page(page.read_text()).all("h1")[0].text == "a against b"
    assert "not compared image by image: expected runs on the same images" in abscert("show", first, other).err
    page.unlink()
    result = abscert("show", first, other, "--html", page, status=2)
    assert "error: expected runs on the same images" in result.err
    assert not page.exists()
    assert "expected one records file with --html, or two" in refused("show", first, second, other, "--html", page)
