"""How far a plan is: a bar with what is at work, done and failed, and under it what the runs at work are at."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from abscert_plugin.cli.console import LOG
from abscert_plugin.cli.progress import line_of, new_bar, plain_lines
from abscert_plugin.errors import RecordError
from abscert_plugin.report.figures import rough_duration
from compare.results.stored_run import State, StoredRun

_LINES: Final = 6  # runs that are shown at once: those that got on last
_LONG: Final = 60.0  # seconds; what goes on for longer is shown with its time: a log says something new


@final
class PlanProgress:
    """What is shown of a plan while it is carried out.

    Args:
        total: how many runs it has.
        clock: tells the time, in seconds.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar = new_bar()
        self._task = self._bar.add_task("runs", total=total, note="")
        self._ended = dict.fromkeys((State.DONE, State.FAILED), 0)
        self._at_work: dict[str, tuple[str, float]] = {}  # what each run is at, and since when; the newest last

    def on_end(self, stored: StoredRun) -> None:
        """Say how a run has ended."""
        state, reason = stored.state, stored.reason
        LOG.print(f"{state}: {stored.run.title}{f': {reason}' if reason else ''}", highlight=False, soft_wrap=True)
        self._ended[state] += 1
        self._at_work.pop(stored.run.key, None)
        self._bar.update(self._task, advance=1, note=self.counts)

    def on_progress(self, at_work: Sequence[StoredRun]) -> None:
        """Show what the runs at work are at."""
        notes = {stored.run.key: _note(stored) for stored in at_work}
        now = self._clock()
        unchanged = {key: since for key, since in self._at_work.items() if notes.get(key) == since[0]}
        self._at_work = unchanged | {key: (note, now) for key, note in notes.items() if key not in unchanged}
        self._bar.update(self._task, note=self.counts)

    @property
    def counts(self) -> str:
        """How many runs are at work, done and failed."""
        ended = [f"{count} {state}" for state, count in self._ended.items() if count]
        return ", ".join([f"{len(self._at_work)} at work", *ended])

    @property
    def lines(self) -> list[str]:
        """The bar and what the runs at work are at, as plain lines."""
        return [*map(line_of, self._bar.tasks), *(f"    {line}" for line in self._newest)]

    def __rich__(self) -> Group:
        return Group(self._bar, *(Text(f"    {line}", no_wrap=True, overflow="ellipsis") for line in self._newest))

    @property
    def _newest(self) -> list[str]:
        newest = [self._line(*note) for note in reversed(self._at_work.values())]
        if len(newest) <= _LINES:
            return newest
        return [*newest[: _LINES - 1], f"and {len(newest) - _LINES + 1} more"]

    def _line(self, note: str, since: float) -> str:
        seconds = self._clock() - since
        return note if seconds < _LONG else f"{note}, for {rough_duration(seconds)} now"


@contextmanager
def plan_progress(total: int) -> Iterator[PlanProgress]:
    """Show the progress of a plan of so many runs on stderr; a log gets plain lines, and one for each run that ends."""
    progress = PlanProgress(total)
    if not LOG.is_terminal:
        with plain_lines(lambda: progress.lines):
            yield progress
        return
    with Live(progress, console=LOG, transient=True):
        yield progress


def _note(stored: StoredRun) -> str:
    with suppress(OSError, RecordError):  # a node of a cluster may be writing the file
        return f"{stored.run.title}: {stored.progress}"
    return stored.run.title
