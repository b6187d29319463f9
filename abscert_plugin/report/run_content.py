"""What the page of a run is made of, read from the run's folder: rows, images, cells, counterexamples' labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from abscert_plugin.data import DataSet
from abscert_plugin.errors import AbscertError, DataError, GridError, RecordError
from abscert_plugin.grid import Grid
from abscert_plugin.records import RUN, Record, RunInfo, read_records
from abscert_plugin.report.counterexamples import Replay
from abscert_plugin.report.page import PageContent
from abscert_plugin.report.provenance import run_images, run_replay
from abscert_plugin.verification.decision import ITSELF

Images = Callable[[RunInfo, Path], DataSet | None]
"""Finds the images that the rows of a run in a folder speak of, None to leave them out; a DataError says why they are
not there."""


def read_content(
    records: Path, images: Images, note: Callable[[str], None], rows: Sequence[Record] | None = None
) -> PageContent:
    """Return what the page of a run is made of.

    Args:
        records: its rows; run.json lies beside them.
        images: finds its images.
        note: told why pictures or labels are left out.
        rows: what was read of `records` already; None reads it.

    Raises:
        RecordError: if rows or run.json cannot be read, or tell of no cells that can be.
    """
    rows = read_records(records) if rows is None else rows
    run = RunInfo.read(records.with_name(RUN))
    data: DataSet | None = None
    try:
        data = images(run, records.parent)
    except DataError as error:
        note(f"without pictures, since {error}")
    folder = records.parent
    replay = _replay(run, folder, data, note) if data is not None and _stored(rows) else None
    return PageContent(run, rows, run_grid(run), data, folder, replay)


def images_of(data_dir: Path | None, image_size: int | None) -> Images:
    """Return what finds the images of runs, each data set read once."""
    found: dict[str, DataSet] = {}

    def images(run: RunInfo, folder: Path) -> DataSet | None:
        key = repr(sorted((run.data or {}).items()))
        if key not in found:
            found[key] = run_images(run, data_dir, image_size, folder)
        return found[key]

    return images


def run_grid(run: RunInfo) -> Grid | None:
    """Return the model's grid, uneven where run.json lists edges; None where it does not say.

    Raises:
        RecordError: if it lists edges that are not those of its count of cells.
    """
    facts = run.model or {}
    cells: Any = facts.get("cells")
    edges: Any = facts.get("edges")
    if edges is None:
        return Grid(cells) if isinstance(cells, int) else None
    try:
        grid = Grid.from_inner_edges([float(edge) for edge in edges])
    except (TypeError, ValueError, OverflowError, GridError) as error:
        raise RecordError(f"expected edges of cells in {RUN} that rise between 0 and 1, got {edges!r:.200}") from error
    if grid.cells != cells:
        raise RecordError(f"expected {RUN} to list the edges between {cells} cells, got {grid.cells - 1} edges")
    return grid


def _stored(rows: Sequence[Record]) -> bool:
    return any(row.counterexample not in (None, ITSELF) for row in rows)


def _replay(run: RunInfo, folder: Path, data: DataSet, note: Callable[[str], None]) -> Replay | None:
    """Return what runs the deployed file, where that very file lies in or above the run's folder."""
    try:
        return run_replay(run, (folder, folder.resolve().parent), data.shape)
    except (AbscertError, OSError, ValueError) as error:
        note(f"without the labels of counterexamples: {error}")
        return None
