"""Where auto_LiRPA is looked for: a user's own before the one of the extra `lirpa`."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from abscert_plugin.lirpa import compat


def test_the_extra_is_looked_into_once_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = ModuleType("abscert_lirpa")
    adapter.FOLDER = tmp_path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "abscert_lirpa", adapter)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    for _ in range(2):
        compat._look_into_adapter()
        assert sys.path == [*before, str(tmp_path)]


def test_nothing_is_looked_into_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "abscert_lirpa", None)
    before = list(sys.path)
    compat._look_into_adapter()
    assert sys.path == before
