"""`abscert.advise`: how many cells a radius allows, and where their edges lie, before anything is trained."""

from os import PathLike
from pathlib import Path

from abscert_plugin.api.arrays import as_data_set
from abscert_plugin.api.radii import RadiusLike, as_radius
from abscert_plugin.api.training_data import Data, pair_of
from abscert_plugin.api.wording import in_python
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data import load_data as load
from abscert_plugin.training.advise import COMPARED, MOST_CELLS, NEIGHBOURS, Advice
from abscert_plugin.training.advise import advise as advise_on


def looked_at(data: Data, directory: Path | None, image_size: int | None, limit: int | None) -> DataSet:
    """Return the images that advice is of; see `advise`."""
    if isinstance(data, str):
        images = load(data, Split.TRAIN, directory, image_size)
    else:
        images = as_data_set(*pair_of(data), split=Split.TRAIN, is_trained_on=True)
    return images.first(limit)


@in_python
def advise(
    data: Data,
    radius: RadiusLike,
    *,
    radius_scale: str = "pixel",
    directory: str | PathLike[str] | None = None,
    image_size: int | None = None,
    limit: int | None = None,
    most_cells: int = MOST_CELLS,
    compared: int = COMPARED,
    neighbours: int = NEIGHBOURS,
) -> Advice:
    """Return what balls of a radius do on each grid of cells, and which grid to train on.

        advice = abscert.advise((images, labels), radius=0.1)
        advice.advised.cells, advice.reason

    Args:
        data: a data set's name, whose training split is looked at, a split of `load_data`, or (images, labels), images
            [count, channels, height, width] of floats in [0, 1], rounded to 8 bits, or of uint8.
        radius: of the l-infinity ball, such as 0.1 or "8/255".
        radius_scale: `pixel` or `training`.
        directory: the folder that holds a named data set's files; `$ABSCERT_DATA` where None.
        image_size: side in pixels that the images of a folder are resized to.
        limit: only the first so many images.
        most_cells: look at 1 to so many cells.
        compared: compare so many images, the first ones, with each other.
        neighbours: how many of other classes each of them is compared with.

    Raises:
        ConfigError: if a name is unknown, or a number has no meaning.
        DataError: if images or labels have no meaning, or files are missing or corrupt.
    """
    images = looked_at(data, None if directory is None else Path(directory), image_size, limit)
    return advise_on(images, as_radius(radius, radius_scale), most_cells, compared, neighbours)
