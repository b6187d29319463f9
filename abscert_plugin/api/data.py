"""`abscert.load_data`: a split of a data set by its name."""

from pathlib import Path

from abscert_plugin.api.wording import in_python
from abscert_plugin.choices import member
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data import load_data as load


@in_python
def load_data(
    name: str,
    split: str = "test",
    *,
    directory: str | Path | None = None,
    image_size: int | None = None,
    limit: int | None = None,
) -> DataSet:
    """Return one split of a data set, for `verify` or `train`.

    Args:
        name: as `abscert data` lists them; `digits` is embedded.
        split: `train`, `validation` (held out of the training file) or `test`.
        directory: the folder that holds its files; `$ABSCERT_DATA` where None.
        image_size: side in pixels that the images of a folder are resized to.
        limit: only the first so many images.

    Raises:
        ConfigError: if a name is unknown.
        DataError: if its files are missing or corrupt.

    >>> load_data("digits").shape
    (1, 8, 8)
    """
    place = None if directory is None else Path(directory)
    return load(name, member(Split, "split", split), place, image_size).first(limit)
