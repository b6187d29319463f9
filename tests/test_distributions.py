"""What the build changes on the way into a wheel: imports of what moves, and links. `make dist` builds the whole."""

import ast
from pathlib import Path

import pytest
import wheel_and_sdist as build

ROOT = Path(__file__).resolve().parents[1]
HOME = '[project.urls]\nSource = "https://example.org/abscert/"\n'


def roots_of_imports(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    plain = {item.name for node in nodes if isinstance(node, ast.Import) for item in node.names}
    return {
        name.split(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    }


@pytest.mark.parametrize("package", build.MOVED)
def test_no_module_of_a_wheel_imports_what_others_may_have(package: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / package).rglob("*.py")]
    assert any(package in roots_of_imports(text) for text in texts)
    assert not any(roots_of_imports(build._below_ours(text)) & set(build.MOVED) for text in texts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from compare import page", "from abscert_plugin.compare import page"),
        ("    from baselines.ibp import ENTRY", "    from abscert_plugin.baselines.ibp import ENTRY"),
        (">>> from compare.plans.plan import read_plan", ">>> from abscert_plugin.compare.plans.plan import read_plan"),
        ("from compared import x", "from compared import x"),
        ("far from compare and import", "far from compare and import"),
        ("import comparexyz, baseline", "import comparexyz, baseline"),
    ],
)
def test_an_import_names_the_package_where_a_wheel_has_it(before: str, after: str) -> None:
    assert build._below_ours(before) == after


@pytest.mark.parametrize("text", ["import compare", "import os, baselines.ibp", "    import compare.plans as plans"])
def test_an_import_that_cannot_be_moved_stops_the_build(text: str) -> None:
    with pytest.raises(SystemExit, match=r"expected `from .* import"):
        build._below_ours(text)


@pytest.mark.parametrize(
    ("urls", "page"),
    [
        ("", "see METHOD, [paper](https://arxiv.org/abs/1), more.  below"),
        (
            HOME,
            "see [METHOD](https://example.org/abscert/blob/HEAD/docs/METHOD.md#x), [paper](https://arxiv.org/abs/1), "
            "[more](https://example.org/abscert/blob/HEAD/README.md#more). "
            "![phi](https://example.org/abscert/raw/HEAD/docs/phi.png) below",
        ),
    ],
)
def test_a_link_of_the_readme_leads_somewhere_or_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urls: str, page: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[project]\n{urls}")
    monkeypatch.chdir(tmp_path)
    text = "see [METHOD](docs/METHOD.md#x), [paper](https://arxiv.org/abs/1), [more](#more). ![phi](docs/phi.png) below"
    assert build._page_of_an_index(text) == page
