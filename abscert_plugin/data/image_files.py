"""PNG and JPEG files as stored images, decoded with Pillow when they are read."""

import io
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np
from jaxtyping import Int64, UInt8

from abscert_plugin.errors import DataError
from abscert_plugin.files import byte_limit, raise_limit, read_bytes
from abscert_plugin.wording import plain_words

if TYPE_CHECKING:
    from PIL import Image

_FORMATS: Final = ("PNG", "JPEG")
_MAX_THREADS: Final = 8
_LIMIT: Final = 2**28  # bytes of a file, and of its decoded pixels: an image of 8192 x 8192
_CHANNELS: Final = 4  # bytes that a decoded pixel takes, at most
_WIDE_MODES: Final = ("I", "F")  # more than 8 bits: Pillow clips them instead of scaling


@final
@dataclass(frozen=True)
class FolderSource:
    """Images that are decoded, in a few threads, each time they are read; none is kept.

    Args:
        root: the folder that the names start from.
        names: each file's path below `root`.
        shape: (channels, height, width) of every image; 1 channel is grey, 3 are red, green, blue.
        is_resized: whether an image of another size is resized and cropped; it is refused otherwise.
    """

    root: Path
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    is_resized: bool

    @property
    def is_resident(self) -> bool:
        """The images stay in their files."""
        return False

    def read(self, positions: Int64[np.ndarray, "n"]) -> UInt8[np.ndarray, "n channels height width"]:
        """Return the images at these places of the file list.

        Raises:
            DataError: naming the first file that is broken or of another size.
        """
        images = np.empty((len(positions), *self.shape), dtype=np.uint8)
        paths = [self.root / self.names[position] for position in positions]
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            for row, image in enumerate(pool.map(self._decode, paths)):
                images[row] = image
        return images

    def _decode(self, path: Path) -> UInt8[np.ndarray, "channels height width"]:
        image = _open(path)
        channels, height, width = self.shape
        if self.is_resized:
            image = _squared(image, height)
        elif image.size != (width, height):
            raise DataError(
                f"expected images of {width} x {height} pixels, as the first one, got {image.width} x {image.height} "
                f"in {path}; give --image-size to resize and crop them all"
            )
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def image_shape(path: Path, image_size: int | None) -> tuple[int, int, int]:
    """Return (channels, height, width) that an image file asks for: 1 channel where its mode is L, otherwise 3.

    Args:
        path: the file.
        image_size: height and width to use in place of the file's own.

    Raises:
        DataError: if the file is broken.
    """
    image = _open(path)
    channels = 1 if image.mode == "L" else 3
    return channels, image_size or image.height, image_size or image.width


def _open(path: Path) -> "Image.Image":
    """Return a whole decoded image of 8 bits a channel.

    Raises:
        DataError: if the file is broken, is neither PNG nor JPEG, is too large, or has more than 8 bits a channel.
    """
    from PIL import Image  # here, so that data sets in memory start without Pillow

    limit = byte_limit(_LIMIT)
    raw = read_bytes(path, limit, "replace it", DataError)
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if image.width * image.height * _CHANNELS > limit:
                raise DataError(
                    f"{path} has {image.width} x {image.height} pixels; shrink it, or, if it is to be trusted, "
                    f"{raise_limit()}"
                )
            image.verify()  # checksums, which decoding skips
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"expected an image of moderate size, got {error} in {path}; shrink it") from error
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error) as error:
        raise DataError(
            f"expected a readable PNG or JPEG file, got {path}: {plain_words(error)}; replace it"
        ) from error
    if image.mode.startswith(_WIDE_MODES):
        raise DataError(f"expected 8 bits a channel, got the mode {image.mode} in {path}; convert it to 8 bits")
    return image.convert("RGBA") if image.mode == "P" else image


def _squared(image: "Image.Image", size: int) -> "Image.Image":
    """Return the image with its short side brought to `size` and its long side cropped around the centre.

    Both are one step, bilinear, so no large image arises where a long, thin one is blown up.
    """
    from PIL import Image  # as in `_open`

    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    prepared = image.convert("RGB") if image.mode not in ("L", "RGB") else image
    return prepared.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))
