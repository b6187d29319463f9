"""What the page shows of each image that is not certified: its pictures, its counterexample, and what is amiss.

Stored counterexamples are read as files that anyone may have written.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.ball import Ball
from abscert_plugin.claim import Claim, Inputs, Radius, RadiusScale, Verdict
from abscert_plugin.errors import ConfigError, RecordError, VerifierError
from abscert_plugin.files import read_array
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.report.changes import Flips, draw_difference, draw_flips
from abscert_plugin.report.gallery import Picture, draw, draw_image
from abscert_plugin.verification.decision import ITSELF

_HEADER_BYTES: Final = 4096  # of a .npy file, at most
_AXES: Final = 3  # channels, height, width
_HALF_ULP: Final = Fraction(1, 2**53)  # of a float64
_log = logging.getLogger(__name__)

# Gives each image of a batch its label, -1 where the file gives no number.
Replay = Callable[[Float32[np.ndarray, "batch channels height width"]], Sequence[int]]


@final
@dataclass(frozen=True, slots=True)
class Shown:
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
    """Where pictures and counterexamples come from.

    Args:
        grid: the model's grid; None draws no cells.
        folder: the run's folder, where its counterexamples are; None shows none.
        replay: runs the deployed file; None leaves the counterexamples' labels out.
    """

    grid: Grid | None = None
    folder: Path | None = None
    replay: Replay | None = None


def shown_images(
    records: Sequence[Record], images: Mapping[int, Float32[np.ndarray, "channels height width"]], sources: Sources
) -> Mapping[int, Shown]:
    """Return what is shown of each row, by index; a row without an image is left out.

    Raises:
        DataError: if the images have neither 1 nor 3 channels.
    """
    shown: dict[int, Shown] = {}
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
        shown[record.index] = Shown(draw(image, sources.grid), note=note)
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
) -> Shown:
    radius = ball_of(record).radius.outward
    pictures = [*draw(image, grid), draw_image(other, "counterexample"), draw_difference(image, other, radius)]
    text = ""
    if grid is not None:
        flips = Flips.between(grid.cell(image), grid.cell(other))
        pictures.append(draw_flips(image, flips))
        text = flips.text
    note = "The deployed file gives the stored counterexample the image's own label." if label == record.label else ""
    return Shown(tuple(pictures), label, text, note)


def ball_of(record: Record) -> Ball:
    """Return the ball that a row speaks of, at its largest: the row has the float nearest to the exact radius.

    Raises:
        RecordError: if the row's radius, scale or inputs are missing or have no meaning.
    """
    try:
        stored = Radius(Fraction(record.radius or 0), RadiusScale(record.radius_scale or ""))
        whole = stored.given / stored.pixel if stored.pixel else 1  # the radius that holds every image
        largest = replace(stored, given=min(stored.given * (1 + _HALF_ULP), Fraction(whole)))
        return Ball(largest, Inputs(record.inputs or Inputs.FLOAT))
    except (ValueError, OverflowError, ConfigError) as error:  # NaN, infinity, a scale of another name
        raise RecordError(f"expected a radius with its scale, got {record.radius} {record.radius_scale}") from error


def read_counterexample(
    folder: Path, record: Record, image: Float32[np.ndarray, "channels height width"]
) -> Float32[np.ndarray, "channels height width"]:
    """Return the stored counterexample of a falsified row, once it is seen to be an image of the ball.

    Args:
        folder: the run's folder; nothing outside it is opened.
        record: the row; `counterexample` names a file in the folder.
        image: the centre of the ball, on the pixel scale.

    Raises:
        RecordError: if the row names none, the name leads out of the folder, the file is missing or damaged, or what it
            holds is not an image of the ball.
    """
    stored = read_stored_image(folder, record, image.nbytes)
    if stored.shape != image.shape:
        raise RecordError(f"expected float32 of shape {image.shape}, got {stored.dtype} of {stored.shape}")
    if not ball_of(record).contains(image, stored):
        raise RecordError("it is not an image of the ball")
    return stored


def read_stored_image(folder: Path, record: Record, most_bytes: int) -> Float32[np.ndarray, "channels height width"]:
    """Return the stored counterexample of a falsified row, once it is seen to be an image; not that it is in the ball.

    Args:
        folder: the run's folder; nothing outside it is opened.
        record: the row; `counterexample` names a file in the folder.
        most_bytes: what its pixels may take up.

    Raises:
        RecordError: if the row names none, the name leads out of the folder, the file is missing or damaged, or what it
            holds is no image on the pixel scale.
    """
    path = _path_inside(folder, record.counterexample)
    if path.stat().st_size > most_bytes + _HEADER_BYTES:
        raise RecordError(f"expected {most_bytes:,} bytes of pixels, got a file of {path.stat().st_size:,}")
    try:
        stored = read_array(path)
    except RecordError as error:
        raise RecordError("the file is damaged, or no array") from error
    if stored.dtype != np.float32 or stored.ndim != _AXES:
        raise RecordError(f"expected float32 of an image, got {stored.dtype} of {stored.shape}")
    if not ((stored >= 0) & (stored <= 1)).all():  # false for NaN
        raise RecordError("a pixel is NaN or lies outside [0, 1]")
    return stored


def _path_inside(folder: Path, name: str | None) -> Path:
    if not name:
        raise RecordError("the row names none")
    try:
        home = folder.resolve()
        path = (home / name).resolve()  # an absolute name replaces the folder, a link is followed
        if not path.is_relative_to(home):
            raise RecordError("its name leads out of the run's folder")
        if not path.is_file():  # nor a pipe, which would wait for ever
            raise RecordError("the file is missing")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a circle of links
        raise RecordError("its name is not that of a file") from error
    return path
