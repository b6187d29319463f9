"""The notebooks run, and what runs and shows them does what Jupyter does."""

import json
from pathlib import Path
from typing import Any, Final

import notebooks
import pytest
from scripts import run_script

ROOT: Final = Path(__file__).resolve().parents[2]
NOTEBOOKS: Final = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def written(path: Path, *sources: str) -> Path:
    """Write a notebook of cells of code."""
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "Words."]}]
    cells += [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def outputs(notebook: dict[str, Any]) -> list[Any]:
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    run_script(ROOT / "docs" / "building" / "notebooks.py", copy.name, folder=tmp_path)
    before, after = (outputs(json.loads(one.read_text(encoding="utf-8"))) for one in (path, copy))
    kinds = [[[*one.get("data", {"text": 0})] for one in cell] for cell in before]
    assert kinds == [[[*one.get("data", {"text": 0})] for one in cell] for cell in after]
    assert any(before)


def test_cells_share_names_and_show_what_they_print_and_end_with(tmp_path: Path) -> None:
    path = written(tmp_path / "one.ipynb", "x = 2\nprint('two')\nx + 1", "x * 10", "y = x")
    first, second, third = outputs(notebooks.run(path))
    assert first[0]["text"] == ["two\n"]
    assert first[1]["data"] == {"text/plain": ["3"]}
    assert second[0]["data"] == {"text/plain": ["20"]}
    assert third == []


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "one.ipynb", "x = 2", "1 / 0")
    with pytest.raises(ZeroDivisionError) as caught:
        notebooks.run(path)
    assert caught.value.__notes__ == ["in one.ipynb, cell 2"]


def test_a_page_has_words_code_and_what_was_shown(tmp_path: Path) -> None:
    source = "from PIL import Image\nImage.new('L', (2, 2))"
    page = notebooks.as_markdown(notebooks.run(written(tmp_path / "one.ipynb", "print('<b>')", source)))
    assert page.startswith("# Title\nWords.\n\n```python\nprint('<b>')\n```\n\n```text\n<b>\n")
    assert '<img alt="what the cell shows" src="data:image/png;base64,' in page
