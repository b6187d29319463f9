"""Plans and all that a results folder holds, changed as no program would: one line and a status, never 70."""

import gzip
from pathlib import Path

import msgspec
import pytest
from command_line import abscert
from fuzzing import Reader, fuzz, packed
from mutations import json_files, json_line_files, toml_files
from small_plan import PLAN
from stored_records import RUN, store

from abscert_plugin.files import write_json
from compare.landscape.stored_landscape import LANDSCAPES, DrawnNetwork, LandscapeRecord
from compare.results.stored_run import DONE, FAILURE

COMPARE = [
    ("compare", "status", "--out", "HERE"),
    ("compare", "tables", "--out", "HERE"),
    ("compare", "curves", "--out", "HERE", "--into", "HERE/curves.svg"),
    ("compare", "report", "--out", "HERE", "--into", "HERE/page.html"),
    ("compare", "keep", "--out", "HERE", "--into", "HERE/kept"),
]
FAILED = msgspec.structs.replace(RUN, seed=1)
STORED = f"results/runs/{RUN.key}"
READERS = (
    Reader("plan/it.toml", toml_files, [("compare", "plan", "HERE/it.toml", "--out", "HERE/results")]),
    Reader(f"{STORED}/config.json", json_files, COMPARE),
    Reader(f"{STORED}/done.json", json_files, COMPARE),
    Reader(f"results/runs/{FAILED.key}/failure.json", json_files, COMPARE),
    Reader(f"{STORED}/training/run.json", json_files, COMPARE),
    Reader(f"{STORED}/training/history.jsonl", json_line_files, COMPARE),
    Reader(f"{STORED}/verify-ball-0.15/run.json", json_files, COMPARE),
    Reader(f"{STORED}/verify-ball-0.15/records.jsonl", json_line_files, COMPARE),
    Reader(f"{STORED}/verify-cell/records.jsonl.gz", packed(json_line_files), COMPARE),
    Reader("results/times/timed/times.json", json_files, COMPARE),
    Reader("results/times/timed/times.jsonl", json_line_files, COMPARE),
    Reader("results/landscapes/it.json", json_files, COMPARE),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that the readers read."""
    home = tmp_path_factory.mktemp("fuzz")
    results, plan = home / "results", home / "plan" / "it.toml"
    plan.parent.mkdir()
    plan.write_text(PLAN)
    stored = store(results, RUN, {"cell": 2, "ball": 3}, count=5, validation_error=0.1, chosen_on="test")
    rows = stored / "verify-cell" / "records.jsonl"
    rows.with_name("records.jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    rows.unlink()
    failed = store(results, FAILED, {"cell": 2, "ball": 3}, count=5)
    (failed / DONE).unlink()
    write_json(failed / FAILURE, {"key": FAILED.key, "reason": "no luck"})
    abscert("compare", "times", plan, "--out", results, "--rounds", 1, "--steps", 1, "--images", 5)
    (timed,) = (results / "times").iterdir()
    timed.rename(results / "times" / "timed")
    (results / LANDSCAPES).mkdir()
    (results / LANDSCAPES / "it.png").write_bytes(b"no picture")
    network = DrawnNetwork(name="abstrain, d = 1", run=RUN.key, method="abstrain", cells=2, loss=1.0, curvature=2.0)
    LandscapeRecord(
        title="t",
        space="weights",
        unit="u",
        data="digits",
        images=1,
        span=0.5,
        steps=(-0.5, 0.0, 0.5),
        seed=0,
        networks=(network,),
    ).write(results / LANDSCAPES / "it.json")
    return home


(
    test_a_changed_file_is_refused_in_one_line_or_taken,
    test_what_stands_in_the_place_of_a_file_is_refused_in_one_line,
    test_whole_files_are_taken,
) = fuzz(READERS)
