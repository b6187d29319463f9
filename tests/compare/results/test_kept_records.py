"""Kept records: whole, small, never overwritten, and as good as the originals for tables."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from command_line import abscert, disk_with_room_for, refused
from stored_records import RUN, build_tables, store

from abscert_plugin.records import read_records
from compare.results.estimates import keep_estimates, read_estimates
from compare.results.kept_records import keep
from compare.results.stored_run import RUNS, State, stored_runs
from compare.tables.formats import as_json

pytestmark = pytest.mark.slow  # a plan is carried out first


@pytest.fixture(scope="module")
def results(small_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keep")
    shutil.copytree(small_results, folder, dirs_exist_ok=True)
    return folder / "results"


def test_tables_of_kept_records_are_those_of_the_runs(results: Path, tmp_path: Path) -> None:
    assert len(abscert("compare", "keep", "--out", results, "--into", tmp_path, "--json").json["kept"]) == 2
    assert as_json(build_tables(tmp_path)) == as_json(build_tables(results))


def test_rows_are_kept_to_the_last_one_and_no_weight_is(results: Path, tmp_path: Path) -> None:
    keep(results, tmp_path)
    for place in stored_runs(results):
        for rows in place.folder.glob("verify-*/records.jsonl"):
            kept = tmp_path / rows.relative_to(results).with_suffix(".jsonl.gz")
            assert read_records(kept) == read_records(rows)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".jsonl", ".gz"}
    assert all(place.state is State.DONE for place in stored_runs(tmp_path))


def test_keeping_twice_gives_the_same_bytes_and_copies_nothing_again(results: Path, tmp_path: Path) -> None:
    keep(results, tmp_path / "one")
    before = {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert keep(results, tmp_path / "one") == []
    keep(results, tmp_path / "two")
    assert {path.relative_to(tmp_path / "one"): content for path, content in before.items()} == {
        path.relative_to(tmp_path / "two"): path.read_bytes()
        for path in (tmp_path / "two").rglob("*")
        if path.is_file()
    }
    keep(tmp_path / "one", tmp_path / "three")  # and a copy can be kept like an original
    assert as_json(build_tables(tmp_path / "three")) == as_json(build_tables(results))


def test_a_plan_finds_kept_runs_done(results: Path, tmp_path: Path) -> None:
    keep(results, tmp_path / "kept")
    plan = results.parent / "plan.toml"
    states = {
        row["state"] for row in abscert("compare", "plan", plan, "--out", tmp_path / "kept", "--json").json["runs"]
    }
    assert states == {"done"}


def test_another_outcome_of_the_same_run_is_refused_and_nothing_is_lost(results: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    keep(results, kept)
    shutil.copytree(results, tmp_path / "again")
    done = next((tmp_path / "again/runs").glob("*/done.json"))
    done.write_text(json.dumps({**json.loads(done.read_text()), "seconds": 1.0}))
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    line = refused("compare", "keep", "--out", tmp_path / "again", "--into", kept)
    assert "with another outcome; remove it" in line
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_what_lies_beside_the_runs_is_added_to_and_never_overwritten(tmp_path: Path) -> None:
    kept, other = tmp_path / "kept", msgspec.structs.replace(RUN, seed=7)
    for name, run in (("one", RUN), ("two", other)):
        results = tmp_path / name
        store(results, run, {"ball": 2})
        keep_estimates(results, {run.key: 60.0}, [run])
        (results / "times" / "same").mkdir(parents=True)
        (results / "times" / "same" / "times.jsonl").write_text("first\n" if name == "one" else "first\nsecond\n")
        keep(results, kept)
    assert {one.run.seed for one in read_estimates(kept)} == {RUN.seed, 7}
    assert (kept / "times" / "same" / "times.jsonl").read_text() == "first\nsecond\n"
    (tmp_path / "two" / "times" / "same" / "times.jsonl").write_text("another\n")
    line = refused("compare", "keep", "--out", tmp_path / "two", "--into", kept)
    assert "times.jsonl differs from" in line
    assert (kept / "times" / "same" / "times.jsonl").read_text() == "first\nsecond\n"


def test_what_cannot_be_kept_is_refused(results: Path, tmp_path: Path) -> None:
    assert "expected runs that have ended" in refused("compare", "keep", "--out", tmp_path, "--into", tmp_path / "kept")
    (tmp_path / "file").write_text("mine")
    assert "choose another --into" in refused("compare", "keep", "--out", results, "--into", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_rows_are_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path / "results", RUN, {"ball": 2})
    monkeypatch.setattr("compare.results.kept_records.ROWS_LIMIT", 1000)
    line = refused("compare", "keep", "--out", tmp_path / "results", "--into", tmp_path / "kept")
    assert "records.jsonl holds more than 1,000 bytes" in line
    assert list((tmp_path / "kept" / RUNS).iterdir()) == []


def test_what_a_killed_copy_leaves_is_no_run(tmp_path: Path) -> None:
    folder = store(tmp_path, RUN, {"ball": 2})
    shutil.copytree(folder, folder.with_name(f".{folder.name}.part"))
    assert [stored.folder for stored in stored_runs(tmp_path)] == [folder]


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_run(tmp_path: Path) -> None:
    store(tmp_path / "results", RUN, {"ball": 2})
    with disk_with_room_for(100):
        line = refused("compare", "keep", "--out", tmp_path / "results", "--into", tmp_path / "kept")
        assert line.endswith("choose another --into")
        line = refused("compare", "tables", "--out", tmp_path / "results", "--into", tmp_path / "tables.md")
        assert line.startswith(f"cannot write {tmp_path / 'tables.md'}: File too large; choose another --into")
    assert list((tmp_path / "kept" / RUNS).iterdir()) == []
    assert not (tmp_path / "tables.md").exists()


def test_a_training_whose_checksum_is_none_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path, RUN, {"ball": 2}, chosen_on="test") / "training" / "run.json"
    stored = json.loads(path.read_text())
    stored["configuration"]["validation_sha256"] = []
    path.write_text(json.dumps(stored))
    assert "expected a checksum as validation_sha256" in refused("compare", "tables", "--out", tmp_path)
