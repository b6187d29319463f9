"""The build backend: setuptools on a copy of this tree, in which names and links are those of an installed package.

In the tree, `baselines` and `compare` lie beside `abscert_plugin`. The package index has packages of these names
too, and whichever is installed last would overwrite the other: so a wheel has ours as `abscert_plugin.baselines` and
`abscert_plugin.compare`. Only imports and entry points name them, and those are written anew in the copy. The README
becomes the text of an index's page, where a path of this tree leads nowhere.

Every file gets mode 0644 and one date, so that the tree and its source distribution give the same wheel, byte for byte.
An editable installation is left to setuptools: it has the names of the tree.
"""

import calendar
import gzip
import io
import re
import shutil
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import build_editable, get_requires_for_build_editable, prepare_metadata_for_build_editable

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

OURS = "abscert_plugin"
MOVED = ("baselines", "compare")
PACKAGED = (OURS, "LICENSE", "README.md", "pyproject.toml")
SHIPPED = (
    *PACKAGED,
    *MOVED,
    ".ci",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "Makefile",
    "adapters",
    "benchmarks",
    "docs",
    "examples",
    "requirements-lirpa.txt",
    "requirements.txt",
    "shipping",
    "tests",
    "vnncomp",
)
"""What a source distribution holds: all that its tests need."""
LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info", "_build", "build", "dist", ".*_cache", ".hypothesis", "PKG-INFO")
GENERATED = tuple(f"docs/reference/{part}" for part in ("api", "commands", "front_door", "messages"))  # by make docs
DATE = (2020, 1, 1, 0, 0, 0)
SECONDS = calendar.timegm(DATE)
MODE = 0o100644  # of a file that everyone may read

_NAMES = "|".join(MOVED)
_IMPORT_FROM = re.compile(rf"^(\s*(?:>>> )?from )({_NAMES})(?=(?:\.[\w.]+)? import )", re.MULTILINE)
_IMPORT_NAME = re.compile(rf"^\s*(?:>>> )?import (?:[\w.]+, )*({_NAMES})\b", re.MULTILINE)
_ENTRY_POINT = re.compile(rf'^([\w-]+ = ")({_NAMES})(?=[.:])', re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^][]*)\]\((?![a-z]+:)([^()\s]+)\)")


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,  # noqa: ARG001 - it is written once more, with the same content
) -> str:
    """Write a wheel into a folder and return its name."""
    into = Path(wheel_directory).resolve()
    with _installed_tree():
        name = str(build_meta.build_wheel(str(into), config_settings))
    _level(into / name)
    return name


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Write a wheel's metadata into a folder and return the name of their folder."""
    into = Path(metadata_directory).resolve()
    with _installed_tree():
        return str(build_meta.prepare_metadata_for_build_wheel(str(into), config_settings))


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Write a source distribution into a folder and return its name: the tree as it is, and PKG-INFO."""
    into = Path(sdist_directory).resolve()
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = f"{project['name'].replace('-', '_')}-{project['version']}"
    with tempfile.TemporaryDirectory() as folder:
        tree = _copied(SHIPPED, Path(folder) / "tree")
        info = prepare_metadata_for_build_wheel(folder, config_settings)
        shutil.copyfile(Path(folder) / info / "METADATA", tree / "PKG-INFO")
        _pack(tree, name, into / f"{name}.tar.gz")
    return f"{name}.tar.gz"


@contextmanager
def _installed_tree() -> Iterator[None]:
    """Go into a copy of what is packaged, with the names and links of an installed package."""
    with tempfile.TemporaryDirectory() as folder:
        tree = _copied(PACKAGED, Path(folder) / "tree")
        for package in MOVED:
            if (tree / OURS / package).exists():
                raise SystemExit(f"error: {OURS}/{package} is in the way of the package {package}")
            shutil.copytree(package, tree / OURS / package, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for path in sorted((tree / OURS).rglob("*.py")):
            _rewrite(path, _below_ours)
        _rewrite(tree / "pyproject.toml", lambda text: _ENTRY_POINT.sub(rf"\1{OURS}.\2", text))
        _rewrite(tree / "README.md", _page_of_an_index)
        with chdir(tree):
            yield


def _copied(names: tuple[str, ...], into: Path) -> Path:
    into.mkdir()
    for name in names:
        if Path(name).is_dir():
            shutil.copytree(name, into / name, ignore=_left_out)
        else:
            shutil.copyfile(name, into / name)
    return into


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Return what of a folder is not shipped; while it is copied, the documentation may be being written."""
    made = {name for name in names if (Path(folder) / name).as_posix() in GENERATED}
    return made | shutil.ignore_patterns(*LEFT_OUT)(folder, names)


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def _below_ours(text: str) -> str:
    """Return a module whose imports name the moved packages where a wheel has them."""
    named = _IMPORT_NAME.search(text)
    if named:
        raise SystemExit(
            f"error: expected `from {named[1]}... import ...`, got `{named[0].strip()}`: it cannot be moved"
        )
    return _IMPORT_FROM.sub(rf"\1{OURS}.\2", text)


def _page_of_an_index(text: str) -> str:
    """Return the README with absolute links, or with their text alone where pyproject.toml knows no address."""
    urls = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    home = urls.get("Source", "").rstrip("/")

    def lead(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        if not home:
            return "" if image else words
        place = f"README.md{target}" if target.startswith("#") else target
        return f"{image}[{words}]({home}/{'raw' if image else 'blob'}/HEAD/{place})"

    return _LINK.sub(lead, text)


def _level(wheel: Path) -> None:
    """Write a wheel anew, with one mode and date for all of its files."""
    with zipfile.ZipFile(wheel) as made:
        content = {name: made.read(name) for name in made.namelist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, MODE << 16
            archive.writestr(entry, data)


def _pack(tree: Path, name: str, into: Path) -> None:
    """Write a tree as .tar.gz: of no user, of one date."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = SECONDS
        entry.mode = 0o755 if entry.isdir() else MODE & 0o777
        return entry

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(tree, name, filter=plain)  # it sorts the names itself
    with gzip.GzipFile(into, "wb", mtime=SECONDS) as file:
        file.write(content.getvalue())
