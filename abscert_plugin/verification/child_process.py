"""Running another program for a limited time: what it started ends with it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from abscert_plugin.errors import VerifierError
from abscert_plugin.wording import plain_words

MOST_BYTES: Final = 2**26
"""That a program may print: an input of an ImageNet network takes 5 MB."""

_ERROR: Final = re.compile(r"[\w.]+(Error|Exception)\b")  # where a Python traceback ends; some have no words
_LOOK_EVERY: Final = 0.02  # seconds
_SHOWN: Final = 200  # characters of what it printed last


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status, negative where a signal ended it, and what it printed."""

    status: int
    out: str
    errors: str

    @property
    def last_words(self) -> str:
        """What it said last of an error, or its last line, on stderr if there is one there, cut short."""
        lines = [line.strip() for text in (self.errors, self.out) for line in text.splitlines()[::-1]]
        lines = [line for line in lines if line.strip("^~ ")]
        if not lines:
            return "it printed nothing"
        place = next((place for place, line in enumerate(lines) if _ERROR.match(line)), 0)
        is_bare = _ERROR.fullmatch(lines[place]) and place + 1 < len(lines)
        return f"{lines[place]} at {lines[place + 1]}"[:_SHOWN] if is_bare else lines[place][:_SHOWN]


def run_within(command: Sequence[str], folder: Path, seconds: float) -> Ended:
    """Run a program in a folder, with no input, and return how it ended.

    It leads a process group of its own, which is killed as a whole when its time is up, when it prints without end,
    when it ends and has left processes behind, and when this process is interrupted.

    Args:
        command: the program and its arguments.
        folder: its working folder; what it prints is kept there too.
        seconds: that it may take.

    Raises:
        VerifierError: if it cannot be started, or was stopped.
    """
    files = [folder / ".stdout", folder / ".stderr"]
    with files[0].open("wb") as out, files[1].open("wb") as errors:
        try:
            child = subprocess.Popen(  # noqa: S603 - the user named the program
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, cwd=folder, start_new_session=True
            )
        except (OSError, ValueError) as error:
            fault = plain_words(error) if isinstance(error, OSError) else str(error)
            raise VerifierError(f"{command[0]} cannot be started: {fault}") from error
        try:
            _wait(child, files, seconds)
        finally:
            _kill_group(child)
    if child.returncode is None or child.returncode == -signal.SIGKILL:
        raise VerifierError("it was killed")
    return Ended(child.returncode, *(file.read_text(encoding="utf-8", errors="replace") for file in files))


def _wait(child: subprocess.Popen[bytes], files: Sequence[Path], seconds: float) -> None:
    end = time.monotonic() + seconds
    while child.poll() is None:
        if time.monotonic() >= end:
            raise VerifierError(f"it did not end within {seconds:g} s and was killed")
        if any(file.stat().st_size > MOST_BYTES for file in files):
            raise VerifierError(f"it printed more than {MOST_BYTES:,} bytes and was killed")
        with suppress(subprocess.TimeoutExpired):
            child.wait(min(_LOOK_EVERY, max(0.0, end - time.monotonic())))


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the group ended with its last process
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
