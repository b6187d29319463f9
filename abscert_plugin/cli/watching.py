"""Who else watches trainings of the command line: the pages that `--watch` writes, and the loggers of `--log`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from abscert_plugin.cli.console import say
from abscert_plugin.errors import AbscertError
from abscert_plugin.files import write_text
from abscert_plugin.report.training_page import PAGE, TrainingContent, is_training, render_training
from abscert_plugin.report.tuning_page import TUNING_PAGE, TuningContent, render_tuning
from abscert_plugin.training.tuning_step import step_folder

if TYPE_CHECKING:
    from abscert_plugin.training.loggers import LoggerEntry
    from abscert_plugin.training.loop import Observer
    from abscert_plugin.training.run import RunSpec

_REFRESH: Final = 5  # seconds


@final
@dataclass(frozen=True, slots=True)
class Watchers:
    """What `--watch` and `--log` ask for.

    Args:
        page: whether the page is written.
        loggers: those that are told of each epoch; their libraries are there.
    """

    page: bool
    loggers: "tuple[LoggerEntry, ...]"

    @classmethod
    def asked(cls, watch: bool, log: Sequence[str]) -> "Watchers":
        """Return who is to watch.

        Raises:
            ConfigError: if there is no such logger, or its library is not installed.
        """
        from abscert_plugin.training.loggers import LOGGERS

        loggers = tuple(LOGGERS.named(name) for name in dict.fromkeys(log))
        for entry in loggers:
            entry.require()
        return cls(watch, loggers)

    @contextmanager
    def watching(self, folder: Path, spec: "RunSpec", first: "Observer") -> "Iterator[Observer]":
        """Yield an observer that tells `first` and all that were asked for; afterwards the page is written at rest."""
        from abscert_plugin.training.loggers import ObserverGroup, logging_to

        with ExitStack() as stack:
            logs = [stack.enter_context(logging_to(entry, folder, settings_of(spec))) for entry in self.loggers]
            if not self.page:
                yield ObserverGroup(first, *logs)
                return
            say(f"watch it: {folder / PAGE}")
            try:
                yield ObserverGroup(first, *logs, PageObserver(folder))
            finally:
                with suppress(AbscertError):  # of a training that did not begin, or a full disk: said already
                    write_training_page(folder, None)


@final
class PageObserver:
    """Writes a page after each epoch, from the checkpoint that is there by then.

    Args:
        folder: of the training, or of what it is a part of.
        write: the page of that folder, which the browser is to load again after so many seconds.
    """

    def __init__(self, folder: Path, write: "Callable[[Path, int | None], None] | None" = None) -> None:
        self._folder = folder
        self._write = write_training_page if write is None else write

    def on_start(self, total_steps: int, steps_done: int) -> None:  # noqa: ARG002 - the checkpoint says it
        """Write the page of what is there."""
        self._write(self._folder, _REFRESH)

    def on_step(self, images: int, loss: float | None) -> None:
        """Do nothing."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:  # noqa: ARG002 - the checkpoint holds it
        """Write the page anew."""
        self._write(self._folder, _REFRESH)


def write_training_page(folder: Path, refresh: int | None) -> None:
    """Write a training's page into its folder, whole.

    Raises:
        RecordError: if the training cannot be read, or the page cannot be written.
    """
    if is_training(folder):
        content = TrainingContent.read(folder)
    else:
        content = TrainingContent(folder.resolve().name, {}, (), is_finished=False)
    again = None if content.is_finished else refresh
    write_text(folder / PAGE, render_training(content, again), "choose another --out", errors="replace")


@final
class TuningWatcher:
    """Watches each training of a tuning, and writes the tuning's page.

    Args:
        folder: of the tuning.
        page: whether pages are written.
    """

    def __init__(self, folder: Path, page: bool) -> None:
        self._folder = folder
        self._page = page

    def observer(self, cells: int, first: "Observer") -> "Observer":
        """Return an observer of the training with so many cells that tells `first` too."""
        from abscert_plugin.training.loggers import ObserverGroup

        if not self._page:
            return first
        step = PageObserver(step_folder(self._folder, cells))
        return ObserverGroup(first, step, PageObserver(self._folder, write_tuning_page))

    def on_step(self, cells: int) -> None:
        """Write the page of a training that has ended, and the tuning's."""
        if self._page:
            write_training_page(step_folder(self._folder, cells), None)
            write_tuning_page(self._folder, _REFRESH)


@contextmanager
def watching_tuning(folder: Path, page: bool) -> Iterator[TuningWatcher]:
    """Yield who watches a tuning; afterwards its pages are written at rest."""
    if page:
        say(f"watch it: {folder / TUNING_PAGE}")
    try:
        yield TuningWatcher(folder, page)
    finally:
        if page:
            with suppress(AbscertError):  # of a tuning that did not begin, or a full disk: said already
                for written in sorted(folder.glob(f"*/{PAGE}")):
                    write_training_page(written.parent, None)
                write_tuning_page(folder, None)


def write_tuning_page(folder: Path, refresh: int | None) -> None:
    """Write a tuning's page into its folder, whole.

    Raises:
        RecordError: if the tuning cannot be read, or the page cannot be written.
    """
    text = render_tuning(TuningContent.read(folder), refresh)
    write_text(folder / TUNING_PAGE, text, "choose another --out", errors="replace")


def settings_of(spec: "RunSpec") -> dict[str, Any]:
    """Return what is trained and how, by name, for a logger."""
    return {
        **{f"method.{name}": value for name, value in spec.method.describe().items()},
        "data": spec.data,
        "network": spec.network,
        "activation": str(spec.activation),
        "cells": None if spec.grid is None else spec.grid.cells,
        **spec.training.describe(),
    }
