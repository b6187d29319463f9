"""The engine `processes`: every task is answered once, whoever dies; and nothing is left of the workers."""

import os
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import engine_jobs
import pytest

from abscert_plugin.engines.job import MOST_DEATHS, EngineError, Job, Task, TaskAnswer
from abscert_plugin.engines.processes import Processes
from abscert_plugin.errors import ConfigError


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers import the jobs."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def answers(words: Iterable[str], engine: Processes, opens: str = engine_jobs.JOB) -> dict[int, TaskAnswer]:
    """Return the answers of all tasks by their places, each of which may come once."""
    tasks = (Task(place, content.encode()) for place, content in enumerate(words))
    found: dict[int, TaskAnswer] = {}
    with closing(engine.hand_out(Job(opens, b"> "), tasks, lambda: None)) as coming:
        for answer in coming:
            assert answer.place not in found
            found[answer.place] = answer
    return found


def test_each_task_is_answered_as_its_work_ends(tmp_path: Path) -> None:
    words = ["one", "die", f"die-once {tmp_path / 'mark'}", "refuse", "killed", "fail", "print", "two", "threads"]
    found = answers(words, Processes(2, cpus=3))
    assert [found[place].content for place in (0, 2, 6, 7)] == [
        b"> one",
        f"> die-once {tmp_path / 'mark'}".encode(),
        b"> print",
        b"> two",
    ]
    assert found[1].loss == f"its worker died {MOST_DEATHS} times: it was ended by signal 9 (SIGKILL)"
    assert found[4].loss == f"its worker died {MOST_DEATHS} times: what it had started was killed"
    assert (found[3].refusal, found[3].loss) == ("expected something else", "")
    assert (found[5].refusal, found[5].loss) == ("", "RuntimeError: a fault of ours")
    assert found[8].content == b"> 3"
    assert len(found) == len(words)


def test_no_more_workers_than_asked_for_and_each_serves_many() -> None:
    assert len({answer.content for answer in answers(["pid"] * 12, Processes(2)).values()}) <= 2


def test_tasks_are_made_as_workers_come_free() -> None:
    made = []

    def words() -> Iterator[str]:
        for number in range(6):
            made.append(number)
            yield str(number)

    tasks = (Task(place, content.encode()) for place, content in enumerate(words()))
    with closing(Processes(1).hand_out(Job(engine_jobs.JOB), tasks, lambda: None)) as coming:
        assert next(coming).content == b"0"
        assert made == [0]


def test_without_tasks_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.engines.processes.COMMAND", ("nothing",))
    assert answers([], Processes(2)) == {}


def test_what_cannot_be_opened_is_refused_for_each_task() -> None:
    assert answers(["a", "b"], Processes(1), engine_jobs.UNOPENED)[1].refusal == "expected another machine"
    refusal = answers(["a"], Processes(1), engine_jobs.BROKEN)[0].refusal
    assert "cannot start: ImportError: No module named 'other'" in refusal


def test_workers_that_die_before_they_are_ready_end_it() -> None:
    with pytest.raises(EngineError, match=r"no worker can be started: it was ended by signal 9"):
        answers(["a", "b"], Processes(2), engine_jobs.DYING)


def test_workers_that_cannot_be_started_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.engines.processes.COMMAND", ("/nowhere/python",))
    with pytest.raises(EngineError, match="cannot start a worker: No such file"):
        answers(["a"], Processes(1))


def test_closing_ends_workers_at_once_with_their_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    task = Task(1, f"sleep 60 {tmp_path / 'pid'}".encode())
    with closing(Processes(2).hand_out(Job(engine_jobs.JOB), [Task(0, b"one"), task], lambda: None)) as coming:
        next(coming)
        until = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        worker = int((tmp_path / "pid").read_text())
        assert list((tmp_path / "temporary").iterdir())
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(worker, signal.SIGTERM)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(("options", "words"), [({"workers": 0}, "--workers"), ({"cpus": 0}, "--cpus")])
def test_counts_below_one_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=f"expected {words} of at least 1, got 0"):
        Processes(**options)
