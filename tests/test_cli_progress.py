"""Progress: a rate and the time left, in a terminal's bar and, where there is none, in plain lines now and then."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from abscert_plugin.cli import progress
from abscert_plugin.cli.progress import ProgressObserver, line_of, lines_of, new_bar, progress_bar, telling, working
from abscert_plugin.data import Split, load_data
from abscert_plugin.report.figures import duration
from abscert_plugin.verification.logits import accuracy


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (125.0, "2 min 5 s"), (3600.0, "1 h"), (86399.0, "23 h 59 min")],
)
def test_a_time_is_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_tells_count_rate_and_time_left() -> None:
    bar = new_bar()
    clock = [0.0]
    bar.get_time = lambda: clock[0]
    task = bar.add_task("verifying", total=100, completed=20, note=" 3 unknown")
    for _ in range(5):
        clock[0] += 2
        bar.update(task, advance=4)
    (told,) = bar.tasks
    assert line_of(told) == "verifying: 40 of 100, 2.0/s, 30 s left, 3 unknown"
    assert "40 of 100, 2.0/s, 30 s left" in _drawn(bar)
    bar.update(task, completed=100, note="")
    assert "left" not in line_of(told)


def test_a_task_without_a_count_tells_its_time() -> None:
    bar = new_bar()
    clock = [0.0]
    bar.get_time = lambda: clock[0]
    bar.add_task("guarding", total=None, note="")
    clock[0] = 71
    assert line_of(bar.tasks[0]) == "guarding: 1 min 11 s so far"


def test_without_a_terminal_a_long_step_is_not_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    with progress_bar() as bar:
        bar.add_task("verifying digits", total=7, note="")
        until = time.monotonic() + 20
        lines: list[str] = []
        while not lines and time.monotonic() < until:
            time.sleep(0.02)
            lines = capsys.readouterr().err.splitlines()
    assert lines == ["verifying digits: 0 of 7"]


def test_work_of_several_steps_tells_the_one_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, bar = [100.0], new_bar()
    bar.get_time = lambda: clock[0]

    @contextmanager
    def shown() -> Iterator[Progress]:
        yield bar

    monkeypatch.setattr(progress, "progress_bar", shown)
    with telling("deciding q", until=200.0) as tell:
        assert lines_of(bar) == ["deciding q: 0 s so far, at most 1 min 40 s left"]
        for done in range(4):
            clock[0] += 2
            tell("cases that are bounded", done, 4)
        line = "deciding q, cases that are bounded: 3 of 4, 2 s each, 2 s left, at most 1 min 32 s left"
        assert lines_of(bar) == [line]
        tell("cases that are bounded", 4, 4)
        assert lines_of(bar) == ["deciding q: 8 s so far, at most 1 min 32 s left"]
        for done in range(3):
            clock[0] += 4
            tell("rounds of cutting", done, None, f"{5 - done} of 9 conjunctions open")
        line = "deciding q, rounds of cutting: 2 so far, 4 s each, at most 1 min 20 s left, 3 of 9 conjunctions open"
        assert lines_of(bar) == [line]
        clock[0] = 300.0
        assert "at most 0 s left" in lines_of(bar)[0]


def test_reading_images_and_running_a_file_on_them_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    with working("reading digits"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "reading digits: 0 s so far\n"
    data, counts = load_data("digits", Split.TEST).first(300), list[int]()
    accuracy(lambda images: np.zeros((len(images), 10), dtype=np.float32), data, counts.append)
    assert sum(counts) == 300


def test_what_is_short_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as bar:
        bar.add_task("verifying digits", total=7, note="")
    assert capsys.readouterr().err == ""


def test_epochs_tell_the_best_so_far_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    bar = new_bar()
    clock = [0.0]
    bar.get_time = lambda: clock[0]
    observer = ProgressObserver(bar, "training", "ball")
    observer.on_start(40, 0)
    for epoch, error in enumerate((0.5, 0.25, 0.25), start=1):
        for _ in range(10):
            clock[0] += 1
            observer.on_step(32, 1.5)
        observer.on_epoch({"epoch": epoch, "loss": 1.5, "validation_error": error, "images_per_second": 32.0})
    first, second, third = capsys.readouterr().err.splitlines()
    assert "50.00%, the best so far  32 images/s  30 s left" in first
    assert "25.00%, the best so far" in second
    assert third.endswith("25.00%, best 25.00% of epoch 2  32 images/s  10 s left")


def _drawn(bar: object) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as capture:
        console.print(bar)
    return capture.get()
