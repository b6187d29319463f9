"""What other packages register: it appears beside ours, a broken one is left out and named, a taken name is refused."""

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from registered import write_package

from abscert_plugin.errors import ConfigError
from abscert_plugin.plugins import Registry

GROUP = "abscert.tests"
COUNT = itertools.count()


@dataclass(frozen=True)
class Fruit:
    """A row."""

    name: str


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what writes a package where Python looks for them, and gives its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str, **entries: str) -> str:
        name = f"fruit{next(COUNT)}"
        write_package(tmp_path, name, code, {GROUP: entries})
        return name

    return write


def fruits() -> Registry[Fruit]:
    return Registry(Fruit, (Fruit("apple"), Fruit("pear")), (GROUP,), "fruit")


PLUM = "from test_plugins import Fruit\nPLUM = Fruit('plum')\nPEAR = Fruit('pear')\nSTONE = object()\n"


def test_a_registered_entry_stands_behind_ours(install: Callable[..., str]) -> None:
    install(PLUM, anything="PLUM")
    assert list(fruits()) == ["apple", "pear", "plum"]
    assert fruits()["plum"].name == fruits().named("plum").name == "plum"
    assert (len(fruits()), "plum" in fruits(), "anything" in fruits()) == (3, True, False)


@pytest.mark.parametrize(
    ("code", "entry", "words"),
    [
        ("raise RuntimeError('no\\nluck')", "PLUM", "RuntimeError: no luck"),
        ("import a_module_that_is_nowhere", "PLUM", "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"),
        ("PLUM = (", "PLUM", "SyntaxError"),
        (PLUM, "GRAPE", "AttributeError"),
        (PLUM, "STONE", "expected a Fruit, got object"),
    ],
)
def test_a_broken_one_is_named_in_one_line_and_left_out(
    install: Callable[..., str], caplog: pytest.LogCaptureFixture, code: str, entry: str, words: str
) -> None:
    broken = install(code, bad=entry)
    install(PLUM, good="PLUM")
    with caplog.at_level(logging.WARNING):
        assert list(fruits()) == ["apple", "pear", "plum"]
    (message,) = caplog.messages
    assert message.startswith(f"note: left out bad ({broken}:{entry} of the entry points {GROUP}): ")
    assert words in message
    assert "\n" not in message


def test_a_broken_one_is_named_once(install: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    install("1 / 0", bad="PLUM")
    table = fruits()
    assert (list(table), len(table), list(table)) == (["apple", "pear"], 2, ["apple", "pear"])
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("code", [PLUM, PLUM.replace("'pear'", "'plum'")])
def test_a_taken_name_is_refused(install: Callable[..., str], code: str) -> None:
    name = install(code, first="PLUM", second="PEAR")
    with pytest.raises(ConfigError, match=rf"is registered twice in {GROUP}, by .*{name}:PEAR.*; remove a package"):
        list(fruits())


def test_an_unknown_name_lists_those_there_are(install: Callable[..., str]) -> None:
    install(PLUM, plum="PLUM")
    with pytest.raises(ConfigError, match="expected a fruit: one of apple, pear, plum; got 'fig'"):
        fruits().named("fig")


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="item assignment"):
        fruits()["fig"] = Fruit("fig")  # type: ignore[index]
