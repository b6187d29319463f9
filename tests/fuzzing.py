"""A file that the command reads, changed as no program would change it, and what the command must then do."""

import gzip
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from command_line import Result, run
from hypothesis import Phase
from hypothesis import strategies as st
from mutations import byte_files

COUNT = int(os.environ.get("ABSCERT_FUZZ", "10"))
"""Changes of each file: `ABSCERT_FUZZ=1000` tries as many, `--hypothesis-profile default` others each time."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A command takes too long for a change to be made smaller."""
PUT = ("whole", "missing", "a folder", "a circle of links")
_LONGEST = 1000  # characters of an error's line
Changes: TypeAlias = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass(frozen=True)
class Reader:
    """A file and the commands that read it.

    Args:
        file: its path in the folder of all files; the first part of it is the folder that is copied for each change.
        changes: what it is changed into.
        commands: their arguments; HERE is the copy, HOME the folder of all files.
    """

    file: str
    changes: Changes
    commands: Sequence[Sequence[object]]

    def __str__(self) -> str:
        return self.file

    def check_changed(self, home: Path, data: st.DataObject) -> None:
        """Run one of the commands on a change of the file."""
        content = data.draw(self.changes((home / self.file).read_bytes()))
        self._run(home, data.draw(st.sampled_from(self.commands)), lambda path: path.write_bytes(content))

    def check_put(self, home: Path, what: str) -> None:
        """Run the commands with one of PUT in the place of the file."""

        def put(path: Path) -> None:
            if what != "whole":
                path.unlink()
            if what == "a folder":
                path.mkdir()
            if what == "a circle of links":
                path.symlink_to(path)

        for command in self.commands:
            result = self._run(home, command, put)
            assert what != "whole" or result.status == 0, result

    def _run(self, home: Path, command: Sequence[object], damage: Callable[[Path], object]) -> Result:
        """Run a command with the file damaged, and assert that it says what is wrong in one line."""
        folder, _, name = self.file.partition("/")
        with TemporaryDirectory(dir=home.parent) as place:
            here = Path(place) / "copy"
            shutil.copytree(home / folder, here)
            damage(here / name)
            words = [str(word).replace("HERE", str(here)).replace("HOME", str(home)) for word in command]
            result = run(*words)
        told = (words, result)
        assert result.status in (0, 1, 2), told
        assert "Traceback" not in result.out + result.err, told
        faults = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(faults) == (result.status == 2), told
        assert all(len(line) < _LONGEST for line in result.err.splitlines()), told
        return result


def packed(changes: Changes) -> Changes:
    """Return changes of what a gzip file holds, and of its own bytes."""
    return lambda content: st.one_of(changes(gzip.decompress(content)).map(gzip.compress), byte_files(content))
