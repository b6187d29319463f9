"""A pickle is read without anything in it being run."""

import contextlib
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.data.inert_pickle import InertArray, read_inert_pickle
from abscert_plugin.errors import DataError


class Hostile:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "test_batch"
    content = {b"data": Hostile(os.system, f"touch {trace}"), b"labels": [0]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match=r"asks for '(posix|nt)\.system' in .*test_batch"):
        read_inert_pickle(path)
    assert not trace.exists()
    pickle._loads(path.read_bytes())  # type: ignore[attr-defined]  # the file does run where pickle itself reads it
    assert trace.exists()


@pytest.mark.parametrize(
    "function",
    [eval, getattr, np.load, np.frombuffer, pickle.loads, os.system, bytes, type],
)
def test_any_other_global_is_refused(tmp_path: Path, function: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps({"a": Hostile(function, "1")}))
    with pytest.raises(DataError, match="asks for"):
        read_inert_pickle(path)


def test_dotted_names_reach_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__doc__\x93.")
    with pytest.raises(DataError, match="asks for"):
        read_inert_pickle(path)


@pytest.mark.parametrize(
    "name", [b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"]
)
@pytest.mark.parametrize("state", [b"}U\x08__call__K\x01s", b"(N}U\x08__call__K\x01st", b"(N}U\x09__class__K\x01st"])
def test_a_stand_in_cannot_be_changed_by_a_file(tmp_path: Path, name: bytes, state: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x80\x02" + name + state + b"b.")
    with pytest.raises(DataError, match="expected"):
        read_inert_pickle(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x05.",  # LONG_BINPUT: 1.5 GiB of memo
        b"\x80\x02}p100000000\n.",  # PUT
        b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"}.",  # FRAME
        b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b"abc.",  # BINBYTES8
        b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b"abc.",  # BYTEARRAY8
    ],
)
def test_a_length_beyond_the_file_reserves_no_memory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="a readable pickle"):
        read_inert_pickle(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_another_encoding_than_latin1_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(DataError, match="latin1"):
        read_inert_pickle(path)


@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([2, 3, 4]), st.integers(0, 2**32))
def test_arrays_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, count: int, width: int, protocol: int, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pickle") / "file"
    path.write_bytes(pickle.dumps({b"data": array}, protocol=protocol))
    read = read_inert_pickle(path)["data"]
    assert isinstance(read, InertArray)
    assert np.array_equal(read.rows(width, path), array)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_pickle_is_read_or_named_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    protocol = data.draw(st.sampled_from([0, 2, 4]))
    raw = bytearray(pickle.dumps({b"data": np.zeros((2, 9), np.uint8), "labels": [1, 2]}, protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pickle") / "file"
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        content = read_inert_pickle(path).get("data")
        if isinstance(content, InertArray):
            content.rows(9, path)
