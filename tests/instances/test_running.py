"""Whatever becomes of an instance's process is a row, and nothing that it started outlives it."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from stand_in import ANSWER, COMMAND, write_list

from abscert_plugin.instances import running
from abscert_plugin.instances.listing import Instance, read_lists
from abscert_plugin.instances.rows import Result


def instance(folder: Path, what: str, timeout: float = 30) -> Instance:
    (found,) = read_lists([write_list(folder, [what], timeout)])
    return found


@pytest.mark.parametrize(
    ("what", "result", "reason"),
    [
        ("sat", Result.SAT, ""),
        ("unsat", Result.UNSAT, ""),
        ("unknown", Result.UNKNOWN, "an operator is missing"),
        ("timed-out", Result.TIMEOUT, ""),
        ("dies", Result.ERROR, "it died of signal 9, as it does where memory ends"),
        ("refuses", Result.ERROR, "cannot read it"),
        ("babbles", Result.ERROR, "exit status 0, and no verdict"),
    ],
)
def test_what_a_process_says_is_its_row(tmp_path: Path, what: str, result: Result, reason: str) -> None:
    ran = running.run_instance(instance(tmp_path, what), command=COMMAND)
    assert (ran.row.result, ran.row.reason) == (result, reason)
    assert ran.assignment.strip() == (ANSWER if what == "sat" else "")
    assert 0 < ran.row.seconds < 30
    assert ran.row.cpu_seconds is None or ran.row.cpu_seconds >= 0


def test_an_answer_after_the_time_is_none(tmp_path: Path) -> None:
    row = running.run_instance(instance(tmp_path, "late", 0.5), command=COMMAND).row
    assert row.result is Result.TIMEOUT
    assert row.reason.startswith("it said unsat after ")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no processes that fork")
def test_what_takes_too_long_ends_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []
    start = subprocess.Popen

    def watched(*words: object, **options: object) -> "subprocess.Popen[bytes]":
        process = start(*words, **options)  # type: ignore[call-overload]
        groups.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", watched)
    monkeypatch.setattr(running, "GRACE", 0.3)
    row = running.run_instance(instance(tmp_path, "hangs", 0.5), command=COMMAND).row
    assert row.result is Result.TIMEOUT
    assert row.reason.startswith("ended after ")
    assert row.seconds < 20
    end = time.monotonic() + 10
    while time.monotonic() < end:  # init may take a moment to let go of it
        try:
            os.killpg(groups[0], 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process that it started is still there")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say what a process holds")
def test_what_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    row = running.run_instance(instance(tmp_path, "eats"), 2**27, COMMAND).row
    assert (row.result, row.seconds < 20) == (Result.ERROR, True)
    assert "GiB of memory, of 0.1 that it may" in row.reason


def test_a_query_of_version_2_says_what_its_network_is_called(tmp_path: Path) -> None:
    one = instance(tmp_path, "unsat")
    one.query_file.write_text("(vnnlib-version <2.0>)\n(declare-network  acas\n (declare-input X Real [5]))")
    assert running._network_name(one) == "acas"
