"""The generated reference: no command, option, module, class or function is left out of it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import api_pages
import command_pages
import pytest
import typer

import abscert_plugin
from abscert_plugin.cli.app import build_app

ROOT: Final = Path(__file__).resolve().parents[2]


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that has no subcommands, with its words."""
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, one in below.items():
        yield from leaves(one, (*path, name))


def test_every_option_of_every_command_is_on_its_page() -> None:
    pages = command_pages.pages()
    count = 0
    for path, command in leaves(typer.main.get_command(build_app())):
        title = f" abscert {' '.join(path)}\n"
        assert title in pages[path[0]]
        section = pages[path[0]].split(title)[1].split("\n## ")[0]
        for option in command.params:
            names = [option.name.upper()] if option.param_type_name == "argument" else option.opts
            for name in set(names) - {"-h", "--help"}:
                assert f"`{name}" in section or f", {name}" in section, (path, name)
                count += 1
    assert count > 200


def test_no_name_of_a_table_is_left_to_be_filled_in() -> None:
    text = "\n".join(command_pages.pages().values())
    assert "{networks}" not in text
    assert "resnet18" in text


def test_every_module_is_on_a_page_once() -> None:
    text = "\n".join(api_pages.pages(ROOT).values())
    modules = api_pages.modules(ROOT)
    assert len(modules) > 300
    assert all(text.count(f"automodule:: {name}\n") == 1 for name in modules)


def test_the_page_of_the_front_door_has_all_that_it_offers() -> None:
    page = api_pages.front_door()
    assert all(f"## abscert.{name}\n" in page for name in abscert_plugin.__all__ if not name.startswith("_"))
    assert "autofunction:: abscert_plugin.api.verifying.verify\n" in page


def test_every_public_name_has_a_docstring_by_which_it_enters_the_reference() -> None:
    for module, path in api_pages.modules(ROOT).items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name}"


@pytest.mark.parametrize(
    "gone", ["baselines.one", "baselines.one.Thing", "baselines.one.Thing.run", "baselines.one.make"]
)
def test_what_no_page_has_is_named(tmp_path: Path, gone: str) -> None:
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "_hidden.py").write_text("def unseen(): pass\n")
    (tmp_path / "baselines" / "one.py").write_text(
        "class Thing:\n    def run(self): pass\n    def _inner(self): pass\n\ndef make(): pass\ndef _own(): pass\n"
    )
    found = api_pages.modules(tmp_path)
    names = {"baselines.one", "baselines.one.Thing", "baselines.one.Thing.run", "baselines.one.make"}
    assert api_pages.missing(found, names) == []
    assert api_pages.missing(found, names - {gone}) == [gone]
