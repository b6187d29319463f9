"""Files whole or not at all, locks that two processes fight for, and limits on what a file unpacks to."""

import gzip
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abscert_plugin.errors import ConfigError, ExportError, RecordError
from abscert_plugin.files import (
    LOCK,
    locked,
    read_array,
    read_json,
    read_packed,
    read_text,
    sha256_of,
    write_array,
    write_text,
    write_whole,
)
from abscert_plugin.folders import alone_in, set_aside

HOLDER = """
import sys
from pathlib import Path
from abscert_plugin.folders import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is held without flock")


@contextmanager
def another_process_in(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a folder until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate()


def test_a_folder_is_held_by_one_process_and_its_holder_is_named(tmp_path: Path) -> None:
    with another_process_in(tmp_path / "run") as other, pytest.raises(RecordError, match="at work in") as caught:
        alone_in(tmp_path / "run").__enter__()
    assert f"run; wait for it, or choose another --out (held by process {other.pid} of " in str(caught.value)
    with alone_in(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_killed_process_held_is_taken_over(tmp_path: Path) -> None:
    with another_process_in(tmp_path) as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert (tmp_path / LOCK).exists()
        with alone_in(tmp_path):
            pass


def test_a_folder_in_use_is_not_set_aside(tmp_path: Path) -> None:
    with another_process_in(tmp_path / "run"), pytest.raises(RecordError, match="another process is at work"):
        set_aside(tmp_path / "run")
    assert set_aside(tmp_path / "run") == tmp_path / "run.old-1"
    assert list((tmp_path / "run.old-1").iterdir()) == []


def test_a_lock_whose_file_was_removed_meanwhile_guards_nothing_and_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    take = fcntl.flock
    removed: list[Path] = []

    def removed_first(file: object, how: int) -> None:
        if not removed:
            (tmp_path / LOCK).unlink()
            removed.append(tmp_path / LOCK)
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with locked(tmp_path / LOCK, "held"):
        assert (tmp_path / LOCK).exists()


def test_two_runs_of_the_lock_do_not_pass_one_another(tmp_path: Path) -> None:
    """Many processes add 1 to a number, each alone; a lock that two hold at once loses an addition."""
    code = """
import sys, time
from pathlib import Path
from abscert_plugin.errors import RecordError
from abscert_plugin.folders import alone_in
folder, left = Path(sys.argv[1]), 40
while left:
    try:
        with alone_in(folder):
            number = int((folder / "number").read_text())
            time.sleep(0.001)
            (folder / "number").write_text(str(number + 1))
            left -= 1
    except RecordError:
        time.sleep(0.0005)
"""
    (tmp_path / "number").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "160"


def test_a_file_that_cannot_be_filled_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def half(part: Path) -> None:
        part.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(ExportError, match=re.escape(f"cannot write {path}: No space left on device; free some")):
        write_whole(path, half, "free some", ExportError)

    def stopped(part: Path) -> None:
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, stopped)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_the_caller_chooses_the_error_and_the_advice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*; choose another --into"):
        write_text(tmp_path / "file" / "text", "", "choose another --into", ConfigError)


def test_a_checksum_is_of_all_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 3_000_000)
    (tmp_path / "b").write_bytes(b"abc")
    assert sha256_of([tmp_path / "b"]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    both = [tmp_path / "a", tmp_path / "b"]
    found = sha256_of(both)
    assert found != sha256_of(both[::-1])
    (tmp_path / "a").write_bytes(b"a" * 2_999_999)  # the last byte goes on to the next file
    (tmp_path / "b").write_bytes(b"aabc")
    assert found != sha256_of(both)


NOT_PACKED = st.binary(max_size=50).filter(lambda content: content[:2] != b"\x1f\x8b")


@given(NOT_PACKED, st.integers(0, 50), st.booleans())
def test_a_file_is_read_up_to_its_limit(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, limit: int, is_packed: bool
) -> None:
    path = tmp_path_factory.mktemp("packed") / ("file.gz" if is_packed else "file")
    path.write_bytes(gzip.compress(content) if is_packed else content)
    if len(content) <= limit:
        assert read_packed(path, limit) == content
    else:
        with pytest.raises(RecordError, match=f"holds more than {limit} bytes.*ABSCERT_MAX_BYTES"):
            read_packed(path, limit)


def test_the_limit_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setenv("ABSCERT_MAX_BYTES", "3")
    assert read_packed(tmp_path / "file", 2) == b"abc"
    for text in ("", "many", "-1", "1e9"):
        monkeypatch.setenv("ABSCERT_MAX_BYTES", text)
        with pytest.raises(RecordError, match="whole number of bytes"):
            read_packed(tmp_path / "file", 2)


def test_json_text_and_arrays_are_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    write_array(tmp_path / "a.npy", np.zeros(100))
    assert read_json(tmp_path / "a.json", 8) == {"a": 1}
    assert read_text(tmp_path / "a.json", 8) == '{"a": 1}'
    assert len(read_array(tmp_path / "a.npy", 928)) == 100
    for read, name, most in ((read_json, "a.json", 7), (read_text, "a.json", 7), (read_array, "a.npy", 927)):
        with pytest.raises(RecordError, match=f"{name} holds more than {most} bytes.*ABSCERT_MAX_BYTES"):
            read(tmp_path / name, most)
    monkeypatch.setenv("ABSCERT_MAX_BYTES", "7")
    with pytest.raises(RecordError, match="more than 7 bytes"):
        read_json(tmp_path / "a.json")


def test_a_file_that_unpacks_to_far_more_than_its_limit_is_not_unpacked_whole(tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(gzip.compress(bytes(2**28), 1))
    tracemalloc.start()
    with pytest.raises(RecordError, match="holds more than"):
        read_packed(tmp_path / "file.gz", 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "1e999 is no number"),
        ('{"a": "\\ud800"}', "half of a character"),
        ('{"\\uDC80": 1}', "half of a character"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "a key stands twice"),
    ],
)
def test_what_json_could_not_say_again_is_no_json(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError, match=f"is not a JSON file: .*{words}"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "a.json") == {"a": "\N{GRINNING FACE}"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
@pytest.mark.timeout(60)  # one that is opened waits for ever
@pytest.mark.parametrize(
    "read",
    [read_json, lambda path: read_packed(path, 10), lambda path: sha256_of([path])],
    ids=["json", "packed", "checksum"],
)
def test_a_pipe_is_no_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((RecordError, OSError), match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("place", [".", "/", ""])
def test_a_path_without_a_name_is_no_file_to_write(place: str) -> None:
    with pytest.raises(RecordError, match="Is a directory; choose another --out"):
        write_whole(Path(place), lambda part: part.write_text("x"))
