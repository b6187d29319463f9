"""The reference of the API: one page a room, with every public module; and a check that no public name is left out."""

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import abscert_plugin

PACKAGES: Final = ("abscert_plugin", "baselines", "compare")
_DIRECTIVE: Final = "```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :ignore-module-all:\n```\n"


def modules(root: Path) -> dict[str, Path]:
    """Return every public module of the three packages, with its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            if not any(part.startswith("_") for part in name.split(".")):
                found[name] = path
    return found


def pages(root: Path) -> dict[str, str]:
    """Return the pages by their names without suffix: one a room, and one for the modules of a package itself."""
    found = modules(root)
    rooms: dict[str, list[str]] = {}
    for module, path in found.items():
        first_two = ".".join(module.split(".")[:2])
        is_room = first_two != module or path.name == "__init__.py"
        rooms.setdefault(first_two if is_room else module.split(".")[0], []).append(module)
    return {room: _page(room, sorted(names)) for room, names in sorted(rooms.items())}


def _page(room: str, names: Iterable[str]) -> str:
    parts = [f"# {room}\n"]
    for module in names:
        title = "The package" if module == room else module
        parts += [f"## {title}\n", _DIRECTIVE.format(module=module)]
    return "\n".join(parts)


def front_door() -> str:
    """Return the page of what `import abscert_plugin as abscert` offers, each name where it is defined."""
    parts = [
        "# The front door\n",
        "`import abscert_plugin as abscert`: what a user of the library calls. The commands call the same functions.\n",
    ]
    offered = {name: getattr(abscert_plugin, name) for name in abscert_plugin.__all__ if not name.startswith("_")}
    for name, value in sorted(offered.items(), key=lambda item: (inspect.isclass(item[1]), item[0])):
        kind = "class" if inspect.isclass(value) else "function"
        members = "   :members:\n" if kind == "class" else ""
        place = f"{value.__module__}.{name}"
        title = f"## abscert.{name}\n"
        parts += [title, f"```{{eval-rst}}\n.. auto{kind}:: {place}\n{members}   :no-index:\n```\n"]
    return "\n".join(parts)


def public_names(module: str, path: Path) -> Iterator[str]:
    """Yield the full name of every public class and function that a module defines, and of every public method."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{module}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from (
                    f"{module}.{node.name}.{one.name}"
                    for one in node.body
                    if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")
                )


def missing(found: Mapping[str, Path], documented: Iterable[str]) -> list[str]:
    """Return what the reference lacks: modules, classes, functions and methods, in order."""
    there = set(documented)
    names = [name for module, path in found.items() for name in (module, *public_names(module, path))]
    return sorted({name for name in names if name not in there})
