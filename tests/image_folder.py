"""A small ImageNet-style folder: JPEG files of three classes in train/ and val/, larger than 224 x 224."""

from pathlib import Path

import numpy as np
from PIL import Image

GROUNDS = {"bee": 100, "cat": 150, "dog": 215}  # grey levels, none near an edge of 4 cells


def write_image_folder(root: Path, train: int, val: int) -> Path:
    """Write so many images of each class into either folder: a flat ground, and random pixels in a square of 8."""
    for part, count in (("train", train), ("val", val)):
        for label, (name, ground) in enumerate(GROUNDS.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = np.full((240 + 8 * place, 256, 3), ground, dtype=np.uint8)
                random = np.random.default_rng([label, place])
                pixels[112:120, 112:120] = random.integers(0, 256, (8, 8, 3))
                Image.fromarray(pixels).save(folder / f"{place}.jpeg", quality=95)
    return root
