"""A tuning of the number of cells as one HTML page, also while it goes on: each step's error, and which is best."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import abscert_plugin
from abscert_plugin.files import converted, read_json
from abscert_plugin.report import line_plot
from abscert_plugin.report.templates import environment
from abscert_plugin.report.training_page import PAGE, TrainingContent, details_of, is_training
from abscert_plugin.training.tuning_step import TUNING, TuningStep, step_folder

TUNING_PAGE: Final = "tuning.html"
"""The page that `abscert tune --watch` writes into the folder of a tuning."""

_STEPS: Final = "cells-*"


@final
@dataclass(frozen=True)
class TuningContent:
    """What a tuning's folder says.

    Args:
        name: of the tuning.
        description: what is tuned and how; empty before its first step has ended.
        steps: those that have ended, in order.
        pages: the folders of trainings with a page of their own, by their name.
        current: the training that goes on; None where none does.
    """

    name: str
    description: Mapping[str, Any]
    steps: tuple[TuningStep, ...]
    pages: frozenset[str]
    current: TrainingContent | None

    @classmethod
    def read(cls, folder: Path) -> "TuningContent":
        """Return what a folder says.

        Raises:
            RecordError: if a file in it cannot be read.
        """
        path = folder / TUNING
        said = read_json(path) if path.is_file() else {}
        steps = converted(said.get("steps", []), tuple[TuningStep, ...], f"{path} is no file of a tuning")
        description = said.get("description")
        trainings = sorted(place for place in folder.glob(_STEPS) if is_training(place))
        pages = frozenset(place.name for place in trainings if (place / PAGE).is_file())
        ended = {step_folder(folder, step.cells) for step in steps}
        open_ones = [place for place in trainings if place not in ended]
        return cls(
            folder.resolve().name,
            description if isinstance(description, Mapping) else {},
            steps,
            pages,
            TrainingContent.read(open_ones[-1]) if open_ones else None,
        )

    @property
    def best(self) -> TuningStep | None:
        """The least validation error, the coarser of equals; None before the first step."""
        return min(self.steps, key=lambda step: step.validation_error, default=None)


def is_tuning(folder: Path) -> bool:
    """Tell whether a folder is one of a tuning whose first step has ended."""
    return (folder / TUNING).is_file()


def render_tuning(content: TuningContent, refresh: int | None = None) -> str:
    """Return the page; all that comes from files is escaped.

    Args:
        content: what the tuning's folder says.
        refresh: seconds after which the browser loads the page again, for one that goes on; None for never.
    """
    best = content.best
    plot = None
    if best is not None:
        points = [(step.cells, step.validation_error) for step in content.steps]
        title = "Validation error, claim cell"
        plot = line_plot.line_plot(title, points, points[-1][0], best.cells, is_share=True, unit="cells")
    return (
        environment()
        .get_template("tuning.html")
        .render(
            content=content,
            best=best,
            plot=plot,
            folder_of=lambda cells: step_folder(Path(), cells).name,
            page=PAGE,
            size=line_plot,
            details=details_of(content.description),
            refresh=refresh,
            version=abscert_plugin.__version__,
        )
    )
