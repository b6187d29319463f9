"""A run's stored counterexamples, read as files that anyone may have written."""

from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.claim import Inputs, Radius, RadiusScale
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import read_array
from abscert_plugin.records import Record
from abscert_plugin.verification.reach import Ball

_HEADER_BYTES: Final = 4096  # of a .npy file, at most
_AXES: Final = 3  # channels, height, width


def ball_of(record: Record) -> Ball:
    """Return the ball that a row speaks of, centred nowhere.

    Raises:
        RecordError: if the row's radius, scale or inputs are missing or have no meaning.
    """
    try:
        radius = Radius(Fraction(record.radius or 0), RadiusScale(record.radius_scale or ""))
        return Ball(radius, Inputs(record.inputs or Inputs.FLOAT))
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
