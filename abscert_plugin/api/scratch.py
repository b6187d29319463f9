"""A temporary folder that lasts as long as the result whose files it holds."""

import shutil
import tempfile
import weakref
from os import PathLike
from pathlib import Path
from typing import final


@final
class Scratch:
    """A folder that was named, or else a temporary one, which goes with this object.

    Args:
        named: the folder; None for a temporary one.
    """

    def __init__(self, named: str | PathLike[str] | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="abscert-") if named is None else named)
        if named is None:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
