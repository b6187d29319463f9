"""Sphinx's configuration: `make docs` writes docs/_build/html, and a warning fails it."""

import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "building")]

project = "abscert-plugin"
copyright = "2026, the authors of abscert-plugin"  # noqa: A001 - Sphinx's own name for it
release = metadata.version("abscert-plugin")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages"]  # pages: docs/building/pages.py
exclude_patterns = ["_build", "building"]
html_theme = "furo"
html_title = f"{project} {release}"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
smartquotes = False  # which would make a dash of the two of an option
default_role = "code"  # docstrings write names between single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Soundness", "Source"]
autodoc_member_order = "bysource"
maximum_signature_line_length = 100
toc_object_entries = False  # the tree of contents is copied for every page, and grew with every name
suppress_warnings = ["ref.python"]  # a type that is named in a docstring, and that two modules have


def _link_readme(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Let links to the README, which is no page, lead to the first page."""
    source[0] = source[0].replace("](../README.md)", "](index.md)")


def setup(app: Sphinx) -> None:
    """Register what Sphinx calls."""
    app.connect("source-read", _link_readme)
