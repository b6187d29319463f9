"""The build backend: setuptools on a copy of this folder, into which auto_LiRPA's code comes out of its own wheel.

It makes wheels alone (`python -m build --wheel`): a source distribution would be this folder.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta

__all__ = [
    "build_wheel",
    "prepare_metadata_for_build_wheel",
]

WHEEL = "auto-LiRPA==0.3 --hash=sha256:66266cba1b54d6783cfbe79d48ecff8f1468d508d748468f1896854ad07ddec9"


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,  # noqa: ARG001 - it is written once more, with the same content
) -> str:
    """Write the wheel, with auto_LiRPA's code and licence, into a folder and return its name."""
    into = Path(wheel_directory).resolve()
    with _copy() as tree:
        _unpack(tree)
        name = str(build_meta.build_wheel(str(into), config_settings))
    _level(into / name)
    return name


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Write the metadata, for which no code is needed, into a folder and return the name of theirs."""
    into = Path(metadata_directory).resolve()
    with _copy():
        return str(build_meta.prepare_metadata_for_build_wheel(str(into), config_settings))


@contextmanager
def _copy() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("LICENSE", "README.md", "pyproject.toml"):
            shutil.copyfile(name, tree / name)
        shutil.copytree("abscert_lirpa", tree / "abscert_lirpa", ignore=shutil.ignore_patterns("__pycache__"))
        with chdir(tree):
            yield tree


def _unpack(tree: Path) -> None:
    """Take auto_LiRPA's wheel from the index that pip is set to; its checksum is pip's affair."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(WHEEL, encoding="utf-8")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
        options = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(wanted))
        subprocess.run([*pip, *options, "--dest", folder], check=True)
        (found,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(found) as wheel:
            for name in wheel.namelist():
                if name.startswith("auto_LiRPA/") and name.endswith(".py"):
                    wheel.extract(name, tree / "abscert_lirpa")
            (licence,) = (name for name in wheel.namelist() if name.endswith(".dist-info/LICENSE"))
            (tree / "LICENSE-auto_LiRPA").write_bytes(wheel.read(licence))


def _level(wheel: Path) -> None:
    """Write a wheel anew, with one mode and date for all of its files, so that two builds give the same bytes."""
    with zipfile.ZipFile(wheel) as made:
        content = {name: made.read(name) for name in made.namelist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(entry, data)
