"""What a data set's loader is asked for, and the folders that it looks in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.errors import ConfigError, DataError

DATA_VARIABLE: Final = "ABSCERT_DATA"


@final
@dataclass(frozen=True)
class DataRequest:
    """Which part of a data set to load, and from where.

    Args:
        split: the part.
        directory: the folder of `--data-dir` or `$ABSCERT_DATA`; None where neither is given.
        image_size: height and width that the images of a folder are brought to; None leaves them as they are.

    Raises:
        ConfigError: if `image_size` is less than 1.
    """

    split: Split
    directory: Path | None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"expected an image size of at least 1 pixel, got {self.image_size}")


@final
@dataclass(frozen=True)
class DataSetEntry:
    """One line of the table of data sets.

    Args:
        name: what `--data` takes.
        description: one line for the user.
        expected_files: the files that the user has to supply; empty for an embedded data set.
        load: reads one split.
        shape: (channels, height, width) of every image, where no other size is asked for; None where the files tell it.
        training_images: how many the split `train` has; None where the files tell it.
        test_images: the same of the split `test`.
        classes: number of classes; None where the files tell it.
        can_resize: whether it is read with `--image-size`.
    """

    name: str
    description: str
    expected_files: tuple[str, ...]
    load: Callable[[DataRequest], DataSet]
    shape: tuple[int, int, int] | None = None
    training_images: int | None = None
    test_images: int | None = None
    classes: int | None = None
    can_resize: bool = False

    def image_shape(self, image_size: int | None) -> tuple[int, int, int] | None:
        """Return (channels, height, width) of images brought to a size; None where only the files tell it."""
        if self.shape is None or image_size is None:
            return self.shape
        return self.shape[0], image_size, image_size


def searched_folders(request: DataRequest, name: str, files: str) -> tuple[Path, ...]:
    """Return DIR/name and DIR, the folders that may hold the data set `name`.

    Args:
        request: whose directory is DIR.
        name: the data set.
        files: a phrase that names the files to put there, for the message.

    Raises:
        DataError: if no directory is given.
    """
    directory = given_directory(request, name, f"DIR/{name} or DIR has to hold {files}")
    return directory / name, directory


def given_directory(request: DataRequest, name: str, advice: str) -> Path:
    """Return the folder that the request names.

    Args:
        request: whose directory is wanted.
        name: the data set.
        advice: what the folder has to hold, for the message.

    Raises:
        DataError: if no directory is given.
    """
    if request.directory is None:
        raise DataError(
            f"expected a folder that holds the data set {name}, got none: pass --data-dir DIR or set "
            f"${DATA_VARIABLE} to DIR; {advice}"
        )
    return request.directory.expanduser()


def missing_files(name: str, wanted: str, folders: Sequence[Path], found: Sequence[Path], files: str) -> DataError:
    """Return the error that says which files to put where.

    Args:
        name: the data set.
        wanted: the files that this load needs, of one folder.
        folders: where it looked.
        found: those of the files that are there, not enough to load.
        files: a phrase that names all files of the data set, in every accepted form.
    """
    places = " or ".join(str(folder) for folder in folders)
    got = f"only {' and '.join(map(str, found))}" if found else "none of them"
    return DataError(
        f"expected {wanted} of the data set {name} in {places}, got {got}: put {files} into one folder "
        f"DIR or DIR/{name} and name DIR with --data-dir or ${DATA_VARIABLE}"
    )
