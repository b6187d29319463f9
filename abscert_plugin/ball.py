"""The l-infinity ball of a claim: which images lie in it, by exact arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, TypeAlias, final

import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.claim import Inputs, Radius, RadiusScale
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.grid import float32_within, level_pixels
from abscert_plugin.wording import plain_words

LEVELS: Final = 255
_Levels: TypeAlias = tuple[Int64[np.ndarray, "*shape"], Int64[np.ndarray, "*shape"]]


@final
@dataclass(frozen=True, slots=True)
class Ball:
    """The ball of a claim.

    Of 8-bit images the distance is the one of the numbers that are stored: values 3 and 8 are exactly 5/255 apart,
    whatever their quotients by 255 round to. A pixel between two such values counts as the float32 that it is.

    Args:
        radius: its radius.
        inputs: which images it holds.
    """

    radius: Radius
    inputs: Inputs = Inputs.FLOAT

    @classmethod
    def told(cls, configuration: Mapping[str, Any]) -> "Ball":
        """Return the ball that the configuration of a run on the claim `ball` tells of.

        Raises:
            RecordError: if the radius, its scale or the kind of images has no meaning.
        """
        try:
            scale = RadiusScale(str(configuration.get("radius_scale")))
            radius = Radius.parse(str(configuration.get("radius")), scale)
            return cls(radius, Inputs(str(configuration.get("inputs"))))
        except (ConfigError, ValueError) as error:
            raise RecordError(
                f"the radius, its scale or the inputs that are told have no meaning: {plain_words(error)}"
            ) from error

    def contains(self, center: Float32[np.ndarray, "*shape"], image: Float32[np.ndarray, "*shape"]) -> bool:
        """Return whether an image lies in the ball around `center` and in the pixel range, by exact arithmetic."""
        if self.inputs is Inputs.UINT8:
            levels = np.clip(np.rint(image * np.float32(LEVELS)), 0, LEVELS).astype(np.int64)
            first, last = self._levels(center)
            return bool(((level_pixels(LEVELS)[levels] == image) & (first <= levels) & (levels <= last)).all())
        low, high = float32_within(center, self.radius.pixel)
        return bool(((low <= image) & (image <= high)).all())

    def ends(
        self, images: Float32[np.ndarray, "*shape"]
    ) -> tuple[Float32[np.ndarray, "*shape"], Float32[np.ndarray, "*shape"]]:
        """Return the least and the greatest value of each pixel in the balls around some images, and of the image.

        Soundness: every float32 image that `contains` accepts lies between them.
        """
        if self.inputs is Inputs.FLOAT:
            return float32_within(images, self.radius.pixel)
        values = level_pixels(LEVELS)
        first, last = (np.clip(level, 0, LEVELS) for level in self._levels(images))
        return np.minimum(values[first], images), np.maximum(values[last], images)

    def level_ends(self, images: Float32[np.ndarray, "*shape"]) -> _Levels:
        """Return the least and the greatest 8-bit value of each pixel in the balls around some images.

        Where a pixel has none (it is no 8-bit value itself, and the radius is small), both are its nearest value.
        """
        first, last = self._levels(images)
        nearest = np.rint(images.astype(np.float64) * LEVELS).astype(np.int64)
        is_empty = first > last
        return np.where(is_empty, nearest, first), np.where(is_empty, nearest, last)

    def into(
        self, centers: Float32[np.ndarray, "*shape"], images: Float32[np.ndarray, "*shape"]
    ) -> Float32[np.ndarray, "*shape"]:
        """Return images moved into the balls: each pixel goes to the nearest value that it may have."""
        if self.inputs is Inputs.FLOAT:
            low, high = float32_within(centers, self.radius.pixel)
            return np.minimum(np.maximum(images, low), high)
        first, last = self.level_ends(centers)
        return level_pixels(LEVELS)[np.clip(np.rint(images * LEVELS).astype(np.int64), first, last)]

    def _levels(self, images: Float32[np.ndarray, "*shape"]) -> _Levels:
        """Return the least and the greatest 8-bit value within the radius of each pixel; the least is larger if none.

        Exact: images have few different values, and each is compared as a fraction.
        """
        values, places = np.unique(images, return_inverse=True)
        reach = self.radius.pixel * LEVELS
        ends = [_within(value, reach) for value in values]
        first, last = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        return first[places].reshape(images.shape), last[places].reshape(images.shape)


def _within(value: np.float32, reach: Fraction) -> tuple[int, int]:
    """Return the least and the greatest of 0, ..., 255 that are at most `reach` levels away from a pixel."""
    level = round(float(value) * LEVELS)
    is_level = level_pixels(LEVELS)[min(max(level, 0), LEVELS)] == value
    place = Fraction(level) if is_level else Fraction(float(value)) * LEVELS
    return max(math.ceil(place - reach), 0), min(math.floor(place + reach), LEVELS)
