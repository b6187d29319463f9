"""Protocol `paper` chooses epochs on the test set, as the paper's code does; `sound` never looks at it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import AbscertError, DataError
from abscert_plugin.files import read_json
from abscert_plugin.grid import Grid
from abscert_plugin.records import read_records
from abscert_plugin.training.abstrain import ABSTRAIN
from abscert_plugin.training.loop import SilentObserver
from abscert_plugin.training.run import RunSpec, TrainingData, make_spec, run_training, write_run
from compare.plans.planned_run import Run
from compare.results.verified_run import verified_runs
from compare.running.execute import execute


def run_of(protocol: str) -> Run:
    return Run(
        data="digits",
        network="fc-3-code",
        method="abstrain",
        radius="0.1",
        cells=3,
        epochs=4,
        batch_size=64,
        learning_rate=0.01,
        claims=("cell",),
        protocol=protocol,
    )


def carried_out(run: Run, results: Path) -> Path:
    folder = results / "runs" / run.key
    folder.mkdir(parents=True)
    execute(run, folder, None, SilentObserver(), lambda _: None)
    return folder


def spec_of(epochs: int = 2) -> RunSpec:
    return make_spec("digits", None, None, "fc-3-code", "relu", Grid(3), "cpu", {"epochs": epochs}, ABSTRAIN)


def test_the_paper_trains_on_all_images_and_chooses_on_the_test_images() -> None:
    parts = {split: load_data("digits", split) for split in Split}
    data = TrainingData.as_published(spec_of())
    assert set(data.training.index) == set(parts[Split.TRAIN].index) | set(parts[Split.VALIDATION].index)
    assert len(data.training) == len(parts[Split.TRAIN]) + len(parts[Split.VALIDATION])
    assert np.array_equal(data.validation.index, parts[Split.TEST].index)
    label_at = {index: label for part in parts.values() for index, label in zip(part.index, part.labels, strict=True)}
    assert [label_at[index] for index in data.training.index] == data.training.labels.tolist()


def test_the_error_of_the_paper_is_that_of_its_best_epoch_on_the_test_images(tmp_path: Path) -> None:
    folder = carried_out(run_of("paper"), tmp_path)
    rows = read_records(folder / "verify-cell/records.jsonl")
    history = [json.loads(line) for line in (folder / "training/history.jsonl").read_text().splitlines()]
    error = sum(row.verdict != "certified" for row in rows) / len(rows)
    assert error == pytest.approx(min(row["validation_error"] for row in history))
    (found,), _ = verified_runs(tmp_path)
    assert found.chosen_on_test is True


def test_what_was_chosen_on_the_test_images_says_so_in_every_file(tmp_path: Path) -> None:
    for protocol, said in (("paper", True), ("sound", False)):
        folder = carried_out(run_of(protocol), tmp_path / protocol)
        assert (read_json(folder / "training/run.json")["configuration"].get("chosen_on") == "test") is said
        properties = {one.key: one.value for one in read_model(folder / "training/deploy.onnx").metadata_props}
        assert ("chosen_on=test" in properties["abscert.training"]) is said
        (found,), _ = verified_runs(tmp_path / protocol)
        assert found.chosen_on_test is said


def test_a_sound_training_does_not_depend_on_the_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = carried_out(run_of("sound"), tmp_path / "as they are").joinpath("training/deploy.onnx").read_bytes()

    def shuffled(name: str, split: Split, *given: object) -> DataSet:
        found = load_data(name, split)
        return replace(found, labels=found.labels[::-1].copy()) if split is Split.TEST else found

    monkeypatch.setattr("abscert_plugin.training.run.load_data", shuffled)
    folder = carried_out(run_of("sound"), tmp_path / "shuffled")
    assert folder.joinpath("training/deploy.onnx").read_bytes() == weights
    chosen = [
        read_json(carried_out(run_of("paper"), tmp_path / name) / "training/run.json")["configuration"][
            "validation_sha256"
        ]
        for name in ("paper",)
    ]
    assert chosen == [load_data("digits", Split.TEST).sha256]


def test_a_training_of_one_protocol_does_not_go_on_as_one_of_the_other(tmp_path: Path) -> None:
    spec = spec_of()
    data = TrainingData.load(spec)
    write_run(run_training(spec, data, tmp_path, SilentObserver()), data, tmp_path)
    with pytest.raises(AbscertError, match="training"):
        run_training(spec, TrainingData.as_published(spec), tmp_path, SilentObserver())


def test_only_splits_of_one_file_are_joined() -> None:
    train, validation = load_data("digits", Split.TRAIN), load_data("digits", Split.VALIDATION)
    with pytest.raises(DataError, match="share no image"):
        train.joined(train)
    with pytest.raises(DataError, match="two splits of digits"):
        train.joined(replace(validation, name="mnist"))
    assert train.joined(validation).sha256 not in (train.sha256, validation.sha256)
