"""A file that the command reads, changed as no program would change it, and what the command must then do."""

import gzip
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pytest
from command_line import abscert, run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mutations import byte_files

COUNT = int(os.environ.get("ABSCERT_FUZZ", "10"))
"""Changes of each file: `ABSCERT_FUZZ=1000` tries as many, `--hypothesis-profile default` others each time."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A command takes too long for a change to be made smaller."""
PUT = ("missing", "a folder", "a circle of links", *(("a pipe",) if hasattr(os, "mkfifo") else ()))
_LONGEST = 1000  # characters of an error's line
Test: TypeAlias = Callable[..., None]
Changes: TypeAlias = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass(frozen=True)
class Reader:
    """A file and the commands that read it.

    Args:
        file: its path in the folder of all files; the first part of it is the folder that is copied for each change.
        changes: what it is changed into.
        commands: their arguments; HERE is the copy, HOME the folder of all files.
        holds: asserts, in the copy, that what a command made of a change that it took is right.
    """

    file: str
    changes: Changes
    commands: Sequence[Sequence[object]]
    holds: Callable[[Path], None] = lambda here: None

    def __str__(self) -> str:
        return self.file

    def check_changed(self, home: Path, data: st.DataObject) -> None:
        """Run one of the commands on a change of the file."""
        content = data.draw(self.changes((home / self.file).read_bytes()))
        self._run(home, data.draw(st.sampled_from(self.commands)), lambda path: path.write_bytes(content))

    def check_put(self, home: Path, what: str) -> None:
        """Run the commands with one of PUT in the place of the file."""

        def put(path: Path) -> None:
            path.unlink()
            if what == "a folder":
                path.mkdir()
            if what == "a circle of links":
                path.symlink_to(path)
            if what == "a pipe":  # to read it would wait for ever
                os.mkfifo(path)

        for command in self.commands:
            self._run(home, command, put)

    def _run(self, home: Path, command: Sequence[object], damage: Callable[[Path], object]) -> None:
        """Run a command with the file damaged, and assert that it says what is wrong in one line."""
        with _copied(self.file, home) as here:
            damage(here / self.file.partition("/")[2])
            words = _words(command, here, home)
            result = run(*words)
            if result.status == 0:
                self.holds(here)
        told = (words, result)
        assert result.status in (0, 1, 2), told
        assert "Traceback" not in result.out + result.err, told
        faults = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(faults) == (result.status == 2), told
        assert all(len(line) < _LONGEST for line in result.err.splitlines()), told


def fuzz(readers: Sequence[Reader]) -> tuple[Test, Test, Test]:
    """Return the tests of a module: of changed files, of what else stands in their place, and of whole ones.

    The module has a fixture `home`, the folder with all that its readers read.
    """

    @pytest.mark.slow
    @pytest.mark.parametrize("reader", readers, ids=str)
    @settings(max_examples=COUNT, phases=PHASES)
    @given(data=st.data())
    def changed(home: Path, reader: Reader, data: st.DataObject) -> None:
        reader.check_changed(home, data)

    @pytest.mark.slow
    @pytest.mark.parametrize("reader", readers, ids=str)
    @pytest.mark.parametrize("what", PUT)
    @pytest.mark.timeout(120)
    def put(home: Path, reader: Reader, what: str) -> None:
        reader.check_put(home, what)

    def whole(home: Path) -> None:
        taken = {
            (reader.file.partition("/")[0], command) for reader in readers for command in map(tuple, reader.commands)
        }
        for folder, command in sorted(taken, key=str):
            with _copied(folder, home) as here:
                abscert(*_words(command, here, home))

    return changed, put, whole


@contextmanager
def _copied(file: str, home: Path) -> Iterator[Path]:
    """Yield a copy of the folder of a file."""
    with TemporaryDirectory(dir=home.parent) as place:
        yield Path(shutil.copytree(home / file.partition("/")[0], Path(place) / "copy"))


def _words(command: Sequence[object], here: Path, home: Path) -> list[str]:
    return [str(word).replace("HERE", str(here)).replace("HOME", str(home)) for word in command]


def packed(changes: Changes) -> Changes:
    """Return changes of what a gzip file holds, and of its own bytes."""
    return lambda content: st.one_of(changes(gzip.decompress(content)).map(gzip.compress), byte_files(content))
