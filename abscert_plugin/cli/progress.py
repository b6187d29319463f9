"""How far a command is: a bar in a terminal, plain lines now and then elsewhere; rate and time left in both."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from abscert_plugin.cli.console import LOG
from abscert_plugin.report.figures import duration
from abscert_plugin.telling import Tell

FIRST_SECONDS: Final = 5.0
"""After so long the first plain line is written: what takes less says nothing."""
_LEAST_SECONDS, _MOST_SECONDS, _SHARE = 10.0, 60.0, 0.1  # between two lines: a tenth of the time so far
_MEMORY: Final = 300.0  # seconds of which the rate is the mean
_ROUND: Final = 100  # a rate from here on has no decimals


def new_bar() -> Progress:
    """Return a bar on stderr that leaves nothing behind; where there is no terminal it only counts."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        _PaceColumn(),
        TextColumn("{task.fields[note]}"),
        console=LOG,
        transient=True,
        disable=not LOG.is_terminal,
        speed_estimate_period=_MEMORY,
    )


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on stderr, or plain lines in a log, while it lasts.

    Tasks need the field `note`, which may be empty; one without a total shows how long it has taken. The field `until`
    is when its time is up, by the bar's clock.
    """
    bar = new_bar()
    if LOG.is_terminal:
        with bar:
            yield bar
        return
    with plain_lines(lambda: lines_of(bar)):
        yield bar


@contextmanager
def working(title: str) -> Iterator[None]:
    """Show that something is done whose steps are not counted, and how long it has taken."""
    with progress_bar() as bar:
        bar.add_task(title, total=None, note="")
        yield


@contextmanager
def telling(title: str, until: float | None = None) -> Iterator[Tell]:
    """Show work that tells what it does one after the other, and how far it is with that.

    Args:
        title: of all of it.
        until: when its time is up, by `time.monotonic`; None where it has no limit.
    """
    with progress_bar() as bar:
        whole = bar.add_task(title, total=None, note="", until=until)  # shown while nothing is counted
        steps: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int | None, note: str = "") -> None:
            if what not in steps:
                for task in steps.values():
                    bar.update(task, visible=False)
                steps[what] = bar.add_task(f"{title}, {what}", total=total, completed=done, note="", until=until)
            goes_on = total is None or done < total
            bar.update(steps[what], completed=done, note=note, visible=goes_on)
            bar.update(whole, visible=not goes_on)

        yield tell


@contextmanager
def plain_lines(lines: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Write what `lines` returns to stderr after five seconds, and then every ten seconds to every minute.

    A thread does it, so that a step that takes long is not silent.
    """
    ended = threading.Event()
    start = time.monotonic()

    def write() -> None:
        wait = FIRST_SECONDS
        while not ended.wait(wait):
            for line in lines():
                LOG.print(line, highlight=False, soft_wrap=True)
            wait = min(max(_SHARE * (time.monotonic() - start), _LEAST_SECONDS), _MOST_SECONDS)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def lines_of(bar: Progress) -> list[str]:
    """Return what a bar shows and that goes on, a plain line each."""
    return [line_of(task) for task in bar.tasks if task.visible and not task.finished]


def line_of(task: Task) -> str:
    """Return a task as one plain line."""
    return ", ".join(part for part in (f"{task.description}: {pace(task)}", str(task.fields["note"]).strip()) if part)


def pace(task: Task) -> str:
    """Return how far a task is, its rate and the time left, as far as they are known."""
    if task.total is not None:
        parts = [f"{task.completed:,.0f} of {task.total:,.0f}"]
    elif task.completed:
        parts = [f"{task.completed:,.0f} so far"]
    else:
        parts = [f"{duration(task.elapsed or 0.0)} so far"]
    if task.speed:
        parts.append(_rate(task.speed))
        if task.remaining:
            parts.append(f"{duration(task.remaining / task.speed)} left")
    if (until := task.fields.get("until")) is not None:
        parts.append(f"at most {duration(max(until - task.get_time(), 0.0))} left")
    return ", ".join(parts)


def _rate(speed: float) -> str:
    if speed >= 1:
        return f"{speed:,.0f}/s" if speed >= _ROUND else f"{speed:.1f}/s"
    return f"{duration(1 / speed)} each"


@final
class _PaceColumn(ProgressColumn):
    """How far, how fast and how long still."""

    def render(self, task: Task) -> Text:
        return Text(pace(task), style="progress.percentage")


@final
class ProgressObserver:
    """Shows a training as a progress bar, and a line for each epoch: loss, errors, images a second, time left.

    Args:
        bar: where.
        title: of the training.
        claim: what the validation error is of, with its radius.
    """

    def __init__(self, bar: Progress, title: str, claim: str = "cell") -> None:
        self._bar = bar
        self._claim = claim
        self._title = title
        self._task: TaskID | None = None
        self._loss = self._error = ""
        self._best: tuple[float, int] | None = None

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task(self._title, total=total_steps, completed=steps_done, note="")

    def on_step(self, images: int, loss: float | None) -> None:  # noqa: ARG002 - steps are counted, not images
        """Advance the bar."""
        if self._task is None:
            return
        if loss is not None:
            self._loss = f"loss {loss:.4f}"
        self._bar.update(self._task, advance=1, note=f"{self._loss} {self._error}")

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Print the epoch's row above the bar, with the best so far."""
        error, epoch = row["validation_error"], row["epoch"]
        if self._best is None or error < self._best[0]:
            self._best = error, epoch
        self._error = f"validation error ({self._claim}) {error:.2%}"
        best = "the best so far" if self._best[1] == epoch else f"best {self._best[0]:.2%} of epoch {self._best[1]}"
        LOG.print(
            f"epoch {epoch:>3}  loss {row['loss']:.4f}  {self._error}, {best}  {row['images_per_second']:,.0f} images/s"
            f"{self._left()}",
            highlight=False,
            soft_wrap=True,
        )

    def _left(self) -> str:
        task = next((task for task in self._bar.tasks if task.id == self._task), None)
        if task is None or not task.speed or not task.remaining:
            return ""
        return f"  {duration(task.remaining / task.speed)} left"
