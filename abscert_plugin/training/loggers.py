"""Where a training's epochs are logged, through the libraries of others: TensorBoard, MLflow, and what packages add.

A package registers a `LoggerEntry` in the entry-point group `abscert.loggers`.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from abscert_plugin.errors import ConfigError
from abscert_plugin.files import read_text, write_text
from abscert_plugin.plugins import Registry
from abscert_plugin.training.loop import Observer, SilentObserver

EpochCallback: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Told of each epoch's row of the history: epoch, loss, validation_error, learning_rate, seconds, images_per_second."""

_RUN_ID: Final = "mlflow-run.txt"
_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class LoggerEntry:
    """A logger.

    Args:
        name: what `--log` calls it.
        library: what it logs by.
        module: what of that has to be there to import.
        install: what pip is to install where it is not.
        open: begins to log the training of a folder, given its settings by name, and ends it with the context; told
            of each epoch in between. A training that is resumed goes on in the same log.
    """

    name: str
    library: str
    module: str
    install: str
    open: Callable[[Path, Mapping[str, Any]], AbstractContextManager[EpochCallback]]

    def require(self) -> None:
        """Import its library.

        Raises:
            ConfigError: if that is not installed.
        """
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise ConfigError(
                f"--log {self.name} needs {self.library}, which is not installed; "
                f"install it with pip install '{self.install}'"
            ) from error


@contextmanager
def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Iterator[EpochCallback]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        table = "\n".join(
            ["| setting | value |", "|---|---|", *(f"| {name} | {settings[name]} |" for name in settings)]
        )
        writer.add_text("settings", table)

        def log(row: Mapping[str, Any]) -> None:
            for name, value in _numbers(row).items():
                writer.add_scalar(name, value, row["epoch"])
            writer.flush()

        yield log


@contextmanager
def _mlflow(folder: Path, settings: Mapping[str, Any]) -> Iterator[EpochCallback]:
    import mlflow

    path = folder / _RUN_ID
    former = read_text(path).strip() if path.is_file() else None
    with mlflow.start_run(run_id=former, run_name=folder.resolve().name) as run:
        write_text(path, run.info.run_id + "\n")
        if former is None:
            mlflow.log_params({name: str(value) for name, value in settings.items()})

        def log(row: Mapping[str, Any]) -> None:
            mlflow.log_metrics(_numbers(row), step=row["epoch"])

        yield log


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "epoch" and isinstance(value, int | float)}


LOGGERS: Final = Registry(
    LoggerEntry,
    (
        LoggerEntry(
            "tensorboard", "tensorboard", "torch.utils.tensorboard", "abscert-plugin[tensorboard]", _tensorboard
        ),
        LoggerEntry("mlflow", "mlflow", "mlflow", "abscert-plugin[mlflow]", _mlflow),
    ),
    ("abscert.loggers",),
    "logger",
)


@final
class CallbackObserver:
    """An observer that hands each epoch's row to a callback.

    Args:
        callback: told of each epoch; what it raises ends the training, whose last checkpoint is kept.
    """

    def __init__(self, callback: EpochCallback) -> None:
        self._callback = callback

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Do nothing."""

    def on_step(self, images: int, loss: float | None) -> None:
        """Do nothing."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Hand on the row."""
        self._callback(row)


@final
class ObserverGroup:
    """Several observers, told one after the other."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_start(self, total_steps: int, steps_done: int) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_start(total_steps, steps_done)

    def on_step(self, images: int, loss: float | None) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.on_step(images, loss)

    def on_epoch(self, row: Mapping[str, Any]) -> bool:
        """Tell all; True where one of them ends the training."""
        answers = [observer.on_epoch(row) for observer in self._observers]  # all are told
        return True in answers


@contextmanager
def logging_to(entry: LoggerEntry, folder: Path, settings: Mapping[str, Any]) -> Iterator[Observer]:
    """Log a training by a logger whose faults never end it: the first is named on stderr, and no more is logged.

    Args:
        entry: the logger.
        folder: of the training.
        settings: what is trained and how, by name.
    """
    failed = False

    def fault(error: Exception) -> None:
        nonlocal failed
        failed = True
        line = f"note: {entry.name} logs no more: {type(error).__name__}: {error}"
        _LOG.warning("%s", " ".join(line.split()))

    context = entry.open(folder, settings)
    try:
        callback = context.__enter__()
    except Exception as error:  # noqa: BLE001 - whatever another library raises: a server that is down, a full disk
        fault(error)
        yield SilentObserver()
        return

    def tell(row: Mapping[str, Any]) -> None:
        if failed:
            return
        try:
            callback(row)
        except Exception as error:  # noqa: BLE001 - likewise
            fault(error)

    def leave(cause: BaseException | None) -> None:
        try:
            context.__exit__(None if cause is None else type(cause), cause, cause.__traceback__ if cause else None)
        except Exception as error:  # noqa: BLE001 - likewise
            fault(error)

    try:
        yield CallbackObserver(tell)
    except BaseException as cause:
        leave(cause)  # so that a logger can tell an interrupted training from one that has ended
        raise
    leave(None)
