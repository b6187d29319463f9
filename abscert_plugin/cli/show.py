"""`abscert show`."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.api.looking import records_in
from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import LOG, OUT, say
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import write_text
from abscert_plugin.plugins import registered
from abscert_plugin.records import RUN, RunInfo, read_records, rows_in
from abscert_plugin.report.comparison import Comparison, changed_table, transition_table
from abscert_plugin.report.comparison_page import render_comparison
from abscert_plugin.report.page import PageContent, render_page
from abscert_plugin.report.run_content import Images, images_of, read_content
from abscert_plugin.report.server import HOST, Pages, folder_server
from abscert_plugin.report.terminal import (
    SUMMARY_WIDTH,
    NamedRecords,
    class_table,
    reason_table,
    run_table,
    step_table,
    summary_tables,
)
from abscert_plugin.report.training_page import TrainingContent, is_training, render_training, training_table
from abscert_plugin.report.tuning_page import TuningContent, is_tuning, render_tuning

_EXAMPLE: Final = "abscert show runs/ball/verify-deploy-mnist-ball-0.1-pixel-float --html report.html"
_PORT: Final = 8000
_ENDS: Final = (".html", ".htm")
_PAGES: Final = ("try.html", "report.html", "index.html")
"""The page whose address is printed is the first of these that is there."""
_PAGES_GROUP: Final = "abscert.pages"
"""Entry points that make pages for --serve: of a folder and --data-dir, None where it is no folder of theirs."""
_TWO: Final = 2


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("show", epilog=_EXAMPLE, rich_help_panel=manual.VERIFY)(show)


def show(
    records: Annotated[
        list[Path],
        typer.Argument(
            help="Records of verifications, or the folders that hold them or a training; with --serve, any folder.",
            autocompletion=completion.records,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Also write a page, of one run with pictures, or of two side by side.  [default: none]",
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
    """Show records: tables in the terminal, a page with the images that failed, or a folder's pages in a browser.

    Two runs on the same images are compared image by image. With --serve, folders of trainings, of verifications and
    of `abscert compare` have pages, made of what they hold when they are asked for.
    """
    images = images_of(data_dir, image_size)
    if serve:
        _serve(records, html, port, _pages(images, data_dir))
        return
    if port is not None:
        raise ConfigError("expected --port with --serve, which it belongs to")
    if html is not None and len(records) > _TWO:
        raise ConfigError(f"expected one records file with --html, or two to compare, got {len(records)}")
    if html is not None and html.suffix.lower() not in _ENDS:
        raise ConfigError(f"expected --html as the name of a page, such as report.html, got {html}")
    if len(records) == 1 and is_training(records[0]) and rows_in(records[0]) is None:
        _show_training(records[0], html, images)
        return
    found = [records_in(path) for path in records]
    paths = [path for path, _ in found]
    named = [NamedRecords(str(path.parent), read_records(path)) for path in paths]
    for _, note in found:
        say(note)
    side_by_side = len(named) > 1 and OUT.width >= SUMMARY_WIDTH
    for table in summary_tables(named) if side_by_side else map(run_table, named):
        OUT.print(table)
    if len(paths) == 1:
        content = read_content(paths[0], images, _note, named[0].records)
        _show_run(content)
        _write_page(html, lambda: render_page(content))
    elif len(paths) == _TWO:
        _compare(paths, named, images, html)


def _show_run(content: PageContent) -> None:
    rows = content.records
    OUT.print(class_table(rows, content.class_names))
    OUT.print(reason_table(rows))
    if len({record.method for record in rows}) > 1:
        OUT.print(step_table(rows))


def _show_training(folder: Path, html: Path | None, images: Images) -> None:
    """Show a training and, in the terminal, the one verification below it."""
    content = TrainingContent.read(folder)
    OUT.print(training_table(content))
    below = _below(folder)
    if len(below) == 1 and html is None:
        _note(f"taking {below[0]}")
        found = read_content(below[0], images, _note)
        OUT.print(run_table(NamedRecords(str(below[0].parent), found.records)))
        _show_run(found)
    elif below:
        say(f"verifications: {', '.join(str(path.parent) for path in below)}; name one to show it")
    _write_page(html, lambda: render_training(content))


def _compare(paths: Sequence[Path], named: Sequence[NamedRecords], images: Images, html: Path | None) -> None:
    """Compare two runs image by image; what cannot be compared is said, or refused where a page is asked for."""
    names = _short_names(paths[0].parent, paths[1].parent)
    try:
        finder = _no_images if html is None else images
        first, second = (read_content(path, finder, _note, one.records) for path, one in zip(paths, named, strict=True))
        comparison = Comparison.of(names, first, second)
    except RecordError as error:
        if html is not None:
            raise
        _note(f"not compared image by image: {error}")
        return
    for notice in comparison.notices:
        _note(notice)
    OUT.print(transition_table(comparison))
    if comparison.changed:
        OUT.print(changed_table(comparison))
    _write_page(html, lambda: render_comparison(comparison))


def _short_names(first: Path, second: Path) -> tuple[str, str]:
    """Return what tells two folders apart, without what both lie in."""
    folders = first.resolve(), second.resolve()
    shared = Path(os.path.commonpath(folders))
    one, two = (folder.relative_to(shared).as_posix() if folder != shared else folder.name for folder in folders)
    return one, two


def _below(folder: Path) -> list[Path]:
    return [found for path in sorted(folder.iterdir()) if path.is_dir() and (found := rows_in(path)) is not None]


def _pages(images: Images, data_dir: Path | None) -> Pages:
    """Return what makes the pages of --serve: of verifications, tunings and trainings, and those of other packages."""
    others = [make for _, make in registered(_PAGES_GROUP)]

    def page(folder: Path) -> str | None:
        if (records := rows_in(folder)) is not None and records.with_name(RUN).is_file():
            return render_page(read_content(records, images, _note))
        if is_tuning(folder):
            return render_tuning(TuningContent.read(folder))
        if is_training(folder) and not any((folder / name).is_file() for name in _PAGES):
            return render_training(TrainingContent.read(folder))
        found = (make(folder, data_dir) for make in others)
        return next((text for text in found if text is not None), None)

    return page


def _serve(folders: Sequence[Path], html: Path | None, port: int | None, pages: Pages) -> None:
    """Serve one folder until Ctrl-C.

    Raises:
        ConfigError: if more is asked for, or it cannot be served.
    """
    if len(folders) != 1:
        raise ConfigError(f"expected one folder with --serve, got {len(folders)}")
    if html is not None:
        raise ConfigError("expected --html or --serve, got both; write the page first, then serve its folder")
    (folder,) = folders
    with folder_server(folder, _PORT if port is None else port, pages) as server:
        page = next((name for name in _PAGES if (folder / name).is_file()), "")
        OUT.print(f"http://{HOST}:{server.server_port}/{page}", highlight=False, soft_wrap=True)
        LOG.print(f"serving {folder} to this machine; Ctrl-C ends it", highlight=False, soft_wrap=True)
        with suppress(KeyboardInterrupt):  # the way that it ends
            server.serve_forever()


def _no_images(run: RunInfo, folder: Path) -> None:
    """Find no images, where rows alone are compared."""


def _note(text: str) -> None:
    say(f"note: {text}")


def _write_page(path: Path | None, render: Callable[[], str]) -> None:
    if path is None:
        return
    # JSON can hold what UTF-8 cannot
    write_text(path, render(), "choose another --html", errors="replace")
    OUT.print(f"wrote {path}", highlight=False, soft_wrap=True)
