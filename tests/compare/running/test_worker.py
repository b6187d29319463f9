"""A run's process: alone in its folder, gone with its parent, and every error in one line."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_plan import PLAN

from abscert_plugin.errors import RecordError
from abscert_plugin.files import locked
from compare.plans.plan import read_plan
from compare.results.stored_run import CONFIG, DONE, FAILURE, RUNS, State, StoredRun, stored_runs_of
from compare.running import worker
from compare.running.worker import LOCK, Ending, abscert_command, prepare, run_in_process, work

fcntl = pytest.importorskip("fcntl", reason="this system has no locks of this kind")


@pytest.fixture
def stored(tmp_path: Path) -> StoredRun:
    """Return the first run of a small plan, ready to start."""
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    (tmp_path / RUNS).mkdir()
    (first, _) = stored_runs_of(read_plan(str(plan)).runs(), tmp_path)
    prepare(first)
    return first


@pytest.fixture
def started(stored: StoredRun) -> Iterator[subprocess.Popen[bytes]]:
    """Start the run's process, as an engine does."""
    command = abscert_command("work", str(stored.folder), "--with-parent")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_is_carried_out_by_one_process_at_a_time(stored: StoredRun) -> None:
    ending: list[Ending] = []
    looks = 0

    def look() -> None:  # for a while after the process has had time to start, nothing may be written
        nonlocal looks
        looks += 1
        if looks == 6:
            assert {path.name for path in stored.folder.iterdir()} == {CONFIG, LOCK}
            holding.close()

    holding = (stored.folder / LOCK).open("a+")
    fcntl.flock(holding, fcntl.LOCK_EX)
    ending.append(run_in_process(stored, None, look))
    assert looks >= 6
    assert ending == [Ending()]
    assert stored.state is State.DONE


def test_a_process_that_waited_for_nothing_says_who_is_at_work(
    stored: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_PATIENCE", 0.0)
    with (
        locked(stored.folder / LOCK, "held"),
        pytest.raises(RecordError, match=rf"end it \(held by process {os.getpid()} "),
    ):
        work(stored.folder, None)
    assert stored.state is State.STARTED


def test_what_another_process_has_done_is_left_as_it_is(stored: StoredRun) -> None:
    (stored.folder / DONE).write_text("{}")
    work(stored.folder, None)
    assert (stored.folder / DONE).read_text() == "{}"
    assert {path.name for path in stored.folder.iterdir()} == {CONFIG, DONE, LOCK}


@pytest.mark.slow
def test_a_process_ends_with_its_parent_and_lets_go(stored: StoredRun, started: subprocess.Popen[bytes]) -> None:
    lock = stored.folder / LOCK
    wait_for(lambda: lock.exists() and lock.read_text() != "")
    assert started.poll() is None
    assert started.stdin is not None
    started.stdin.close()
    assert started.wait(10) == 3
    assert stored.state is State.STARTED
    with locked(lock, "held"):
        pass


def test_a_folder_says_which_run_it_holds_whatever_was_there(stored: StoredRun) -> None:
    before = (stored.folder / CONFIG).stat().st_mtime_ns
    prepare(stored)
    assert (stored.folder / CONFIG).stat().st_mtime_ns == before
    for text in ("{", json.dumps({"data": "digits"})):
        (stored.folder / CONFIG).write_text(text)
        prepare(stored)
        assert json.loads((stored.folder / CONFIG).read_text())["method"] == stored.run.method


def test_a_new_attempt_takes_back_the_failure_of_the_last_one(
    stored: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stored.folder / FAILURE).write_text('{"reason": "old"}')
    monkeypatch.setattr("compare.running.execute.execute", lambda *_: None)
    work(stored.folder, None)
    assert stored.state is State.STARTED


def test_a_file_system_without_locks_is_refused(stored: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RecordError, match=r"cannot lock .*No locks available; choose another file system"):
        work(stored.folder, None)
