"""Folders of runs: held by one process, put aside for a fresh run, and told in one line that they cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from abscert_plugin.errors import AbscertError, RecordError
from abscert_plugin.files import LOCK, locked
from abscert_plugin.wording import plain_words

_PROBE: Final = ".writable"
_ANOTHER_OUT: Final = "choose another --out"


@contextmanager
def writing_in(folder: Path, error: type[AbscertError] = RecordError, advice: str = _ANOTHER_OUT) -> Iterator[None]:
    """Say in one line that a folder cannot be written in, where the system does so meanwhile.

    Args:
        folder: the folder, for the message.
        error: what is raised.
        advice: what the error tells the user to change.

    Raises:
        AbscertError: of the type `error`.
    """
    try:
        yield
    except OSError as fault:
        raise error(f"cannot write in {folder}: {fault.strerror}; {advice}") from fault


def try_to_write(folder: Path) -> None:
    """Write an empty file into a folder that is there, and remove it.

    Raises:
        OSError: if that cannot be done.
    """
    probe = folder / _PROBE
    probe.touch()
    probe.unlink()


def set_aside(folder: Path) -> Path | None:
    """Rename a folder that holds a run, so that a fresh one can be written; nothing is deleted.

    Returns:
        the new name, or None where there was nothing.

    Raises:
        RecordError: if it cannot be renamed, or another process is at work in it.
    """
    if not folder.exists():
        return None
    with alone_in(folder):
        target = renamed(folder)
        with writing_in(target):
            (target / LOCK).unlink(missing_ok=True)
    return target


def renamed(path: Path) -> Path:
    """Give a file or folder the first name with .old-1, .old-2, ... that is free, and return it.

    Raises:
        RecordError: if it cannot be renamed.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    try:
        return path.rename(target)
    except OSError as error:
        raise RecordError(f"cannot rename {path}: {error.strerror}; {_ANOTHER_OUT}") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is not there, so that no other process writes a run into it meanwhile.

    Raises:
        RecordError: if another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make the folder {folder}: {plain_words(error)}; {_ANOTHER_OUT}") from error
    message = f"another process is at work in {folder}; wait for it, or {_ANOTHER_OUT}"
    with locked(folder / LOCK, message, is_kept=False):
        yield
