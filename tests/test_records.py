"""Records: what is written is read, a kill or a full disk costs whole lines only, and damage is named."""

import gzip
import json
import math
import re
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import disk_with_room_for
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict as record_dict
from msgspec.structs import replace

from abscert_plugin.errors import RecordError
from abscert_plugin.files import read_array, read_json, write_array, write_json
from abscert_plugin.records import SCHEMA_VERSION, Record, RecordWriter, RunInfo, drop_half_line, read_records

FULL_DEVICE = Path("/dev/full")
numbers = st.floats(allow_nan=False, allow_infinity=False)
records = st.builds(
    Record,
    index=st.integers(0),
    label=st.integers(0, 999),
    prediction=st.integers(-1, 999),
    claim=st.sampled_from(["cell", "ball"]),
    radius=st.none() | numbers,
    radius_scale=st.none() | st.sampled_from(["pixel", "training"]),
    verdict=st.sampled_from(["certified", "falsified", "unknown"]),
    reason=st.text(),
    method=st.text(),
    reachable_log2=numbers,
    margin=st.none() | numbers,
    seconds=numbers,
    counterexample=st.none() | st.text(),
    schema=st.just(SCHEMA_VERSION),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(), values, max_size=3)
RECORD = Record(
    index=3,
    label=1,
    prediction=1,
    claim="cell",
    radius=None,
    radius_scale=None,
    verdict="certified",
    reason="the label has the greatest logit on the cell",
    method="forward",
    reachable_log2=0.0,
    margin=1.5,
    seconds=0.001,
    counterexample=None,
    schema=SCHEMA_VERSION,
)


def write(path: Path, rows: list[Record]) -> None:
    with RecordWriter(path) as writer:
        writer.write(rows)


def file_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "records.jsonl"


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(st.lists(records, max_size=4), max_size=3))
def test_record_to_file_to_record_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Record]]
) -> None:
    path = file_in(tmp_path_factory)
    for batch in batches:  # each is a run that goes on with the file
        write(path, batch)
    if batches:
        assert read_records(path) == [row for batch in batches for row in batch]
        assert path.read_bytes().count(b"\n") == sum(map(len, batches))


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_a_file_cut_anywhere_gives_its_whole_lines_and_can_be_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Record], data: st.DataObject
) -> None:
    path = file_in(tmp_path_factory)
    write(path, rows)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    kept = path.read_bytes().count(b"\n")
    assert read_records(path) == rows[:kept]
    write(path, rows[kept:])
    assert path.read_bytes() == content


def test_of_a_long_file_only_the_end_is_read_for_a_half_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for half in (b"", b"x" * 200_000):
        path.write_bytes(b"line\n" * 10_000_000 + half)
        tracemalloc.start()
        drop_half_line(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert path.stat().st_size == 50_000_000
        assert peak < 1_000_000
    path.write_bytes(b"x" * 200_000)
    drop_half_line(path)
    assert path.read_bytes() == b""


@given(st.lists(records, max_size=3))
def test_a_packed_file_is_read_as_the_plain_one(tmp_path_factory: pytest.TempPathFactory, rows: list[Record]) -> None:
    path = file_in(tmp_path_factory)
    write(path, rows)
    packed = path.with_name("records.jsonl.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_records(packed) == rows


def test_an_empty_packed_file_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(b"")
    assert read_records(path) == []


@pytest.mark.parametrize("content", [b"{}", gzip.compress(b"{}\n" * 99, mtime=0)[:-9]])
def test_a_damaged_packed_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"cannot read .*records\.jsonl\.gz: not a gzip file"):
        read_records(path)


def test_whole_numbers_stand_for_floats(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(line_with(seconds=1, margin=-2) + "\n")
    assert read_records(tmp_path / "r") == [replace(RECORD, seconds=1.0, margin=-2.0)]


def test_a_margin_that_is_no_number_is_stored_as_none(tmp_path: Path) -> None:
    write(tmp_path / "r", [replace(RECORD, margin=math.nan)])
    assert read_records(tmp_path / "r") == [replace(RECORD, margin=None)]


def test_a_full_disk_keeps_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first, later = [replace(RECORD, index=place) for place in range(3)], [replace(RECORD, index=3)]
    write(path, first)
    whole = path.read_bytes()
    with (
        disk_with_room_for(len(whole) + 20),
        pytest.raises(RecordError, match=r"records\.jsonl: File too large"),
        RecordWriter(path) as writer,
    ):
        writer.write(later)
    assert path.read_bytes()[: len(whole)] == whole
    assert read_records(path) == first
    write(path, later)
    assert read_records(path) == first + later


LINE = json.dumps(record_dict(RECORD))


def line_with(**changes: Any) -> str:
    return json.dumps({**record_dict(RECORD), **changes})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("garbage", "byte 1 is not JSON"),
        ("", "cut short"),
        (LINE[:-1], "cut short"),
        (LINE + LINE, "is not JSON"),
        ("9" * 5000, "out of range"),
        ("[" * 100_000, "expected a record"),
        ("\\xff", "is not JSON"),
        ("[]", "expected a table of names and values, got a list"),
        ("3", "got a whole number"),
        ("null", "got nothing"),
        (line_with(schema=2), "2 is none of the values that there are"),
        (line_with(schema=None), "expected a whole number, got nothing at schema"),
        ('{"schema": 1}', "the key 'index' is missing"),
        (LINE.replace(', "schema": 1', ""), "the key 'schema' is missing"),
        (line_with(index="3"), "expected a whole number, got text at index"),
        (line_with(label=1.5), "expected a whole number, got a number at label"),
        (line_with(margin=[]), "got a list at margin"),
        (line_with(verdict=None), "expected text, got nothing at verdict"),
        (line_with(schema=True), "expected a whole number, got true or false at schema"),
        (line_with(seconds=10**400), "out of range"),
        (line_with(extra=1), "there is no key 'extra'"),
        (line_with(**{"two\nlines": 1}), "there is no key"),
    ],
)
def test_a_damaged_line_is_named_in_one_line(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f"{LINE}\n{line}\n{LINE}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=re.escape(fault)) as caught:
        read_records(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot read .*: No such file"),
        (b"\xff\xfe\x00\n", "line 1: expected a record of schema 1: byte 1 is not JSON"),
        (
            LINE.encode().replace(b"cell", b"c\xffll") + b"\n",
            "line 1: expected a record of schema 1: byte .* is not UTF-8",
        ),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "records.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=fault):
        read_records(path)


@pytest.mark.parametrize(
    "use",
    [
        RecordWriter,
        read_records,
        read_json,
        lambda path: write_json(path, {}),
    ],
)
def test_a_folder_that_is_a_file_is_named(tmp_path: Path, use: Any) -> None:
    """In place of a folder without the right to write, which the super-user has everywhere."""
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RecordError, match=r"cannot (read|write) .*file.records\.jsonl") as caught:
        use(tmp_path / "file" / "records.jsonl")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"


# --- run.json --------------------------------------------------------------------------------------------------------


@given(mappings)
def test_json_to_file_to_json_is_the_identity(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = file_in(tmp_path_factory)
    write_json(path, {"former": 1})
    write_json(path, value)
    assert read_json(path) == value
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_survives_where_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that fails is simulated: no folder lets a file be made but not renamed."""
    path = tmp_path / "run.json"
    write_json(path, {"old": True})

    def fail(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RecordError, match=r"cannot write .*run\.json: Permission denied"):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not FULL_DEVICE.is_char_device(), reason=f"no {FULL_DEVICE} here")
def test_the_old_file_survives_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"old": True})
    (tmp_path / ".run.json.part").symlink_to(FULL_DEVICE)  # where the new content is written to first
    with pytest.raises(RecordError, match=r"cannot write .*run\.json: No space left on device"):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "fault"), [("{", "not a JSON file"), ("[1]", "got another value"), ("\0", "not a JSON")]
)
def test_a_json_file_without_an_object_is_named(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=fault) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


run_infos = st.builds(
    RunInfo,
    command=st.text(),
    configuration=mappings,
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
    device=st.text(),
    provider=st.none() | st.text(),
    data=st.none() | mappings,
    model=st.none() | mappings,
    seconds=st.none() | numbers,
)


@given(run_infos)
def test_run_json_to_file_to_run_json_is_the_identity(tmp_path_factory: pytest.TempPathFactory, info: RunInfo) -> None:
    path = file_in(tmp_path_factory)
    info.write(path)
    assert RunInfo.read(path) == info


@pytest.mark.parametrize("change", [{"schema": 2}, {"extra": 1}, {"device": None}])
def test_a_run_json_of_another_layout_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "run.json"
    info = RunInfo("verify", {}, {}, "cpu", None, None, None)
    value = {**asdict(info), **change}
    write_json(path, {key: item for key, item in value.items() if not (key in change and item is None)})
    with pytest.raises(RecordError, match=r"run\.json is not a run\.json of schema 1"):
        RunInfo.read(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**400,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': (",
        b"[" * 900,
    ],
)
def test_an_array_with_a_lying_header_is_named(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "values.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(RecordError, match="not an array"):
        read_array(path)


def test_array_to_file_to_array_is_the_identity(tmp_path: Path) -> None:
    values = np.array([[0.1, -0.0], [1e-45, 1.0]], dtype=np.float32)
    write_array(tmp_path / "a" / "values.npy", values)
    assert read_array(tmp_path / "a" / "values.npy").tobytes() == values.tobytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["values.npy"]
