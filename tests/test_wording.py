"""Faults of files and words are told in words of ours: no number of the system's, no library's path or class."""

import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from command_line import refused, train

from abscert_plugin.choices import did_you_mean
from abscert_plugin.wording import plain_words

FOREIGN = re.compile(
    r"\[?Errno|site-packages|Traceback|Expecting|codec|msgspec|`int`|object at 0x|Error\(|invalid literal"
)

NOTHING: dict[str, int] = {}


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """What a text is read as."""

    title: str
    sizes: list[int] = []


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: json.loads('{"a":'), "line 1, column 6 is not JSON"),
        (lambda: b"\xff".decode(), "byte 1 is not UTF-8"),
        (lambda: tomllib.loads("a = = 1"), "line 1, column 5 is not TOML"),
        (lambda: tomllib.loads("a = "), "line 1, column 5 is not TOML|it is cut short"),
        (lambda: msgspec.json.decode(b'{"titel": "a"}', type=Shape), "there is no key 'titel'; did you mean title?"),
        (lambda: msgspec.json.decode(b"{}", type=Shape), "the key 'title' is missing"),
        (lambda: msgspec.json.decode(b'{"title": "a", "sizes": ["b"]}', type=Shape), "got text at sizes[0]"),
        (lambda: msgspec.json.decode(b'{"title" 1}', type=Shape), "byte 10 is not JSON"),
        (lambda: msgspec.json.decode(b'{"title": "', type=Shape), "it is cut short"),
        (lambda: int("x"), "'x' is no whole number"),
        (lambda: float("x"), "'x' is no number"),
        (lambda: NOTHING["a"], "the key 'a' is missing"),
        (lambda: Path("/nowhere/at/all").read_text(), "No such file or directory"),
        (lambda: Path("/").mkdir(), "a file of this name is there"),
    ],
)
def test_a_fault_is_told_in_our_words(read: Callable[[], object], words: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the library raises
        read()
    said = plain_words(caught.value, Shape.__struct_fields__)
    assert any(said.endswith(part) for part in words.split("|")), said
    assert FOREIGN.search(said) is None


@pytest.mark.parametrize(
    ("word", "meant"), [("Crown_IBP", "crown-ibp"), ("mnsit", "mnist"), ("quite another", ""), ("", "")]
)
def test_a_guess_is_made_where_a_name_is_alike(word: str, meant: str) -> None:
    assert did_you_mean(word, ["ibp", "crown-ibp", "mnist"]) == (f"; did you mean {meant}?" if meant else "")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a training that has seen next to nothing."""
    return train(tmp_path_factory.mktemp("wording") / "run", "--cells", 4)


BAD = ("empty", "json", "text", "bytes", "folder", "missing")


def bad(kind: str, place: Path) -> Path:
    """Return a path that nothing can be read from."""
    contents = {"empty": b"", "json": b'{"schema": 1, "a":', "text": b"garbage\n", "bytes": b"\xff\xfe\x00\n"}
    path = place / f"{kind}.dat"
    if kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", BAD)
def test_no_command_speaks_a_library_s_language(kind: str, run: Path, tmp_path: Path) -> None:
    path = bad(kind, tmp_path)
    toml = tmp_path / "plan.toml"
    if path.is_file():
        toml.write_bytes(path.read_bytes())
    in_the_way = tmp_path / "in-the-way"
    in_the_way.write_text("a file")
    for words in (
        ("check", path, run),
        ("verify", path, "--radius", "0.1"),
        ("verify", run, "--limit", "1", "--out", in_the_way),
        ("show", path),
        ("queries", path, "--out", tmp_path / "q"),
        ("export", path),
        ("export", run, "--out", in_the_way),
        ("wrap", path, "--out", tmp_path / "w"),
        ("card", run, "--certificate", path),
        ("compare", "plan", toml),
        ("compare", "status", "--out", path),
        ("train", "--data", "folder", "--data-dir", path, "--out", tmp_path / "o"),
        ("train", "--data", "digits", "--out", in_the_way / "below"),
        ("check", path, run / "deploy.onnx", "--query", path),
    ):
        line = refused(*words)
        assert FOREIGN.search(line) is None, (words, line)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_is_told_so(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("{}")
    path.chmod(0)
    assert "Permission denied" in refused("check", path, run)
