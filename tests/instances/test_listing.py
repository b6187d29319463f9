"""Lists of instances: what they may look like, and what is refused."""

import gzip
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import write_list

from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.instances.listing import read_lists
from abscert_plugin.instances.others import read_other


def test_a_list_a_folder_and_a_folder_of_folders_are_the_same(tmp_path: Path) -> None:
    path = write_list(tmp_path / "small", ["a", "b"], timeout=7.5)
    found = read_lists([path])
    assert found == read_lists([tmp_path / "small"]) == read_lists([tmp_path]) == read_lists([path, tmp_path])
    assert [(each.category, each.network, each.query, each.timeout) for each in found] == [
        ("small", "net.onnx", "a.vnnlib", 7.5),
        ("small", "net.onnx", "b.vnnlib", 7.5),
    ]
    assert [each.name for each in found] == ["net_a", "net_b"]


def test_files_may_be_packed_and_lists_may_say_so_or_not(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "net.onnx.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "q.vnnlib").touch()
    path = tmp_path / "instances.csv"
    path.write_text("./onnx/net.onnx, q.vnnlib.gz , 3\r\n\r\nonnx/net.onnx.gz,q.vnnlib,3\r\n")
    (found,) = read_lists([path])
    assert (found.network, found.query) == ("onnx/net.onnx", "q.vnnlib")
    assert (found.network_file.name, found.query_file.name) == ("net.onnx.gz", "q.vnnlib")
    assert found.name == "net_q"


def test_limit_and_timeout_are_of_each_list(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_list(tmp_path / name, ["a", "b", "c"])
    found = read_lists([tmp_path], limit=2, timeout=4.0)
    assert [(each.category, each.query, each.timeout) for each in found] == [
        (name, query, 4) for name in ("first", "second") for query in ("a.vnnlib", "b.vnnlib")
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net.onnx,a.vnnlib\n", "line 1: expected a network, a query and seconds"),
        ("net.onnx,a.vnnlib,5\nnet.onnx,,5\n", "line 2: expected a network, a query and seconds"),
        ("net.onnx,a.vnnlib,soon\n", "line 1: expected seconds above 0 and up to 1,000,000, got soon"),
        ("net.onnx,a.vnnlib,nan\n", "expected seconds above 0"),
        ("net.onnx,a.vnnlib,0\n", "expected seconds above 0"),
        ("other.onnx,a.vnnlib,5\n", r"there is no file .*other\.onnx, packed by gzip or not"),
        ("\n \n", "expected an instance in"),
        ("\0\n", "line 1: expected a network"),
        ("a\0,b,5\n", "there is no file"),
        (f"{'a' * 5000},b,5\n", "there is no file"),
        (f"net.onnx,a.vnnlib,5\n{'a' * 200_000},b,5\n", "line 2: field larger than field limit"),
    ],
)
def test_a_line_that_is_no_instance_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write_list(tmp_path, ["a"])
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_lists([path])


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_lists([tmp_path / "none.csv"])
    with pytest.raises(ConfigError, match=r"expected instances\.csv in"):
        read_lists([tmp_path])
    (tmp_path / "instances.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        read_lists([tmp_path])
    write_list(tmp_path, ["a"])
    for limit, timeout in ((0, None), (None, -1.0), (None, float("nan"))):
        with pytest.raises(ConfigError, match="expected"):
            read_lists([tmp_path], limit, timeout)


def test_two_lists_of_one_category_are_refused(tmp_path: Path) -> None:
    paths = [write_list(tmp_path / year / "acasxu", ["a"]) for year in ("2022", "2023")]
    with pytest.raises(ConfigError, match="both of the category acasxu"):
        read_lists(paths)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["net.onnx", "a.vnnlib", ",", "5", "\n", "\r", '"', "\0", "..", "é", "1e999", " ", ".gz", "/"]),
        max_size=12,
    ).map("".join)
)
def test_whatever_stands_in_lists_and_results_is_told_in_words_of_ours(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = write_list(folder, ["a"])
    path.write_text(text, encoding="utf-8")
    for read in (lambda: read_lists([path]), lambda: read_other(path)):
        with suppress(AbscertError):
            read()
