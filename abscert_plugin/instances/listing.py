"""Lists of instances: a network, a query about it and a time-out a line, in a folder named as its category."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, final

from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.files import read_text

LIST: Final = "instances.csv"
PACKED: Final = ".gz"
_COLUMNS: Final = 3
_MOST: Final = 1_000_000  # seconds
_UNFIT: Final = re.compile(r"[^\w.+-]")  # in a file's name


@final
@dataclass(frozen=True, slots=True)
class Instance:
    """A network, and what is asked about it.

    Args:
        category: the name of the list's folder.
        network, query: the files, as the list names them, without .gz at their ends.
        network_file, query_file: where they are.
        timeout: seconds that may be spent.
    """

    category: str
    network: str
    query: str
    network_file: Path
    query_file: Path
    timeout: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from others."""
        return self.category, self.network, self.query

    @property
    def name(self) -> str:
        """Its name as part of a file's name, as the competition has it: that of the network, and that of the query."""
        return f"{_flat(self.network, '.onnx')}_{_flat(self.query, '.vnnlib')}"


def read_lists(paths: Sequence[Path], limit: int | None = None, timeout: float | None = None) -> list[Instance]:
    """Return the instances of some lists, in order; one that is listed twice is returned once.

    Args:
        paths: lists, or folders that hold one, or folders of such folders.
        limit: only the first so many of each list; None for all.
        timeout: seconds, in place of what the lists say.

    Raises:
        ConfigError: if there is no list, a line is none, a file is not there, or two lists have one category.
    """
    if timeout is not None:
        _check_seconds(timeout, "--timeout")
    if limit is not None and limit < 1:
        raise ConfigError(f"expected --limit of at least 1, got {limit}")
    found: dict[tuple[str, str, str], Instance] = {}
    for path in dict.fromkeys(place for given in paths for place in _lists_in(given)):
        for instance in _read_list(path, limit, timeout):
            other = found.setdefault(instance.key, instance)
            if (other.network_file, other.query_file) != (instance.network_file, instance.query_file):
                raise ConfigError(
                    f"{path} and another list are both of the category {instance.category}; run them into two folders"
                )
    return list(found.values())


def _lists_in(path: Path) -> list[Path]:
    """Return the lists that a path stands for."""
    if not path.is_dir():
        return [path]
    own = path / LIST
    found = [own] if own.is_file() else sorted(path.glob(f"*/{LIST}"))
    if not found:
        raise ConfigError(f"expected {LIST} in {path} or in folders of it, found none")
    return found


def _read_list(path: Path, limit: int | None, timeout: float | None) -> Iterator[Instance]:
    category = path.resolve().parent.name
    count = 0
    for place, words in lines_of(path, ConfigError):
        if count == limit:
            return
        if len(words) != _COLUMNS or not words[0] or not words[1]:
            raise ConfigError(f"{place}: expected a network, a query and seconds, got {','.join(words)[:120]!r}")
        seconds = _seconds(words[2], place) if timeout is None else timeout
        files = [_file(path.parent, word, place) for word in words[:2]]
        yield Instance(category, _unpacked(words[0]), _unpacked(words[1]), files[0], files[1], seconds)
        count += 1
    if not count:
        raise ConfigError(f"expected an instance in {path}, found none")


def lines_of(path: Path, error: type[AbscertError]) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of a file of values that commas separate which are not empty: where each is, and its values.

    Raises:
        AbscertError: of the type `error`, if it cannot be read, or is no such file.
    """
    number = 0
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path, error=error), newline=None)), start=1):
            words = [word.strip() for word in row]
            if any(words):
                yield f"{path}, line {number}", words
    except csv.Error as fault:
        raise error(f"{path}, line {number + 1}: {fault}") from fault


def is_there(path: Path) -> bool:
    """Return whether there is a file of a name, whatever stands in it."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds what none may
        return False


def _seconds(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return _check_seconds(value, place, text)


def _check_seconds(value: float, place: str, text: str = "") -> float:
    if not 0 < value <= _MOST:
        raise ConfigError(f"{place}: expected seconds above 0 and up to {_MOST:,}, got {text or value}")
    return value


def _file(folder: Path, name: str, place: str) -> Path:
    """Return a file of a list: as named, or packed, or unpacked."""
    for each in (name, name + PACKED, _unpacked(name)):
        if is_there(folder / each):
            return folder / each
    raise ConfigError(f"{place}: there is no file {folder / _unpacked(name)}, packed by gzip or not")


def _unpacked(name: str) -> str:
    return str(PurePosixPath(name.removesuffix(PACKED)))


def _flat(name: str, suffix: str) -> str:
    parts = PurePosixPath(name.removesuffix(suffix)).parts
    return _UNFIT.sub("_", "_".join(parts[1:] or parts))
