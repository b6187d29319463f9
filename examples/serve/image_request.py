"""The image of an HTTP request, or one line that says what is wrong with it. No Ray is needed here."""

import json
import math
from typing import Final

import numpy as np

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
_DIGITS: Final = 64  # bytes that a pixel may take in JSON
_AROUND: Final = 4096


class BadRequestError(Exception):
    """A request that is no image; `status` is the one of the answer, from 400 to 499."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def byte_limit(shape: tuple[int, ...]) -> int:
    """Return how many bytes a request may have."""
    return _DIGITS * math.prod(shape) + _AROUND


def read_image(body: bytes, content_type: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the image that a request holds, float32 of a shape (channels, height, width), pixels in [0, 1].

    Args:
        body: what was sent: JSON, {"image": nested lists}, or the pixels as little-endian float32, row by row.
        content_type: which of the two; JSON where it is empty.
        shape: of the images that are served.

    Raises:
        BadRequestError: if it holds no such image.
    """
    if len(body) > byte_limit(shape):
        raise BadRequestError(f"expected at most {byte_limit(shape)} bytes, got {len(body)}", 413)
    kind = content_type.partition(";")[0].strip().lower() or JSON
    if kind not in (JSON, BYTES):
        raise BadRequestError(f"expected the content type {JSON} or {BYTES}", 415)
    pixels = _of_json(body, shape) if kind == JSON else _of_bytes(body, shape)
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):  # of NaN too
        raise BadRequestError("expected pixels from 0 to 1, got one outside, or none that is a number")
    return pixels.astype(np.float32)


def _of_json(body: bytes, shape: tuple[int, ...]) -> np.ndarray:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError("expected JSON") from None
    if not isinstance(told, dict) or told.keys() != {"image"}:
        raise BadRequestError('expected an object with the key "image" alone')
    try:
        pixels = np.asarray(told["image"])
    except (ValueError, RecursionError):  # lists of different lengths
        raise BadRequestError(f"expected an image of shape {shape}") from None
    if pixels.shape != shape or pixels.dtype.kind not in "fiu":
        got = f"{pixels.shape}" if pixels.shape != shape else "what are no numbers"
        raise BadRequestError(f"expected an image of shape {shape}, got {got}")
    return pixels


def _of_bytes(body: bytes, shape: tuple[int, ...]) -> np.ndarray:
    expected = 4 * math.prod(shape)
    if len(body) != expected:
        raise BadRequestError(f"expected {expected} bytes, float32 of shape {shape}, got {len(body)}")
    return np.frombuffer(body, dtype="<f4").reshape(shape)
