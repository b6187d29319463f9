"""What is shown of a plan in progress: counts, and a line for each run at work, the newest first."""

from pathlib import Path

import pytest
from command_line import abscert
from rich.console import Console

from abscert_plugin.files import write_json
from compare.cli.progress import PlanProgress
from compare.plans.plan import read_plan
from compare.plans.planned_run import Run, as_mapping
from compare.results.stored_run import CONFIG, DONE, FAILURE, RUNS, StoredRun

COSTLY = """
title = "costly"
[[grid]]
data = ["mnist", "cifar10"]
network = ["dm-small"]
method = ["ibp", "lbp"]
radius = ["2/255"]
seed = [0, 1]
epochs = 3200
"""


def place(results: Path, seed: int) -> StoredRun:
    """Return a run whose folder is there."""
    run = Run(data="digits", network="fc-3", method="ibp", radius="0.1", seed=seed)
    folder = results / RUNS / run.key
    (folder / "training").mkdir(parents=True)
    write_json(folder / CONFIG, as_mapping(run))
    return StoredRun(run, folder)


def train(one: StoredRun, epoch: int) -> None:
    write_json(one.folder / "training/checkpoint.json", {"epoch": epoch})


def shown(progress: PlanProgress) -> list[str]:
    """Return the lines on a terminal of 100 columns."""
    console = Console(width=100, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(progress)
    return capture.get().splitlines()


def test_the_run_that_got_on_last_is_shown_first(tmp_path: Path) -> None:
    first, second = places = [place(tmp_path, seed) for seed in (0, 1)]
    progress = PlanProgress(3)
    for changed in (first, second, first):
        train(changed, 1 if changed is second else 7)
        progress.on_progress(places)
    train(second, 2)
    progress.on_progress(places)
    bar, *lines = shown(progress)
    assert "0 of 3 2 at work" in bar
    assert [line.strip() for line in lines] == [
        f"{second.run.title}: epoch 2 done",
        f"{first.run.title}: epoch 7 done",
    ]


def test_a_run_that_does_not_get_on_is_shown_with_its_time(tmp_path: Path) -> None:
    slow, quick = places = [place(tmp_path, seed) for seed in (0, 1)]
    now = 0.0
    progress = PlanProgress(2, clock=lambda: now)
    progress.on_progress(places)
    now = 200.0
    train(quick, 1)
    progress.on_progress(places)
    now = 230.0
    progress.on_progress(places)
    assert [line.strip() for line in progress.lines[1:]] == [
        f"{quick.run.title}: epoch 1 done",
        f"{slow.run.title}: training, for 4 min now",
    ]


def test_runs_that_end_are_counted_and_no_longer_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, still = places = [place(tmp_path, seed) for seed in range(3)]
    progress = PlanProgress(3)
    progress.on_progress(places)
    write_json(good.folder / DONE, {})
    write_json(bad.folder / FAILURE, {"reason": "no memory"})
    progress.on_end(good)
    progress.on_end(bad)
    assert capsys.readouterr().err.splitlines() == [f"done: {good.run.title}", f"failed: {bad.run.title}: no memory"]
    bar, *lines = shown(progress)
    assert "2 of 3" in bar
    assert "1 at work, 1 done, 1 failed" in bar
    assert [line.strip() for line in lines] == [f"{still.run.title}: training"]


def test_many_runs_at_once_take_few_lines_that_fit(tmp_path: Path) -> None:
    places = [place(tmp_path, seed) for seed in range(20)]
    (places[0].folder / "training/checkpoint.json").write_text("{")  # half written: shown without a note
    progress = PlanProgress(20)
    progress.on_progress(places)
    lines = shown(progress)
    assert len(lines) == 7
    assert "0 of 20 20 at work" in lines[0]
    assert lines[-1].strip() == "and 15 more"
    assert all(len(line) <= 100 for line in lines)


def test_costly_runs_are_named_with_their_time_before_they_are_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "costly.toml"
    plan.write_text(COSTLY)
    monkeypatch.setattr("compare.running.runner.carry_out", lambda *_: None)
    first, *others = abscert("compare", "run", plan, "--out", tmp_path / "results").err.splitlines()
    assert others == []
    assert first.startswith("costly, the paper has no LBP on CIFAR-10: its code does not support it")
    titles = [f"cifar10 dm-small lbp, radius 2/255 pixel, seed {seed} (about " for seed in (0, 1)]
    assert [first.count(title) for title in titles] == [1, 1]
    assert first.count(" h)") == first.count("(about") == 2
    assert "mnist" not in first


def test_costly_runs_that_are_done_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "costly.toml"
    plan.write_text(COSTLY)
    monkeypatch.setattr("compare.running.runner.carry_out", lambda *_: None)
    for run in read_plan(str(plan)).runs():
        folder = tmp_path / "results" / RUNS / run.key
        folder.mkdir(parents=True)
        write_json(folder / DONE, {})
    assert abscert("compare", "run", plan, "--out", tmp_path / "results").err == ""
