"""A data set for abscert: a bright square of 2, 3 or 4 pixels a side on a dark ground of 8 x 8, drawn in code."""

import numpy as np

from abscert_plugin.data import DataRequest, DataSet, DataSetEntry
from abscert_plugin.data.arrays import ArrayFile
from abscert_plugin.data.holdout import unofficial_rows

COUNT = 1_000
SIDES = (2, 3, 4)


def load(request: DataRequest) -> DataSet:
    """Return a split; every call draws the same images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, len(SIDES), COUNT)
    images = random.integers(0, 80, (COUNT, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = random.integers(0, 9 - SIDES[label], 2)
        image[0, top : top + SIDES[label], left : left + SIDES[label]] += 150
    file = ArrayFile("squares", tuple(f"{side} x {side}" for side in SIDES), 255, images, labels)
    return file.part(request.split, unofficial_rows(request.split, COUNT))


SQUARES = DataSetEntry(
    name="squares",
    description="1000 grey 8x8 images of squares of three sizes, drawn in code",
    expected_files=(),
    load=load,
    shape=(1, 8, 8),
    training_images=720,
    test_images=200,
    classes=len(SIDES),
)
