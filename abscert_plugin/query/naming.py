"""How files of queries are called: what the command line asks before anything heavy is imported."""

from pathlib import Path
from typing import Final

SUFFIXES: Final = (".vnnlib", ".vnnlib.gz")


def is_query(path: Path) -> bool:
    """Return whether a file is a query, by its name."""
    return path.name.lower().endswith(SUFFIXES)
