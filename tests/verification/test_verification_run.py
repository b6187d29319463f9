"""A verification over a data set: it can be cut off anywhere and gone on with, and never mixes two runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_networks import constant_network, export_tiny, run_onnx, tiny_data, tiny_network

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.cores import thread_count
from abscert_plugin.data import DataSet
from abscert_plugin.errors import DataError, RecordError, UnsupportedModelError
from abscert_plugin.folders import set_aside
from abscert_plugin.records import RECORDS, RUN, Record, RunInfo, read_records
from abscert_plugin.verification.run import Verification

COUNT = 23
BATCH = 5


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tiny_network(3), 4, tmp_path_factory.mktemp("tiny")).deploy


@pytest.fixture(scope="module")
def data() -> DataSet:
    return tiny_data(COUNT)


def ignore(count: int) -> None:
    """Take no notice of progress."""


def verification(path: Path, data: DataSet, batch_size: int = BATCH) -> Verification:
    return Verification(Artifact.open(path, Provider.CPU), data, batch_size)


def facts(records: list[Record]) -> list[dict[str, Any]]:
    """Return all that records say but how long they took."""
    return [msgspec.structs.asdict(msgspec.structs.replace(record, seconds=0.0)) for record in records]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_image_gets_one_row_in_order(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    told: list[int] = []
    records, info = verification(deploy, data).run(tmp_path / "deep" / "out", told.append)
    assert [record.index for record in records] == data.index.tolist()
    assert [record.label for record in records] == data.labels.tolist()
    assert read_records(tmp_path / "deep" / "out" / RECORDS) == records
    assert RunInfo.read(tmp_path / "deep" / "out" / RUN) == info
    assert sum(told) == COUNT
    (batch,) = data.batches(COUNT)
    (logits,) = run_onnx(deploy, batch.images / np.float32(255))
    assert [record.prediction for record in records] == logits.argmax(axis=1).tolist()


def test_run_json_says_how_the_rows_were_made(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    _, info = verification(deploy, data).run(tmp_path, ignore)
    assert info.provider == "CPUExecutionProvider"
    assert info.data == {"name": "tiny", "split": "test", "images": COUNT, "sha256": data.sha256}
    assert info.model is not None
    assert len(info.model["sha256"]) == 64
    assert (info.model["cells"], info.model["classes"]) == (4, 3)
    assert (info.configuration["claim"], info.configuration["batch_size"]) == ("cell", BATCH)
    assert {"abscert-plugin", "onnxruntime", "numpy", "python"} <= set(info.versions)
    assert info.seconds is not None
    assert info.seconds > 0


@pytest.mark.parametrize("kept", [0, 1, BATCH, 13, COUNT])
@pytest.mark.parametrize("half_line", [b"", b'{"index": 1'])
def test_a_run_that_was_cut_off_ends_with_the_same_rows(
    tmp_path: Path, deploy: Path, data: DataSet, kept: int, half_line: bytes
) -> None:
    whole, _ = verification(deploy, data).run(tmp_path / "whole", ignore)
    verification(deploy, data).run(tmp_path / "cut", ignore)
    path = tmp_path / "cut" / RECORDS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]) + half_line)
    told: list[int] = []
    resumed, _ = verification(deploy, data).run(tmp_path / "cut", told.append)
    assert facts(resumed) == facts(whole)
    assert read_records(path) == resumed
    assert told[0] == kept
    assert sum(told) == COUNT


def test_a_run_that_is_stopped_between_batches_is_gone_on_with(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    whole, _ = verification(deploy, data).run(tmp_path / "whole", ignore)
    told: list[int] = []

    def stop_at_the_third(count: int) -> None:
        told.append(count)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verification(deploy, data).run(tmp_path / "cut", stop_at_the_third)
    assert len(read_records(tmp_path / "cut" / RECORDS)) == 2 * BATCH
    assert RunInfo.read(tmp_path / "cut" / RUN).seconds is None
    resumed, info = verification(deploy, data).run(tmp_path / "cut", ignore)
    assert facts(resumed) == facts(whole)
    assert info.seconds is not None


def test_a_finished_run_is_only_read(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    first, _ = verification(deploy, data).run(tmp_path, ignore)
    before = (tmp_path / RECORDS).read_bytes()
    again, _ = verification(deploy, data).run(tmp_path, ignore)
    assert again == first
    assert (tmp_path / RECORDS).read_bytes() == before


@pytest.mark.parametrize("batch_size", [1, 7, COUNT, 1000])
def test_the_batch_size_changes_no_verdict(tmp_path: Path, deploy: Path, data: DataSet, batch_size: int) -> None:
    expected, _ = verification(deploy, data).run(tmp_path / "a", ignore)
    records, _ = verification(deploy, data, batch_size).run(tmp_path / "b", ignore)
    for record, other in zip(records, expected, strict=True):
        assert (record.index, record.verdict, record.prediction) == (other.index, other.verdict, other.prediction)
        assert record.margin == pytest.approx(other.margin, rel=1e-5, abs=1e-5)  # float32 sums in another order


def test_one_folder_never_holds_two_runs(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    out = tmp_path / "out"
    verification(deploy, data).run(out, ignore)
    before = contents(out)
    other = export_tiny(constant_network([1.0, 0.0, 0.0]), 4, tmp_path).deploy
    runs = {
        "model": verification(other, data),
        "data": verification(deploy, tiny_data(COUNT, seed=1)),
        "data ": verification(deploy, data.first(3)),
        "configuration": verification(deploy, data, BATCH + 1),
        "configuration ": Verification(Artifact.open(deploy, Provider.CPU, threads=thread_count() + 1), data, BATCH),
    }
    for different, run in runs.items():
        with pytest.raises(RecordError, match=rf"another run \(.*{different.strip()}\..*: there .*\); use --fresh"):
            run.run(out, ignore)
        assert contents(out) == before


def test_records_without_a_run_json_are_left_alone(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    (tmp_path / RECORDS).write_text("precious\n")
    with pytest.raises(RecordError, match=r"records without a run\.json"):
        verification(deploy, data).run(tmp_path, ignore)
    assert contents(tmp_path) == {RECORDS: b"precious\n"}


@pytest.mark.parametrize("content", [b"{}", b"garbage", b""])
def test_a_damaged_run_json_is_named_and_left_alone(
    tmp_path: Path, deploy: Path, data: DataSet, content: bytes
) -> None:
    (tmp_path / RUN).write_bytes(content)
    with pytest.raises(RecordError, match=r"run\.json is not a"):
        verification(deploy, data).run(tmp_path, ignore)
    assert contents(tmp_path) == {RUN: content}


def test_a_damaged_row_is_named_and_left_alone(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    verification(deploy, data).run(tmp_path, ignore)
    path = tmp_path / RECORDS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "garbage", *lines[2:]]) + "\n")
    before = contents(tmp_path)
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2"):
        verification(deploy, data).run(tmp_path, ignore)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": 10**6}, "image 1000000, which is not one of the"),
        ({"index": 2**70}, "which is not one of the"),
        ({"verdict": "banana"}, "with the verdict 'banana'"),
        ({"label": 77}, "with the label 77"),
    ],
)
def test_a_row_that_no_run_on_these_images_writes_is_refused(
    tmp_path: Path, deploy: Path, data: DataSet, change: dict[str, Any], said: str
) -> None:
    verification(deploy, data).run(tmp_path, ignore)
    first, *others = (tmp_path / RECORDS).read_text().splitlines()
    changed = "\n".join([json.dumps({**json.loads(first), **change}), *others]) + "\n"
    (tmp_path / RECORDS).write_text(changed)
    with pytest.raises(RecordError, match=said):
        verification(deploy, data).run(tmp_path, ignore)
    assert (tmp_path / RECORDS).read_text() == changed


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, deploy: Path, data: DataSet, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RecordError, match=r"cannot make the folder .*choose another --out"):
        verification(deploy, data).run(tmp_path / place, ignore)
    assert (tmp_path / "file").read_text() == "kept"


def test_data_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    two_classes = export_tiny(constant_network([0.0, 1.0]), 2, tmp_path / "model", classes=2).deploy
    with pytest.raises(DataError, match="labels from 0 to 1"):
        verification(two_classes, data, 1).run(tmp_path / "out", ignore)
    wide = replace(data, shape=(1, 1, 4))
    with pytest.raises(DataError, match=r"images of shape \(1, 2, 2\)"):
        verification(deploy, wide).run(tmp_path / "out", ignore)
    with pytest.raises(DataError, match="batch size of at least 1, got 0"):
        verification(deploy, data, 0).run(tmp_path / "out", ignore)
    assert not (tmp_path / "out").exists()  # else the right data would be refused as those of another run


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"deploy\.onnx is not there"):
        Artifact.open(tmp_path / "deploy.onnx", Provider.CPU)


def test_setting_aside_loses_nothing(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    out = tmp_path / "out"
    assert set_aside(out) is None
    kept: dict[Path, dict[str, bytes]] = {}
    for seed in range(3):
        verification(deploy, tiny_data(3, seed)).run(out, ignore)
        before = contents(out)
        aside = set_aside(out)
        assert aside is not None
        kept[aside] = before
        assert not out.exists()
    assert [path.name for path in kept] == ["out.old-1", "out.old-2", "out.old-3"]
    assert {path: contents(path) for path in kept} == kept


def test_setting_aside_names_a_folder_that_cannot_be_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RecordError, match=r"cannot rename .*Permission denied"):
        set_aside(tmp_path)


def test_rates_are_not_stored(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    verification(deploy, data).run(tmp_path, ignore)
    keys: set[str] = set()
    json.loads((tmp_path / RUN).read_text(), object_hook=lambda value: keys.update(value))
    assert "configuration" in keys
    assert not {key for key in keys if any(word in key for word in ("error", "rate", "certified", "falsified"))}


def test_progress_is_told_after_the_rows_are_on_disk(tmp_path: Path, deploy: Path, data: DataSet) -> None:
    seen: list[tuple[int, int]] = []

    def look(told: int) -> None:
        path = tmp_path / RECORDS
        seen.append((told, len(read_records(path)) if path.exists() else 0))

    callback: Callable[[int], None] = look
    verification(deploy, data).run(tmp_path, callback)
    totals = np.cumsum([told for told, _ in seen]).tolist()
    assert totals == [stored for _, stored in seen]
