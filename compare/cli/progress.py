"""How far a plan is: a bar with what is at work, done and failed, and under it what the runs at work are at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from abscert_plugin.cli.console import LOG
from abscert_plugin.cli.progress import line_of, new_bar, plain_lines
from abscert_plugin.errors import RecordError
from compare.results.stored_run import State, StoredRun

_LINES: Final = 6  # runs that are shown at once: those that got on last


@final
class PlanProgress:
    """What is shown of a plan while it is carried out.

    Args:
        total: how many runs it has.
    """

    def __init__(self, total: int) -> None:
        self._bar = new_bar()
        self._task = self._bar.add_task("runs", total=total, note="")
        self._ended = dict.fromkeys((State.DONE, State.FAILED), 0)
        self._at_work: dict[str, str] = {}  # what each run is at, by its key; the newest last

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
        unchanged = {key: note for key, note in self._at_work.items() if notes.get(key) == note}
        self._at_work = unchanged | {key: note for key, note in notes.items() if key not in unchanged}
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
        newest = list(reversed(self._at_work.values()))
        if len(newest) <= _LINES:
            return newest
        return [*newest[: _LINES - 1], f"and {len(newest) - _LINES + 1} more"]


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
