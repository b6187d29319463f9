"""The folder of a model card: the card, and copies of the files that it is about."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from abscert_plugin.errors import ConfigError
from abscert_plugin.files import sha256_of, write_text, write_whole
from abscert_plugin.folders import renamed
from abscert_plugin.report.holdings import Holdings, OnnxFile
from abscert_plugin.report.model_card import CARD


def write_card(holdings: Holdings, text: str, folder: Path) -> tuple[Path, Path | None]:
    """Write a card with its files; a former card is renamed, and no other file is changed.

    Args:
        holdings: what the card is about.
        text: the card.
        folder: where it goes; made where it is not there.

    Returns:
        the card, and the new name of a former one; None where there was none, or the same.

    Raises:
        ConfigError: if two files have one name, or the folder holds another file of such a name.
        RecordError: if a file cannot be read or written.
    """
    wanted = _wanted(holdings)
    for name, source in wanted.items():
        target = folder / name
        if target.exists() and not _is_same(source, target):
            raise ConfigError(f"{target} is another file than {source}; choose another --out")
    for name, source in wanted.items():
        if not (folder / name).exists():
            _copy(source, folder / name)
    path = folder / CARD
    if not path.exists():
        write_text(path, text)
        return path, None
    if path.is_file() and path.read_bytes() == text.encode():
        return path, None
    former = renamed(path)
    write_text(path, text)
    return path, former


def _wanted(holdings: Holdings) -> dict[str, Path]:
    """Return the files to copy, by their names in the folder."""
    certificates = (one.certificate for one in holdings.verified)
    pairs = [
        *_parts(holdings.model),
        *(_parts(holdings.guard.file) if holdings.guard is not None else ()),
        *((one.name, one) for one in certificates if one is not None),
    ]
    wanted: dict[str, Path] = {}
    for name, source in pairs:
        if (name in wanted and not _is_same(wanted[name], source)) or name == CARD:
            raise ConfigError(f"expected files of different names, got {name} twice; rename {source}")
        wanted[name] = source
    return wanted


def _parts(file: OnnxFile) -> Iterator[tuple[str, Path]]:
    yield file.path.name, file.path
    yield from ((name, file.path.parent / name) for name in file.beside)


def _is_same(one: Path, other: Path) -> bool:
    return one.samefile(other) or (one.is_file() and other.is_file() and sha256_of([one]) == sha256_of([other]))


def _copy(source: Path, target: Path) -> None:
    write_whole(target, lambda part: shutil.copyfile(source, part))
