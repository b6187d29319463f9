"""`abscert train --watch` and `--log`: the page that a training writes as it goes, and the logs of other libraries."""

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command_line import abscert, refused
from html_page import Element, parse_page
from registered import write_package

from abscert_plugin.cli import watching
from abscert_plugin.cli.progress import ProgressObserver
from abscert_plugin.cli.show import _pages
from abscert_plugin.errors import RecordError
from abscert_plugin.plugins import Registry
from abscert_plugin.report.run_content import images_of
from abscert_plugin.report.training_page import TrainingContent, claim_of, render_training
from abscert_plugin.report.tuning_page import TuningContent, render_tuning
from abscert_plugin.training import loggers
from abscert_plugin.training.loop import SilentObserver

TRAIN = ("train", "--data", "digits", "--network", "fc-3", "--batch-size", "512", "--device", "cpu")
FAILING = """
from contextlib import contextmanager
from abscert_plugin.training.loggers import LoggerEntry

@contextmanager
def opened(folder, settings):
    assert settings["network"] == "fc-3" and settings["epochs"] == 3
    def log(row):
        if row["epoch"] == 2:
            raise OSError("the server is away")
        (folder / "seen.txt").write_text(str(row["epoch"]))
    yield log

FAILING = LoggerEntry("failing", "json", "json", "json", opened)
"""


def history(folder: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in json.loads((folder / "checkpoint.json").read_text())["history"]]


def refreshes(page: Element) -> bool:
    return bool(page.all("meta", **{"http-equiv": "refresh"}))


def test_the_page_is_written_as_the_training_goes_and_rests_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Element] = []
    on_epoch = watching.PageObserver.on_epoch

    def look(self: watching.PageObserver, row: Any) -> None:
        pages.append(parse_page((tmp_path / "training.html").read_text()))
        on_epoch(self, row)

    monkeypatch.setattr(watching.PageObserver, "on_epoch", look)
    said = abscert(*TRAIN, "--epochs", 3, "--watch", "--out", tmp_path).err
    assert f"watch it: {tmp_path / 'training.html'}" in said
    last = parse_page((tmp_path / "training.html").read_text())
    assert [refreshes(page) for page in (*pages, last)] == [True, True, True, False]
    assert "No epoch has ended yet" in pages[0].text
    assert "epoch 2 of 3 is done" in pages[2].text
    rows = history(tmp_path)
    best = min(rows, key=lambda row: row["validation_error"])
    assert last.by_id("best-epoch").text == str(best["epoch"])
    assert last.by_id("best-error").text == f"{100 * best['validation_error']:.2f} %"
    _, *table = last.by_id("epochs").table()
    assert [line[:4] for line in table] == [
        [str(row["epoch"]), "kept" * (row is best), f"{row['loss']:.4f}", f"{100 * row['validation_error']:.2f}"]
        for row in rows
    ]
    assert len(last.all("svg")) == 2


def test_a_stopped_training_leaves_a_page_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def stop(self: ProgressObserver, images: int, loss: float | None) -> None:
        steps.append(images)
        if len(steps) == 5:  # of 3 steps an epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressObserver, "on_step", stop)
    abscert(*TRAIN, "--epochs", 3, "--watch", "--out", tmp_path, status=130)
    page = parse_page((tmp_path / "training.html").read_text())
    assert not refreshes(page)
    assert "It has not ended: epoch 1 of 3 is done." in page.text


def test_a_tuning_has_a_page_and_each_of_its_trainings_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[Element] = []
    write = watching.write_tuning_page

    def look(folder: Path, refresh: int | None) -> None:
        write(folder, refresh)
        pages.append(parse_page((tmp_path / "tuning.html").read_text()))

    monkeypatch.setattr(watching, "write_tuning_page", look)
    said = abscert("tune", *TRAIN[1:], "--radius", "0.1", "--epochs", 1, "--steps", 2, "--watch", "--out", tmp_path).err
    assert f"watch it: {tmp_path / 'tuning.html'}" in said
    assert [refreshes(page) for page in pages] == [True] * 6 + [False]  # begun, epoch, ended, of each step
    assert "No step has ended yet" in pages[0].text
    assert "step 1, cells-002, epoch 1 of 1 is done" in pages[1].text
    assert "step 2, cells-003, epoch 1 of 1 is done" in pages[4].text
    steps = json.loads((tmp_path / "tune.json").read_text())["steps"]
    best = min(steps, key=lambda step: step["validation_error"])
    assert pages[-1].by_id("best-cells").text == str(best["cells"])
    assert pages[-1].by_id("best-error").text == f"{100 * best['validation_error']:.2f} %"
    _, *table = pages[-1].by_id("steps").table()
    assert [line[0] for line in table] == ["2", "3"]
    assert [("best" in line[1], line[3]) for line in table] == [
        (step is best, f"{100 * step['validation_error']:.2f}") for step in steps
    ]
    links = [link.attributes["href"] for link in pages[-1].by_id("steps").all("a")]
    assert links == ["cells-002/training.html", "cells-003/training.html"]
    assert not any(refreshes(parse_page((tmp_path / link).read_text())) for link in links)
    served = _pages(images_of(None, None), None)(tmp_path)
    assert served is not None
    assert parse_page(served).by_id("best-cells").text == str(best["cells"])


def test_a_tunings_file_is_escaped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    hostile = '<script>alert("1")</script>'
    (tmp_path / "tune.json").write_text(json.dumps({"description": {hostile: hostile}, "steps": []}))
    page = parse_page(render_tuning(TuningContent.read(tmp_path), 5))
    assert len(page.all("script")) == 1
    assert hostile in page.text
    damaged: list[Any] = [None, [{}], [{"cells": "x"}]]
    for steps in damaged:
        (tmp_path / "tune.json").write_text(json.dumps({"steps": steps}))
        with pytest.raises(RecordError, match="no file of a tuning"):
            TuningContent.read(tmp_path)


def test_a_validation_error_is_told_of_its_claim_in_the_user_s_number() -> None:
    options = {"radius": "1/20", "radius_scale": "pixel"}
    assert claim_of({"claim": "ball", "method_options": options}) == "ball, radius 0.05 pixel"
    assert claim_of({"claim": "ball", "method_options": {"radius": "<b>"}}) == "ball, radius <b>"
    assert claim_of({"claim": "cell", "method_options": options}) == "cell"
    attacked = {"claim": "ball", "method_options": {**options, "selection": "attack"}}
    assert claim_of(attacked) == "attacked, radius 0.05 pixel"


def test_what_files_say_is_escaped_and_damaged_ones_are_named(tmp_path: Path) -> None:
    hostile = '<script>alert("1")</script>'
    row = {"epoch": 1, "loss": -0.5, "validation_error": 0.5, "seconds": 1.0}
    (tmp_path / "checkpoint.json").write_text(
        json.dumps({"description": {"method": hostile, hostile: [hostile], "training": 3}, "history": [row]})
    )
    page = parse_page(render_training(TrainingContent.read(tmp_path), 5))
    assert len(page.all("script")) == 1
    assert hostile in page.text
    broken: list[Any] = [None, [{}], [{**row, "epoch": 2}], [{**row, "loss": "x"}]]
    for rows in broken:
        (tmp_path / "checkpoint.json").write_text(json.dumps({"history": rows}))
        with pytest.raises(RecordError, match="no history of a training"):
            TrainingContent.read(tmp_path)


def test_a_logger_that_fails_never_ends_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(write_package(tmp_path, "away", FAILING, {"abscert.loggers": {"f": "FAILING"}})))
    monkeypatch.setattr(loggers, "LOGGERS", Registry(loggers.LoggerEntry, (), ("abscert.loggers",), "logger"))
    done = abscert(*TRAIN, "--epochs", 3, "--log", "failing", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "seen.txt").read_text() == "1"
    assert len(history(tmp_path / "run")) == 3
    assert done.err.count("epoch ") == 3


def test_a_logger_that_is_not_there_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    line = refused(*TRAIN, "--log", "mlflow", "--out", tmp_path / "run")
    assert (
        line
        == "--log mlflow needs mlflow, which is not installed; install it with pip install 'abscert-plugin[mlflow]'"
    )
    assert "expected a logger: one of tensorboard, mlflow" in refused(*TRAIN, "--log", "x", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_of_several_observers_ends_a_training_and_all_are_told() -> None:
    class Ends:
        told = 0

        def on_start(self, total_steps: int, steps_done: int) -> None:
            pass

        def on_step(self, images: int, loss: float | None) -> None:
            pass

        def on_epoch(self, row: Mapping[str, Any]) -> bool:
            self.told += 1
            return row["epoch"] == 2

    first, second = Ends(), Ends()
    group = loggers.ObserverGroup(SilentObserver(), first, second)
    assert [group.on_epoch({"epoch": epoch}) for epoch in (1, 2)] == [False, True]
    assert (first.told, second.told) == (2, 2)


@pytest.mark.filterwarnings("default")  # of other libraries
def test_tensorboard_reads_what_is_logged(tmp_path: Path) -> None:
    reading = "tensorboard.backend.event_processing.event_accumulator"
    pytest.importorskip(reading, reason="no tensorboard here: pip install 'abscert-plugin[tensorboard]'")
    abscert(*TRAIN, "--epochs", 2, "--log", "tensorboard", "--out", tmp_path)
    events = import_module(reading).EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "validation_error", "learning_rate"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in history(tmp_path)]  # float32


@pytest.mark.filterwarnings("default")  # of other libraries
def test_mlflow_reads_what_is_logged_and_a_resumed_training_goes_on_in_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="no mlflow here: pip install 'abscert-plugin[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'log.db'}")
    monkeypatch.chdir(tmp_path)
    said = abscert(*TRAIN, "--epochs", 2, "--log", "mlflow", "--out", tmp_path / "run").err
    assert "logs no more" not in said
    name = (tmp_path / "run" / "mlflow-run.txt").read_text().strip()
    abscert(*TRAIN, "--epochs", 2, "--log", "mlflow", "--out", tmp_path / "run", "--resume")
    client = import_module("mlflow").MlflowClient()
    assert (tmp_path / "run" / "mlflow-run.txt").read_text().strip() == name
    assert client.get_run(name).data.params["network"] == "fc-3"
    logged = [(metric.step, metric.value) for metric in client.get_metric_history(name, "loss")]
    assert logged == [(row["epoch"], pytest.approx(row["loss"])) for row in history(tmp_path / "run")]
