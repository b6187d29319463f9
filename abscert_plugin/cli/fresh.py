"""`--fresh`: a former run is put aside before a new one is begun in its folder."""

from pathlib import Path

from abscert_plugin.cli.console import say
from abscert_plugin.errors import RecordError
from abscert_plugin.folders import set_aside
from abscert_plugin.records import CHECKPOINT


def put_aside(folder: Path, *needed: Path) -> None:
    """Rename a folder that holds a former run, and say so; nothing where there is none.

    Args:
        folder: the folder that the new run is written in.
        needed: files of the new run, which have to stay where they are.

    Raises:
        RecordError: if one of these files or a training lies in it, it cannot be renamed, or another process is at
            work in it.
    """
    for path in (*needed, folder / CHECKPOINT):
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise RecordError(
                f"{folder} holds {path.name}, which --fresh would put aside with it; choose another --out"
            )
    if (former := set_aside(folder)) is not None:
        say(f"renamed the former run to {former}")
