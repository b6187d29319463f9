"""The package's own names: there, lazy, and spelled as Python spells them in messages."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from scripts import run_script

import abscert_plugin as abscert
from abscert_plugin.api.wording import as_keywords

ROOT: Final = Path(__file__).resolve().parents[2]
FIRST: Final = ("first_verify", "first_train_and_guard", "first_benchmark")
SAID: Final = {
    "first_verify": r"claim ball, radius 0.01 \(pixel scale\): \d+ certified, \d+ falsified, \d+ unknown of 50 images",
    "first_train_and_guard": r"^\d+% certified, [89]\d% right$",
    "first_benchmark": r"ibp claim ball, radius 0.02 .* of 40 images.*\nsmoothed claim ball, radius 0.02",
}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = """
import sys
import abscert_plugin as abscert
heavy = {"torch", "onnxruntime", "onnx", "numpy", "auto_LiRPA"} & set(sys.modules)
assert not heavy, heavy
assert set(abscert.__all__) <= set(dir(abscert))
abscert.verify, abscert.Verdicts, abscert.load_data
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there_and_no_other() -> None:
    for name in abscert.__all__:
        assert getattr(abscert, name) is not None
    assert callable(abscert.guard)  # and no room of this name hides it
    with pytest.raises(AttributeError, match="verfy"):
        abscert.verfy  # type: ignore[attr-defined]  # noqa: B018


def test_messages_name_keywords() -> None:
    with pytest.raises(abscert.AbscertError, match=r"expected split: one of .*; did you mean train\?"):
        abscert.load_data("digits", "trian")
    assert as_keywords("add --resume to go on; --batch-size") == "add resume=True to go on; batch_size"


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_a_first_script_runs_as_it_is_written(name: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    body = [line for line in text.partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(body) < 12, body
    assert ast.get_docstring(ast.parse(text))
    told = run_script(path, folder=tmp_path)
    assert re.search(SAID[name], told.strip()), told
