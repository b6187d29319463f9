"""`abscert show`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from abscert_plugin.cli import options
from abscert_plugin.cli.console import LOG, OUT
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import AbscertError, ConfigError, RecordError
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record, RunInfo, read_records
from abscert_plugin.report.page import PageContent, render_page
from abscert_plugin.report.terminal import (
    SUMMARY_WIDTH,
    NamedRecords,
    class_table,
    reason_table,
    run_table,
    summary_tables,
)
from abscert_plugin.verification.run import RECORDS, RUN


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("show")(show)


def show(
    records: Annotated[list[Path], typer.Argument(help="One or more records.jsonl, or the folders that hold them.")],
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page with pictures of one run.")] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
) -> None:
    """Show records: tables in the terminal, and a page with the images that failed."""
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
    if html is not None:
        _write_page(html, run, rows[0], data)
        OUT.print(f"wrote {html}", highlight=False, soft_wrap=True)


def _data(run: RunInfo, data_dir: Path | None, image_size: int | None) -> DataSet | None:
    """Return the images that the rows speak of, or None with a line that says why not."""
    facts = run.data or {}
    try:
        data = load_data(str(facts.get("name")), Split(facts.get("split", Split.TEST)), data_dir, image_size)
    except (AbscertError, ValueError) as error:
        LOG.print(f"note: without pictures, since the images are not there: {error}", highlight=False, soft_wrap=True)
        return None
    if facts.get("sha256") != data.sha256:
        LOG.print("note: without pictures, since these are not the images of the run", highlight=False)
        return None
    return data


def _write_page(path: Path, run: RunInfo, rows: list[Record], data: DataSet | None) -> None:
    cells: Any = (run.model or {}).get("cells")
    page = render_page(PageContent(run, rows, None, Grid(cells) if isinstance(cells, int) else None, data))
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8", errors="replace")  # JSON can hold what UTF-8 cannot
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise RecordError(f"cannot write {path}: {error.strerror}; choose another --html") from error
