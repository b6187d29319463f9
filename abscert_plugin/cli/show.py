"""`abscert show`."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import LOG, OUT
from abscert_plugin.data import DataSet
from abscert_plugin.errors import AbscertError, ConfigError, DataError, GridError, RecordError
from abscert_plugin.files import write_text
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record, RunInfo, read_records
from abscert_plugin.report.counterexamples import Replay
from abscert_plugin.report.page import PageContent, render_page
from abscert_plugin.report.provenance import run_images, run_replay
from abscert_plugin.report.server import HOST, folder_server
from abscert_plugin.report.terminal import (
    SUMMARY_WIDTH,
    NamedRecords,
    class_table,
    reason_table,
    run_table,
    step_table,
    summary_tables,
)
from abscert_plugin.verification.decision import ITSELF
from abscert_plugin.verification.run import RECORDS, RUN

_EXAMPLE: Final = "abscert show runs/ball/verify-deploy-mnist-ball-0.1-pixel-float --html report.html"
_PORT: Final = 8000
_PAGES: Final = ("try.html", "report.html", "index.html")
"""The page whose address is printed is the first of these that is there."""


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("show", epilog=_EXAMPLE, rich_help_panel=manual.VERIFY)(show)


def show(
    records: Annotated[
        list[Path],
        typer.Argument(
            help="One or more records.jsonl, or the folders that hold them; with --serve, any folder.",
            autocompletion=completion.records,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Also write a page with pictures of one run.  [default: none]",
            metavar="FILE",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Serve the folder's pages to browsers on this machine, until Ctrl-C.",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help=f"Port of --serve; 0 takes any.  [default: {_PORT}]", rich_help_panel=manual.OUTPUT
        ),
    ] = None,
) -> None:
    """Show records: tables in the terminal, a page with the images that failed, or a folder's pages in a browser."""
    if serve:
        _serve(records, html, port)
        return
    if port is not None:
        raise ConfigError("expected --port with --serve, which it belongs to")
    if html is not None and len(records) != 1:
        raise ConfigError(f"expected one records file with --html, got {len(records)}")
    paths = [path / RECORDS if path.is_dir() else path for path in records]
    rows = [read_records(path) for path in paths]
    named = [NamedRecords(str(path.parent), own) for path, own in zip(paths, rows, strict=True)]
    side_by_side = len(named) > 1 and OUT.width >= SUMMARY_WIDTH
    for table in summary_tables(named) if side_by_side else map(run_table, named):
        OUT.print(table)
    if len(paths) > 1:
        return
    run = RunInfo.read(paths[0].with_name(RUN))
    data = _data(run, data_dir, image_size)
    OUT.print(class_table(rows[0], data.classes if data is not None else None))
    OUT.print(reason_table(rows[0]))
    if len({record.method for record in rows[0]}) > 1:
        OUT.print(step_table(rows[0]))
    if html is not None:
        folder = paths[0].parent
        replay = _replay(run, folder, data) if data is not None and _stored(rows[0]) else None
        _write_page(html, PageContent(run, rows[0], None, _grid(run), data, folder, replay))
        OUT.print(f"wrote {html}", highlight=False, soft_wrap=True)


def _serve(folders: Sequence[Path], html: Path | None, port: int | None) -> None:
    """Serve one folder until Ctrl-C.

    Raises:
        ConfigError: if more is asked for, or it cannot be served.
    """
    if len(folders) != 1:
        raise ConfigError(f"expected one folder with --serve, got {len(folders)}")
    if html is not None:
        raise ConfigError("expected --html or --serve, got both; write the page first, then serve its folder")
    (folder,) = folders
    with folder_server(folder, _PORT if port is None else port) as server:
        page = next((name for name in _PAGES if (folder / name).is_file()), "")
        OUT.print(f"http://{HOST}:{server.server_port}/{page}", highlight=False, soft_wrap=True)
        LOG.print(f"serving {folder} to this machine; Ctrl-C ends it", highlight=False, soft_wrap=True)
        with suppress(KeyboardInterrupt):  # the way that it ends
            server.serve_forever()


def _data(run: RunInfo, data_dir: Path | None, image_size: int | None) -> DataSet | None:
    """Return the images that the rows speak of, or None with a line that says why not."""
    try:
        return run_images(run, data_dir, image_size)
    except DataError as error:
        LOG.print(f"note: without pictures, since {error}", highlight=False, soft_wrap=True)
        return None


def _grid(run: RunInfo) -> Grid | None:
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


def _replay(run: RunInfo, folder: Path, data: DataSet) -> Replay | None:
    """Return what runs the deployed file, where that very file lies in or above the run's folder."""
    try:
        return run_replay(run, (folder, folder.resolve().parent), data.shape)
    except (AbscertError, OSError, ValueError) as error:
        LOG.print(f"note: without the labels of counterexamples: {error}", highlight=False, soft_wrap=True)
        return None


def _write_page(path: Path, content: PageContent) -> None:
    # JSON can hold what UTF-8 cannot
    write_text(path, render_page(content), "choose another --html", errors="replace")
