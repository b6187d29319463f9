"""Folders that cannot be written in: told in one line, before any work is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from abscert_plugin.errors import AbscertError, RecordError

_PROBE: Final = ".writable"


@contextmanager
def writing_in(
    folder: Path, error: type[AbscertError] = RecordError, advice: str = "choose another --out"
) -> Iterator[None]:
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
