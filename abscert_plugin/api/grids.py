"""The cells that options ask for, in the commands and in Python alike."""

from typing import Final

from abscert_plugin.ball import LEVELS
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid

DEFAULT_CELLS: Final = 10


def chosen_grid(cells: int | None, granularity: float | None) -> Grid:
    """Return the grid of so many cells, or of cells of a width d on the training scale; of `DEFAULT_CELLS` by default.

    Raises:
        ConfigError: if both are given.
        GridError: if the grid cannot exist.
    """
    if cells is not None and granularity is not None:
        raise ConfigError("expected --cells or --granularity, got both; they say the same thing")
    if granularity is not None:
        return Grid.from_granularity(granularity)
    return Grid(DEFAULT_CELLS if cells is None else cells)


def training_grid(takes_intervals: bool, name: str, cells: int | None, granularity: float | None) -> Grid | None:
    """Return the grid to train on; None where the method's networks take the images themselves.

    Args:
        takes_intervals: whether the method's networks take interval images.
        name: of the method, for messages.
        cells: number of cells of a pixel.
        granularity: width of a cell on the training scale.

    Raises:
        ConfigError: if cells are asked for and the method has none, or in two ways.
        GridError: if the grid cannot exist.
    """
    if takes_intervals:
        return chosen_grid(cells, granularity)
    for option, given in (("cells", cells), ("granularity", granularity)):
        if given is not None:
            raise ConfigError(f"expected no --{option}: the networks of {name} take the images themselves")
    return None


def wrapping_grid(cells: int | None, granularity: float | None, lossless: bool) -> Grid:
    """Return the cells that a classifier is put under; where nothing may be lost, one for each 8-bit value.

    Raises:
        ConfigError: if they are asked for in two ways.
        GridError: if they cannot exist.
    """
    if not lossless:
        return chosen_grid(cells, granularity)
    if (cells, granularity) != (None, None):
        raise ConfigError("expected --lossless or a number of cells, got both: it has a cell for each 8-bit value")
    return Grid.of_levels(LEVELS)
