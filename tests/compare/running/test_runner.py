"""The runner on a small plan: what is written, what is skipped, failures, and kills at random moments."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import abscert, refused
from small_plan import PLAN, outcome

from abscert_plugin.records import read_records
from compare.plans.plan import read_plan
from compare.results.stored_run import FAILURE, RUNS, State, stored_run, stored_runs_of
from compare.running.runner import held

pytestmark = pytest.mark.slow

COMMAND = "from abscert_plugin.cli import main; main()"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def undisturbed(small_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(small_results / "results", results, dirs_exist_ok=True)
    facts = json.loads((small_results / "facts.json").read_text())
    assert (facts["runs"], facts["states"], facts["failures"]) == (2, {"done": 2}, {})
    return results


def test_every_run_has_its_records_under_its_key(plan: Path, undisturbed: Path) -> None:
    runs = read_plan(str(plan)).runs()
    assert {folder.name for folder in (undisturbed / RUNS).iterdir()} == {run.key for run in runs}
    for place in stored_runs_of(runs, undisturbed):
        assert place.state is State.DONE
        assert stored_run(place.folder).run == place.run
        names = {path.name for path in place.folder.glob("verify-*")}
        assert names == {"verify-ball-0.05", *(["verify-cell"] if place.run.cells else [])}
        for name in names:
            rows = read_records(place.folder / name / "records.jsonl")
            assert len(rows) == 30
            assert {row.claim for row in rows} == {name.split("-")[1]}


def test_what_is_done_is_not_touched_again(plan: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / RUNS).rglob("*") if path.is_file()}
    assert abscert("compare", "run", plan, "--out", undisturbed, "--json").json["states"] == {"done": 2}
    after = {path: path.stat().st_mtime_ns for path in (undisturbed / RUNS).rglob("*") if path.is_file()}
    assert after == before


def wait_for_a_change(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when a file has come, grown or gone, or the process has ended."""
    before = listed(folder)
    while listed(folder) == before and process.poll() is None:
        time.sleep(0.005)


def listed(folder: Path) -> dict[Path, int]:
    """Return when each file was changed; one that goes meanwhile is left out."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
    return found


def test_kills_at_random_moments_change_nothing_but_the_time(plan: Path, undisturbed: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(2):
        runner = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "compare", "run", str(plan), "--out", str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(moments.randrange(1, 25)):
            wait_for_a_change(tmp_path, runner)
        os.killpg(runner.pid, signal.SIGKILL)  # the runner and the process of its run
        runner.wait()
    assert abscert("compare", "run", plan, "--out", tmp_path, "--json").json["states"] == {"done": 2}
    assert outcome(tmp_path) == outcome(undisturbed)


def test_a_run_that_fails_is_recorded_with_its_reason_and_the_others_go_on(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    text = PLAN.replace('["ibp", "abstrain"]', '["ibp", "plain"]').replace("[[grid]]", "[[grid]]\nlearning_rate = 1e30")
    path.write_text(text)
    result = abscert("compare", "run", path, "--out", tmp_path / "results", "--json", status=1)
    assert result.json["states"] == {"failed": 2}
    for key, reason in result.json["failures"].items():
        assert "lower --learning-rate" in reason
        folder = tmp_path / "results" / RUNS / key
        assert json.loads((folder / FAILURE).read_text())["reason"] == reason
        assert stored_run(folder).state is State.FAILED
    shown = abscert("compare", "status", "--out", tmp_path / "results", "--json").json["runs"]
    assert {row["state"] for row in shown} == {"failed"}


def test_a_run_whose_process_is_killed_is_recorded_as_such(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compare.running.worker._COMMAND", "import os; os.kill(os.getpid(), 9)")
    result = abscert("compare", "run", plan, "--out", tmp_path, "--json", status=1)
    assert set(result.json["failures"].values()) == {"its process was ended by signal 9 (SIGKILL)"}


def test_two_runners_do_not_share_a_folder(plan: Path, tmp_path: Path) -> None:
    with held(tmp_path):
        assert "another runner is at work" in refused("compare", "run", plan, "--out", tmp_path)
    with held(tmp_path):  # and it is let go of
        pass


def test_what_cannot_be_is_refused(plan: Path, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    assert "cannot write" in refused("compare", "run", plan, "--out", tmp_path / "file")
    assert "no run of the method sabr" in refused("compare", "run", plan, "--method", "sabr", "--out", tmp_path / "r")
    assert "expected runs in" in refused("compare", "status", "--out", tmp_path / "empty")
    assert "digits-smoke" in refused("compare", "plan", "nothing")
    folder = next((undisturbed / RUNS).iterdir())
    changed = tmp_path / "changed" / RUNS / folder.name
    changed.mkdir(parents=True)
    config = json.loads((folder / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "seed": 5}))
    assert "was changed" in refused("compare", "status", "--out", tmp_path / "changed")
    (changed / "config.json").write_text("{")
    assert "not a JSON file" in refused("compare", "status", "--out", tmp_path / "changed")
