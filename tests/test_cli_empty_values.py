"""Values of the command line without a letter, as of unset variables of the shell: one line, and nothing is touched."""

from pathlib import Path

import pytest
from command_line import contents, refused


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["train", "--epochs", "1", "--out", ""], "--out"),
        (["train", "--epochs", "1", "--out="], "--out"),
        (["verify", "deploy.onnx", "--data-dir", ""], "--data-dir"),
        (["show", ""], "show"),
    ],
    ids=" ".join,
)
def test_values_of_unset_variables_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], option: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where an empty path would lead
    line = refused(*arguments)
    assert f"a value after {option}," in line
    assert "a variable of the shell" in line
    assert not contents(tmp_path)
