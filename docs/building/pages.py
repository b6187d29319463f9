"""Sphinx's extension of this documentation: writes the generated pages, reads notebooks, and misses no public name."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import api_pages
import command_pages
import messages
from docutils import nodes
from notebooks import NotebookParser
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry, PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

ROOT: Final = Path(__file__).resolve().parents[2]
_LOG: Final = logging.getLogger(__name__)
_MARKS: Final = re.compile(r"(`[^`]*`)|([*|])")


def write(folder: Path, pages: Mapping[str, str], title: str | None) -> None:
    """Write generated pages into a folder, with an index if a title is given; remove what is none of them any more."""
    folder.mkdir(parents=True, exist_ok=True)
    if title is not None:
        pages = {**pages, "index": f"# {title}\n\n```{{toctree}}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"}
    for old in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # what is as it was is not read again
            path.write_text(text, encoding="utf-8")


def write_all(_app: Sphinx) -> None:
    """Write every generated page below docs/reference."""
    reference = ROOT / "docs" / "reference"
    write(reference / "api", api_pages.pages(ROOT), "Every module")
    write(reference / "commands", command_pages.pages(), "Commands")
    write(reference / "front_door", {"index": api_pages.front_door()}, None)
    write(reference / "messages", {"index": messages.page(api_pages.modules(ROOT))}, None)


def as_written(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Let stars and bars of a docstring stand for themselves: none of ours marks anything by them."""
    lines[:] = [_MARKS.sub(lambda match: match[1] or f"\\{match[2]}", line) for line in lines]


def report_gaps(_app: Sphinx, environment: BuildEnvironment) -> None:
    """Warn, which fails the build, of every public name that no page has."""
    domain = environment.domains["py"].data
    for name in api_pages.missing(api_pages.modules(ROOT), {*domain["objects"], *domain["modules"]}):
        _LOG.warning("the reference lacks %s; give it a docstring", name)


class RememberingDomain(PythonDomain):
    """The domain of Python, which looks a name up among all others once: signatures repeat their types."""

    def find_obj(self, env: BuildEnvironment, *asked: Any, **options: Any) -> list[tuple[str, ObjectEntry]]:
        """Return the objects of a name, as the domain does."""
        key = (asked, tuple(options.items()), len(self.objects))
        if key not in self._remembered:
            self._remembered[key] = super().find_obj(env, *asked, **options)
        return self._remembered[key]

    @cached_property
    def _remembered(self) -> dict[Any, list[tuple[str, ObjectEntry]]]:
        return {}


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Let a name of the API between backticks, or the path of a module, lead to where the reference has it."""
    domain = app.env.domains["py"]
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        name = text.removesuffix(".py").replace("/", ".") if text.endswith(".py") else text
        role = "mod" if name in domain.data["modules"] else "obj"
        if isinstance(literal.parent, nodes.reference) or name.split(".")[0] not in api_pages.PACKAGES:
            continue
        reference = pending_xref("", refdomain="py", reftype=role, reftarget=name, refexplicit=True)
        found = domain.resolve_xref(app.env, page, app.builder, role, name, reference, literal.deepcopy())
        if found is not None:
            literal.replace_self(found)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what Sphinx calls."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    app.add_domain(RememberingDomain, override=True)
    app.connect("builder-inited", write_all)
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before napoleon, which has marks of its own
    app.connect("env-check-consistency", report_gaps)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
