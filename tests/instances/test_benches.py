"""A run over lists: rows as they come, going on after a kill, and nothing of another run mixed in."""

import csv
from pathlib import Path

import pytest
from stand_in import ANSWER, COMMAND, started, write_list

from abscert_plugin.errors import RecordError
from abscert_plugin.instances.bench import Bench
from abscert_plugin.instances.listing import read_lists
from abscert_plugin.instances.rows import RESULTS, Result, Row, read_results
from abscert_plugin.records import RECORDS

QUERIES = ["sat", "unsat", "unknown", "refuses"]


def bench(folder: Path, limit: int | None = None, timeout: float | None = None) -> Bench:
    return Bench(read_lists([folder], limit, timeout), command=COMMAND)


def ignore(row: Row, was_there: bool) -> None:
    """Take no note of a row."""


def test_a_run_leaves_rows_results_and_counterexamples(tmp_path: Path) -> None:
    folder, out = tmp_path / "tiny", tmp_path / "out"
    write_list(folder, QUERIES)
    rows, info = bench(folder).run(out, ignore)
    assert [row.result for row in rows] == [Result.SAT, Result.UNSAT, Result.UNKNOWN, Result.ERROR]
    assert rows == read_results(out / RECORDS)
    assert info.command == "bench"
    assert (out / str(rows[0].counterexample)).read_text().strip() == ANSWER
    assert rows[0].counterexample == "tiny/net_sat.counterexample"
    listed = list(csv.reader((out / RESULTS).read_text().splitlines()))
    assert [line[:5] for line in listed] == [
        ["tiny", "net.onnx", f"{query}.vnnlib", "0", row.result] for query, row in zip(QUERIES, rows, strict=True)
    ]


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, out = tmp_path / "tiny", tmp_path / "out"
    write_list(folder, QUERIES)

    def stop(row: Row, was_there: bool) -> None:
        if row.query == "unsat.vnnlib":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(folder).run(out, stop)
    with (out / RECORDS).open("a") as file:
        file.write('{"category": "ti')  # as a kill leaves it
    told: list[tuple[str, bool]] = []
    rows, _ = bench(folder).run(out, lambda row, was_there: told.append((row.query, was_there)))
    assert started(folder) == QUERIES
    assert told == [(f"{query}.vnnlib", query in ("sat", "unsat")) for query in QUERIES]
    assert [row.query for row in rows] == [row.query for row in read_results(out / RECORDS)]


def test_a_run_may_be_widened_and_is_not_mixed_with_another(tmp_path: Path) -> None:
    folder, out = tmp_path / "tiny", tmp_path / "out"
    write_list(folder, QUERIES[:3])
    bench(folder, limit=1).run(out, ignore)
    assert len(bench(folder).run(out, ignore)[0]) == 3
    assert started(folder) == QUERIES[:3]
    assert len(bench(folder, limit=1).run(out, ignore)[0]) == 1
    assert len((out / RESULTS).read_text().splitlines()) == 3
    before = (out / RECORDS).read_bytes()
    with pytest.raises(RecordError, match="there 30 seconds, now 9"):
        bench(folder, timeout=9.0).run(out, ignore)
    with pytest.raises(RecordError, match="holds another run"):
        Bench(read_lists([folder]), memory=2**30, command=COMMAND).run(out, ignore)
    (out / "run.json").unlink()
    with pytest.raises(RecordError, match=r"holds records without a run\.json"):
        bench(folder).run(out, ignore)
    assert (out / RECORDS).read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write_list(folder, QUERIES)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot make the folder"):
        bench(folder).run(tmp_path / "file" / "out", ignore)
    assert started(folder) == []
