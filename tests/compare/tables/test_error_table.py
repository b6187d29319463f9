"""Tables out of records that the test writes: what is averaged, what is kept apart, and how they look as text."""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import msgspec
import pytest
from command_line import abscert, refused
from stored_records import RUN, build_tables, named, store

from abscert_plugin.claim import RadiusScale
from abscert_plugin.errors import RecordError
from abscert_plugin.files import write_json
from compare.results.stored_run import DONE, FAILURE
from compare.tables.catalogue import TABLES
from compare.tables.error_table import NOT_RUN, Table
from compare.tables.formats import FORMATS, as_csv, as_html, as_json, as_latex, as_markdown


class Page(HTMLParser):
    """The cells of a page and whether they are set to the right, its tags, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[tuple[str, bool]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.loaded: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append(("", dict(attrs).get("class") == "number"))
        self.loaded += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            text, right = self.cells[-1]
            self.cells[-1] = (text + data, right)


def test_claims_have_columns_of_their_own_in_the_row_of_a_radius(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"cell": 3, "ball": 50})
    (table,) = build_tables(tmp_path)
    (row,) = named(table)
    assert (row["cell error %"], row["ball error %"]) == ("1.50", "25.00")
    assert row["radius, pixel (training)"] == "0.15 (0.3)"
    assert row["attacked %"] == "12.50"
    assert row["clean error %"] == "0.50"
    assert row["s/epoch"] == "2.00"
    assert row["s verifying balls"] == "12.00"


def test_a_radius_on_either_scale_is_shown_on_both(tmp_path: Path) -> None:
    run = msgspec.structs.replace(RUN, radius="0.3", radius_scale=RadiusScale.TRAINING, certify=("0.3",))
    store(tmp_path, run, {"ball": 50})
    (table,) = build_tables(tmp_path)
    assert [row["radius, pixel (training)"] for row in named(table)] == ["0.15 (0.3)"]


def test_what_was_not_run_says_so_and_what_cannot_be_is_blank(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"cell": 3})
    store(tmp_path, msgspec.structs.replace(RUN, cells=9), {"ball": 3})
    store(tmp_path, msgspec.structs.replace(RUN, method="ibp", cells=None), {"ball": 3})
    (table,) = build_tables(tmp_path)
    claims = {(row["method"], row["cells"]): (row["cell error %"], row["ball error %"]) for row in named(table)}
    assert claims == {
        ("abstrain", "6"): ("1.50", NOT_RUN),
        ("abstrain", "9"): (NOT_RUN, "1.50"),
        ("ibp", ""): ("", "1.50"),
    }


def test_images_of_the_claims_are_told_apart_where_they_differ(tmp_path: Path) -> None:
    run = msgspec.structs.replace(RUN, ball_limit=50)
    store(tmp_path, run, {"cell": 3, "ball": 5}, count={"cell": 200, "ball": 50})
    (table,) = build_tables(tmp_path)
    (row,) = named(table)
    assert (row["images"], row["cell error %"], row["ball error %"]) == ("200, balls 50", "1.50", "10.00")


def test_rows_are_ordered_by_their_number_of_cells(tmp_path: Path) -> None:
    for cells in (10, 2, 9):
        store(tmp_path, msgspec.structs.replace(RUN, cells=cells), {"ball": 3})
    (table,) = build_tables(tmp_path)
    assert [row["cells"] for row in named(table)] == ["2", "9", "10"]


def test_seeds_are_averaged_and_nothing_else_is(tmp_path: Path) -> None:
    for seed, failed in enumerate((10, 20, 60)):
        store(tmp_path, msgspec.structs.replace(RUN, seed=seed), {"ball": failed})
    store(tmp_path, msgspec.structs.replace(RUN, epochs=3), {"ball": 100})
    store(tmp_path, msgspec.structs.replace(RUN, options={"share": "0.1"}), {"ball": 120})
    (table,) = build_tables(tmp_path)
    found = {row["ball error %"]: row for row in named(table)}
    assert set(found) == {"15.00", "50.00", "60.00"}
    errors = [5.0, 10.0, 30.0]
    assert found["15.00"]["ball error %"] == f"{mean(errors):.2f}"
    assert found["15.00"]["ball interval"] == f"± {stdev(errors):.2f}, 3 seeds"
    assert found["60.00"]["method"] == "abstrain share=0.1"
    assert found["50.00"]["method"] == "abstrain, 3 epochs"


def test_one_seed_has_the_interval_of_its_images(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"cell": 0, "ball": 200})
    (table,) = build_tables(tmp_path)
    (row,) = named(table)
    # no failure in n trials, two sided: 1 - 0.025 ** (1 / n)
    edge = 100 * (1 - 0.025 ** (1 / 200))
    assert row["cell interval"] == f"0.00 to {edge:.2f}"
    assert row["ball interval"] == f"{100 - edge:.2f} to 100.00"


def test_protocols_have_tables_of_their_own(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"ball": 10})
    store(tmp_path, msgspec.structs.replace(RUN, protocol="paper"), {"ball": 20})
    tables = build_tables(tmp_path)
    assert [len(table.rows) for table in tables] == [1, 1]
    assert ["paper" in table.title for table in tables] == [True, False]
    assert all(any("Protocol" in note for note in table.notes) for table in tables)


def test_records_of_two_versions_are_not_averaged(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"ball": 10})
    store(tmp_path, msgspec.structs.replace(RUN, seed=1), {"ball": 20}, version="0.2.0")
    with pytest.raises(RecordError, match=r"versions 0\.1\.0, 0\.2\.0"):
        build_tables(tmp_path)


def test_runs_without_figures_are_listed_with_their_reason(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"ball": 10})
    failed = msgspec.structs.replace(RUN, method="ibp", cells=None, claims=("ball",))
    folder = store(tmp_path, failed, {"ball": 10})
    (folder / DONE).unlink()
    write_json(folder / FAILURE, {"key": failed.key, "reason": "the loss is nan at step 3"})
    _, listed = build_tables(tmp_path)
    assert named(listed) == [
        {"key": failed.key, "run": failed.title, "state": "failed", "reason": "the loss is nan at step 3"}
    ]


def test_half_a_line_at_the_end_of_a_file_is_left_out(tmp_path: Path) -> None:
    folder = store(tmp_path, RUN, {"ball": 50})
    with (folder / "verify-ball-0.15" / "records.jsonl").open("a") as file:
        file.write('{"index": 200')
    (table,) = build_tables(tmp_path)
    assert named(table)[0]["images"] == "200"


def test_compressed_records_are_read_as_the_others(tmp_path: Path) -> None:
    folder = store(tmp_path, RUN, {"cell": 3, "ball": 50})
    before = build_tables(tmp_path)
    plain = folder / "verify-ball-0.15" / "records.jsonl"
    plain.with_name("records.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert build_tables(tmp_path) == before
    plain.with_name("records.jsonl.gz").unlink()
    with pytest.raises(RecordError, match=r"cannot read .*records\.jsonl"):
        build_tables(tmp_path)


@pytest.fixture
def tables() -> tuple[Table, ...]:
    """Tables with everything that a format could trip over."""
    hostile = "a_b%{c}$d&e#f~g^h\\i|j<k>`l"
    return (
        Table(hostile, ("name", "value"), ((hostile, "1.50"), ("[x]", "-0.25"), ("two\nlines", "± 0.10, 3 seeds")), ()),
        Table("second", ("one",), (("not run",), ("12,345",)), ("a note on `cell`", hostile)),
        Table("empty", ("one", "two"), (), ()),
        Table("lines", ("row", "line"), (("a", "ours"), ("a", "paper"), ("b", "ours"), ("a", "ours")), ()),
    )


def test_csv_and_json_hold_numbers_as_numbers(tables: tuple[Table, ...]) -> None:
    columns = ("data", "radius, pixel (training)", "images", "cell interval", "ball error %", "epsilon", "key")
    rows = (
        ("mnist", "0.05 (0.1)", "10,000", "4.90 to 17.62", "10.00", "2/255", "12345678"),
        ("mnist", "1/255 (2/255)", "10,000, balls 1,000", "± 0.10, 3 seeds", "not run", "-", "09b8b5f4"),
        ("4", "", "", "", "+0.08", "0.1", ""),
    )
    table = Table("made", columns, rows, ("a note",))
    names = [
        *("data", "radius, pixel", "radius, training", "images", "images, balls"),
        *("cell interval, low", "cell interval, high", "cell interval, standard deviation", "cell interval, seeds"),
        *("ball error %", "ball error %, note", "epsilon", "key"),
    ]
    expected: list[list[Any]] = [
        ["mnist", 0.05, 0.1, 10000, None, 4.9, 17.62, None, None, 10.0, None, 2 / 255, "12345678"],
        ["mnist", 1 / 255, 2 / 255, 10000, 1000, None, None, 0.1, 3, None, "not run", None, "09b8b5f4"],
        ["4", None, None, None, None, None, None, None, None, 0.08, None, 0.1, ""],
    ]
    (read,) = json.loads(as_json([table]))["tables"]
    assert read == {"title": "made", "columns": names, "rows": expected, "notes": ["a note"]}
    lines = list(csv.reader(io.StringIO(as_csv([table]))))
    assert lines[0] == ["table", *names]
    assert lines[1:] == [["made", *("" if cell is None else str(cell) for cell in row)] for row in expected]
    for one, found in zip(tables, json.loads(as_json(tables))["tables"], strict=True):  # hostile words stay
        assert (found["title"], found["notes"], len(found["rows"])) == (one.title, list(one.notes), len(one.rows))
        assert [row[0] for row in found["rows"] if isinstance(row[0], str)] == [
            row[0] for row in one.rows if not row[0][:1].isdigit() and row[0] != "not run"
        ]


def test_columns_of_numbers_are_set_to_the_right(tables: tuple[Table, ...]) -> None:
    assert [table.numeric for table in tables] == [(False, True), (True,), (False, False), (False, False)]
    rules = [line.replace(" ", "") for line in as_markdown(tables).splitlines() if set(line) <= set("| -:") and line]
    assert [[cell.endswith(":") for cell in rule.strip("|").split("|")] for rule in rules] == [
        list(table.numeric) for table in tables
    ]
    layouts = re.findall(r"\\begin\{longtable\}\{([lr]+)\}", as_latex(tables))
    assert layouts == ["".join("r" if right else "l" for right in table.numeric) for table in tables]
    page = Page(as_html(tables))
    assert [right for _, right in page.cells] == [
        right for table in tables for row in table.rows for _, right in zip(row, table.numeric, strict=True)
    ]


def test_further_lines_of_a_row_are_set_close_to_it(tables: tuple[Table, ...]) -> None:
    assert [table.continued for table in tables[1:]] == [(False, False), (), (False, True, False, False)]
    assert as_latex(tables).count(r"\addlinespace") == 2
    assert as_html(tables).count('<tr class="continued">') == 1


def test_markdown_keeps_every_cell_on_its_line(tables: tuple[Table, ...]) -> None:
    lines = [line for line in as_markdown(tables).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    wanted = [row for table in tables for row in (table.columns, ("---",) * len(table.columns), *table.rows)]
    assert [len(row) for row in cells] == [len(row) for row in wanted]
    read = [row for row in cells if not all(set(cell) <= {"-", ":"} for cell in row)]
    assert read == [
        [" ".join(cell.split()).replace("|", r"\|") for cell in row]
        for table in tables
        for row in (table.columns, *table.rows)
    ]


def test_latex_is_balanced_and_escapes_what_has_a_meaning(tables: tuple[Table, ...]) -> None:
    text = as_latex(tables)
    bare = re.sub(r"\\[{}%_&#$]", "", text)  # without what is escaped
    depth = 0
    for sign in bare:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    body = [line for line in bare.splitlines() if not line.startswith("%")]
    assert not re.search(r"[_#~^%|<>]", re.sub(r"\$[<>|]\$|\$\\pm\$", "", "\n".join(body)))
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)
    assert r"a note on \texttt{cell}" in text
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    assert [len(re.split(r"(?<!\\)&", row)) for row in rows] == [
        len(row) for table in tables for row in (table.columns, *table.rows)
    ]
    assert not any(row.startswith("[") for row in rows)  # it would be an option of the line break above


def test_html_is_well_formed_holds_every_cell_as_text_and_loads_nothing(tables: tuple[Table, ...]) -> None:
    page = Page(as_html((*tables, Table("<b>", ("<i>",), (("<script>alert(1)</script>",),), ("<img src=x>",)))))
    cells = [cell for table in tables for row in table.rows for cell in row]
    assert [cell for cell, _ in page.cells] == [*cells, "<script>alert(1)</script>"]
    assert not page.open
    assert not {"script", "img", "b", "i"} & page.tags
    assert page.loaded == ["data:,"]


def test_tables_are_made_without_torch(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"ball": 50})
    code = "import sys; from pathlib import Path; from compare.tables.catalogue import select_tables; "
    code += f"select_tables(Path({str(tmp_path)!r}), 'errors'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.slow
def test_the_command_writes_what_it_prints_and_refuses_what_cannot_be(tmp_path: Path) -> None:
    folder = store(tmp_path, RUN, {"ball": 50})
    for form in FORMATS:
        printed = abscert("compare", "tables", "--out", tmp_path, "--format", form).out
        abscert("compare", "tables", "--out", tmp_path, "--format", form, "--into", tmp_path / "written")
        assert (tmp_path / "written").read_text() == printed
    assert "markdown, csv, latex, html, json" in refused("compare", "tables", "--out", tmp_path, "--format", "word")
    assert "all, errors, 1, 2, 3, 4, 5" in refused("compare", "tables", "--out", tmp_path, "--table", "6")
    for table in TABLES:
        assert "expected" in refused("compare", "tables", "--out", tmp_path / "none", "--table", table)
    assert "choose another --into" in refused("compare", "tables", "--out", tmp_path, "--into", tmp_path)
    (folder / "verify-ball-0.15" / "records.jsonl").write_text('{"schema": 9}\n')
    assert "expected a record of schema 1" in refused("compare", "tables", "--out", tmp_path)
