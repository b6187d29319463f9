"""A training as one HTML page, also while it goes on: loss, validation error, and the epoch that is kept."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec
from rich.table import Table

import abscert_plugin
from abscert_plugin.claim import Radius, RadiusScale, validated
from abscert_plugin.errors import AbscertError, RecordError
from abscert_plugin.files import converted, read_json, read_text
from abscert_plugin.records import CHECKPOINT, HISTORY, RUN, RunInfo
from abscert_plugin.report import line_plot
from abscert_plugin.report.figures import percent
from abscert_plugin.report.line_plot import LinePlot
from abscert_plugin.report.templates import environment
from abscert_plugin.report.terminal import as_shown, plain_table
from abscert_plugin.wording import plain_words

PAGE: Final = "training.html"
"""The page that `--watch` writes into the folder of a training."""

MOST_ROWS: Final = 1000
_RECENT: Final = 5  # epochs whose mean time tells how long the others take


@final
class EpochRow(msgspec.Struct, frozen=True):
    """A row of the history.

    Args:
        epoch: its number, from 1 on.
        loss: mean loss of its steps.
        validation_error: of the method's claim on the validation split, 0 to 1.
        seconds: time of its steps.
        images_per_second: of its steps.
        learning_rate: of its last step.
    """

    epoch: int
    loss: float
    validation_error: float
    seconds: float
    images_per_second: float | None = None
    learning_rate: float | None = None


@final
@dataclass(frozen=True)
class TrainingContent:
    """What a training's folder says.

    Args:
        name: of the training.
        description: what is trained and how; empty where nothing says it.
        epochs: the rows so far, in order.
        is_finished: whether it has ended.
    """

    name: str
    description: Mapping[str, Any]
    epochs: tuple[EpochRow, ...]
    is_finished: bool

    @classmethod
    def read(cls, folder: Path) -> "TrainingContent":
        """Return what a folder says: its checkpoint, or the history that is left of one.

        Raises:
            RecordError: if there is neither, or one cannot be read.
        """
        name = folder.resolve().name
        checkpoint, history, run = (folder / part for part in (CHECKPOINT, HISTORY, RUN))
        if checkpoint.is_file():
            said = read_json(checkpoint)
            description = said.get("description")
            rows = _epochs(said.get("history"), checkpoint)
            is_finished = said.get("finished") is True
        elif history.is_file():
            description = RunInfo.read(run).configuration if run.is_file() else {}
            try:
                parsed = [json.loads(line) for line in read_text(history).splitlines()]
            except (ValueError, RecursionError) as error:
                raise RecordError(f"{history} is no history of a training: {plain_words(error)}") from error
            rows, is_finished = _epochs(parsed, history), True
        else:
            raise RecordError(f"expected a training in {folder}, got neither {CHECKPOINT} nor {HISTORY} there")
        return cls(name, description if isinstance(description, Mapping) else {}, rows, is_finished)

    @property
    def best(self) -> EpochRow | None:
        """The epoch that is kept: the least validation error, the first of equals; None before the first epoch."""
        return min(self.epochs, key=lambda row: row.validation_error, default=None)

    @property
    def planned(self) -> int:
        """How many epochs there are to be at most; those there are where nothing says it."""
        asked = _part(self.description, "training").get("epochs")
        return max(asked if isinstance(asked, int) else 0, len(self.epochs))

    @property
    def seconds_left(self) -> float | None:
        """What the epochs to come take, by the last ones; None where that is not known."""
        recent = [row.seconds for row in self.epochs[-_RECENT:]]
        if self.is_finished or not recent:
            return None
        return sum(recent) / len(recent) * (self.planned - len(self.epochs))


def is_training(folder: Path) -> bool:
    """Tell whether a folder is one of a training."""
    return any((folder / name).is_file() for name in (CHECKPOINT, HISTORY))


def render_training(content: TrainingContent, refresh: int | None = None) -> str:
    """Return the page; all that comes from files is escaped.

    Args:
        content: what the training's folder says.
        refresh: seconds after which the browser loads the page again, for a training that goes on; None for never.
    """
    return (
        environment()
        .get_template("training.html")
        .render(
            content=content,
            best=content.best,
            claim=claim_of(content.description),
            facts=_facts(content),
            plots=_plots(content),
            size=line_plot,
            rows=content.epochs[-MOST_ROWS:],
            details=details_of(content.description),
            refresh=refresh,
            version=abscert_plugin.__version__,
        )
    )


def claim_of(description: Mapping[str, Any]) -> str:
    """Return what the validation error is of, a ball with its radius and scale; empty where nothing says it."""
    how = _part(description, "method_options")
    of = validated(str(description.get("claim", "")), how)
    if of in ("ball", "attacked") and "radius" in how:
        return f"{of}, radius {_written(how['radius'])} {how.get('radius_scale', '')}".rstrip()
    return of


def _written(radius: Any) -> str:
    """Return a radius as a user writes it; what is none stays as it is, since a file may say anything."""
    with suppress(AbscertError):
        return Radius.parse(str(radius), RadiusScale.TRAINING).written  # a scale on which all have a meaning
    return str(radius)


def training_table(content: TrainingContent) -> Table:
    """Return the facts of a training for the terminal, one a line."""
    table = plain_table(f"Training, {content.name}")
    table.add_column("")
    table.add_column("", justify="right", overflow="fold")
    facts = _facts(content)
    if content.best is not None:
        facts["Validation error of the epoch kept"] = f"{percent(content.best.validation_error)} %"
        facts["Epoch kept"] = str(content.best.epoch)
    for name, value in facts.items():
        table.add_row(name, as_shown(value))
    return table


def _epochs(rows: Any, path: Path) -> tuple[EpochRow, ...]:
    fault = f"{path} is no history of a training"
    found = converted(rows, tuple[EpochRow, ...], fault)
    if [row.epoch for row in found] != list(range(1, len(found) + 1)):
        raise RecordError(f"{fault}: its epochs are not numbered from 1 on")
    return found


def _part(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = description.get(name)
    return found if isinstance(found, Mapping) else {}


def _plots(content: TrainingContent) -> tuple[LinePlot, ...]:
    best = content.best
    if best is None:
        return ()
    claim = claim_of(content.description)
    columns: Sequence[tuple[str, str, bool]] = (
        ("loss", "Loss, mean of an epoch's steps", False),
        ("validation_error", f"Validation error{f' ({claim})' if claim else ''}", True),
    )
    return tuple(
        line_plot.line_plot(
            title, [(row.epoch, getattr(row, name)) for row in content.epochs], content.planned, best.epoch, is_share
        )
        for name, title, is_share in columns
    )


def _facts(content: TrainingContent) -> dict[str, str]:
    said, training = content.description, _part(content.description, "training")
    network = ", ".join(str(said[name]) for name in ("network", "activation") if name in said)
    facts = {
        "Method": said.get("method"),
        "Validation error of": claim_of(said),
        "Data set": said.get("data"),
        "Network": network,
        "Cells per channel": said.get("cells"),
        "Epochs": f"{len(content.epochs):,} of {content.planned:,}",
        "Batch size": training.get("batch_size"),
        "Learning rate, at its peak": training.get("learning_rate"),
        "Seed": training.get("seed"),
        "Time of steps": f"{sum(row.seconds for row in content.epochs):,.1f} s",
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def details_of(description: Mapping[str, Any]) -> dict[str, str]:
    """Return all that a description says as text, by names; what is nested has names with dots."""
    flat: dict[str, str] = {}
    for name, value in description.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": json.dumps(entry, default=str) for key, entry in value.items()}
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat
