"""What the page shows of each image that is not certified: its pictures, its counterexample, and what is amiss."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.errors import RecordError, VerifierError
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.report.changes import Flips, draw_difference, draw_flips
from abscert_plugin.report.counterexample import ball_of, read_counterexample
from abscert_plugin.report.gallery import Picture, draw, draw_image
from abscert_plugin.verification.decision import ITSELF

_log = logging.getLogger(__name__)

# Gives each image of a batch its label, -1 where the file gives no number.
Replay = Callable[[Float32[np.ndarray, "batch channels height width"]], Sequence[int]]


@final
@dataclass(frozen=True, slots=True)
class Exhibit:
    """One image.

    Args:
        pictures: the image and its cells; with a counterexample, that, the difference and the flipped cells too.
        label: what the deployed file gives the counterexample; None where there is none or the file is not at hand.
        flips: how many pixels changed cell; empty where that is not known.
        note: what a reader must know of the counterexample; empty for nothing.
    """

    pictures: tuple[Picture, ...] = ()
    label: int | None = None
    flips: str = ""
    note: str = ""


@final
@dataclass(frozen=True)
class Sources:
    """Where exhibits come from.

    Args:
        grid: the model's grid; None draws no cells.
        folder: the run's folder, where its counterexamples are; None shows none.
        replay: runs the deployed file; None leaves the counterexamples' labels out.
    """

    grid: Grid | None = None
    folder: Path | None = None
    replay: Replay | None = None


def exhibits(
    records: Sequence[Record], images: Mapping[int, Float32[np.ndarray, "channels height width"]], sources: Sources
) -> Mapping[int, Exhibit]:
    """Return what is shown of each row, by index; a row without an image is left out.

    Raises:
        DataError: if the images have neither 1 nor 3 channels.
    """
    shown: dict[int, Exhibit] = {}
    stored: dict[int, np.ndarray] = {}
    rows = [record for record in records if record.index in images]
    for record in rows:
        image, note = images[record.index], ""
        if record.claim == Claim.BALL and record.verdict == Verdict.FALSIFIED and sources.folder is not None:
            if record.counterexample == ITSELF:
                note = "The image is its own counterexample."
            else:
                try:
                    stored[record.index] = read_counterexample(sources.folder, record, image)
                except RecordError as error:
                    note = f"The stored counterexample cannot be shown: {error}."
        shown[record.index] = Exhibit(draw(image, sources.grid), note=note)
    labels = _labels(stored, sources.replay)
    for record in rows:
        if record.index in stored:
            label = labels.get(record.index)
            shown[record.index] = _with_change(record, images[record.index], stored[record.index], label, sources.grid)
    return shown


def _labels(stored: Mapping[int, np.ndarray], replay: Replay | None) -> Mapping[int, int]:
    if replay is None or not stored:
        return {}
    try:
        labels = replay(np.stack(list(stored.values())))
    except VerifierError as error:
        _log.warning("counterexamples have no label: %s", error)
        return {}
    return dict(zip(stored, map(int, labels), strict=True))


def _with_change(
    record: Record,
    image: Float32[np.ndarray, "channels height width"],
    other: Float32[np.ndarray, "channels height width"],
    label: int | None,
    grid: Grid | None,
) -> Exhibit:
    radius = ball_of(record).radius.outward
    pictures = [*draw(image, grid), draw_image(other, "counterexample"), draw_difference(image, other, radius)]
    text = ""
    if grid is not None:
        flips = Flips.between(grid.cell(image), grid.cell(other))
        pictures.append(draw_flips(image, flips))
        text = flips.text
    note = "The deployed file gives the stored counterexample the image's own label." if label == record.label else ""
    return Exhibit(tuple(pictures), label, text, note)
