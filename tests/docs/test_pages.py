"""What the pages of the documentation name exists: files, modules, names of the API, messages of errors."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import api_pages
import messages
import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
GENERATED: Final = {DOCS / "reference" / name for name in ("api", "commands", "front_door", "messages")}
PAGES: Final = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not GENERATED & set(path.parents) and not {"_build", "building"} & set(path.relative_to(DOCS).parts)
)
FOLDERS: Final = ("abscert_plugin", "baselines", "compare", "tests", "examples", "benchmarks", "docs")
QUOTED: Final = re.compile(r"^`([^`\n]+)`\n: ", re.MULTILINE)


def spans(path: Path) -> Iterator[str]:
    """Yield what a page sets between backticks, outside blocks of code."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


@cache
def names() -> frozenset[str]:
    """Return every module of the three packages, and every name that one defines, public or not."""
    found = set()
    for module, path in api_pages.modules(ROOT).items():
        found |= {module, *api_pages.public_names(module, path)}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
                found |= {f"{module}.{alias.asname or alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def texts() -> tuple[str, ...]:
    """Return every text of the three packages."""
    return tuple({text for path in api_pages.modules(ROOT).values() for text in messages.texts(path)})


def is_said(message: str) -> bool:
    """Whether the code has a text with all parts of a message in their order; gaps stand for anything."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split(messages.GAP)))
    return any(pattern.search(text) for text in texts())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_what_a_page_names_exists(path: Path) -> None:
    for span in spans(path):
        if span.split("/")[0] in FOLDERS and "/" in span and not set(" *<") & set(span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"(abscert_plugin|baselines|compare)(\.\w+)+", span):
            assert span in names(), span


def test_the_quoted_messages_are_those_of_the_code() -> None:
    quoted = QUOTED.findall((DOCS / "errors.md").read_text(encoding="utf-8"))
    assert len(quoted) > 40
    assert [message for message in quoted if not is_said(message)] == []


def test_a_message_that_the_code_does_not_have_is_seen() -> None:
    assert is_said("expected pixels in [0, 1] (pixel scale), got …; scale the images")
    assert not is_said("expected pixels in [0, 2] (pixel scale), got …")
    assert not is_said("scale the images … expected pixels in [0, 1]")


def test_the_list_of_messages_has_what_is_raised() -> None:
    page = messages.page(api_pages.modules(ROOT))
    assert "- `expected a radius such as 0.1 or 8/255, got …`\n" in page
    assert page.count("\n- ") > 400
