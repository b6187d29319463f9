"""Pictures of what a counterexample changed: the signed difference, and the pixels that moved to another cell."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt, UInt8

from abscert_plugin.report.gallery import Picture, png_uri

# What a change is drawn in; page.html takes its legend from here.
COLOURS: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"down": (33, 102, 172), "none": (247, 247, 247), "up": (178, 24, 43), "both": (118, 42, 131)}
)
# The least grey of a pixel that kept its cell; the image shows through, faint.
FAINT: Final = 200


@final
@dataclass(frozen=True, slots=True)
class Flips:
    """Which pixels moved to another cell in some channel.

    Args:
        up, down: whether a pixel's cell rose, or fell, in some channel; both may hold in colour.
    """

    up: Bool[np.ndarray, "height width"]
    down: Bool[np.ndarray, "height width"]

    @classmethod
    def between(
        cls,
        before: UInt[np.ndarray, "channels height width"],
        after: UInt[np.ndarray, "channels height width"],
    ) -> "Flips":
        """Return the moves from the cells of one image to those of another."""
        up = np.asarray((after > before).any(axis=0))
        down = np.asarray((after < before).any(axis=0))
        return cls(up, down)

    @property
    def text(self) -> str:
        """How many pixels moved, and which way."""
        moved = int((self.up | self.down).sum())
        ways = f"{int(self.up.sum()):,} up, {int(self.down.sum()):,} down"
        return f"{moved:,} of {self.up.size:,} pixels changed cell: {ways}"


def draw_difference(
    image: Float32[np.ndarray, "channels height width"],
    other: Float32[np.ndarray, "channels height width"],
    radius: float,
) -> Picture:
    """Return the picture of `other` minus `image`; in colour, of the channel that changed most, for each pixel.

    Args:
        image: pixels on the pixel scale.
        other: the same of another image.
        radius: the change on the pixel scale that gets the full colour.
    """
    difference: Float64[np.ndarray, "channels height width"] = other.astype(np.float64) - image.astype(np.float64)
    most = np.abs(difference).argmax(axis=0)
    signed = np.take_along_axis(difference, most[None], axis=0)[0]
    share = np.clip(signed / radius, -1, 1) if radius > 0 else np.zeros_like(signed)
    none, up, down = (np.array(COLOURS[name], dtype=np.float64)[:, None, None] for name in ("none", "up", "down"))
    drawn = none + np.abs(share) * (np.where(share > 0, up, down) - none)
    height, width = share.shape
    alt = "the counterexample minus the image"
    return Picture("difference", alt, png_uri(np.rint(drawn).astype(np.uint8)), height, width)


def draw_flips(image: Float32[np.ndarray, "channels height width"], flips: Flips) -> Picture:
    """Return the picture of the pixels that moved; those that did not show the image's grey, faint."""
    drawn = faint(image)
    for where, name in ((flips.up, "up"), (flips.down, "down"), (flips.up & flips.down, "both")):
        drawn[:, where] = np.array(COLOURS[name], dtype=np.uint8)[:, None]
    height, width = drawn.shape[1:]
    return Picture("flipped cells", flips.text, png_uri(drawn), height, width)


def faint(image: Float32[np.ndarray, "channels height width"]) -> UInt8[np.ndarray, "3 height width"]:
    """Return an image in faint greys, for marks in colour on top of it."""
    grey = FAINT + np.rint((255 - FAINT) * image.mean(axis=0, dtype=np.float64))
    return np.repeat(grey[None], 3, axis=0).astype(np.uint8)
