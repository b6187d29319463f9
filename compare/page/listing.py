"""What the page lists: every run with links to its files, and the machines, versions and data behind the figures."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final
from urllib.parse import quote

from abscert_plugin.files import read_json
from abscert_plugin.records import HISTORY, RECORDS, RUN, RunInfo
from compare.plans.planned_run import Run
from compare.results.stored_run import CONFIG, DONE, TRAINING, StoredRun
from compare.results.verified_run import VerifiedRun
from compare.tables.error_table import scales

_DIGEST_SHOWN: Final = 12


@final
@dataclass(frozen=True, slots=True)
class Link:
    """A file of a run: what it is called, and where it lies, seen from the page."""

    text: str
    href: str


@final
@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run on the page.

    Args:
        run: the run.
        radius: that it is trained for, with both scales.
        state: how far it is.
        reason: why it failed; empty where it did not.
        training_seconds, verifying_seconds: what its files say; empty where they do not.
        folder: its folder, seen from the page; empty where the page lies elsewhere.
        links: its files.
    """

    run: Run
    radius: str
    state: str
    reason: str
    training_seconds: str
    verifying_seconds: str
    folder: str
    links: tuple[Link, ...]


@final
@dataclass(frozen=True, slots=True)
class MadeWith:
    """A line of the page's account of how its figures were made."""

    name: str
    values: tuple[str, ...]


def listed(held: Iterable[StoredRun], results: Path, page: Path, served: bool = False) -> list[ListedRun]:
    """Return the runs by data set, network, method and radius.

    Args:
        held: the runs.
        results: the results folder.
        page: the file that lists them. Links are made where it lies in the results folder or in one above that, so
            that page and records can be moved together, and no name of a folder elsewhere gets into the page.
        served: whether `abscert show --serve` makes pages of folders: links then lead to these, not to files.
    """
    home, root = page.parent.resolve(), results.resolve()
    start = home if root.is_relative_to(home) or home.is_relative_to(root) else None
    ordered = sorted(held, key=lambda stored: _order(stored.run))
    return [_listed(stored, start, served) for stored in ordered]


def _order(run: Run) -> tuple[object, ...]:
    return (
        run.data,
        run.network,
        str(run.activation),
        run.method,
        run.cells or 0,
        run.trained_for.pixel,
        run.seed,
        run.key,
    )


def _listed(stored: StoredRun, start: Path | None, served: bool) -> ListedRun:
    run, folder = stored.run, stored.folder
    return ListedRun(
        run=run,
        radius=scales(run.trained_for.pixel),
        state=str(stored.state),
        reason=stored.reason,
        training_seconds=_seconds([folder / TRAINING / RUN]),
        verifying_seconds=_seconds(sorted(folder.glob(f"verify-*/{RUN}"))),
        folder="" if start is None or not folder.is_dir() else f"{_href(folder, start)}/",
        links=() if start is None else tuple(_links(folder, start, served)),
    )


def _links(folder: Path, start: Path, served: bool) -> Iterator[Link]:
    for text, path in _files(folder):
        has_page = served and path.parent != folder
        if not (has_page and path.name == RUN):  # of a training: its epochs lead to the page
            yield Link(text, f"{_href(path.parent, start)}/" if has_page else _href(path, start))


def _files(folder: Path) -> list[tuple[str, Path]]:
    own = [("config", folder / CONFIG), ("done", folder / DONE)]
    trained = [("training", folder / TRAINING / RUN), ("epochs", folder / TRAINING / HISTORY)]
    verified = [
        (path.parent.name.removeprefix("verify-").replace("-", " "), path)
        for path in sorted(folder.glob(f"verify-*/{RECORDS}*"))
    ]
    return [(text, path) for text, path in (*own, *trained, *verified) if path.is_file()]


def _href(path: Path, start: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), start)).as_posix())


def _seconds(paths: Sequence[Path]) -> str:
    """Return the time that run.json files add up to; empty where none says it."""
    told = [read_json(path).get("seconds") for path in paths if path.is_file()]
    known = [float(seconds) for seconds in told if isinstance(seconds, int | float)]
    return f"{sum(known):,.1f}" if known else ""


def facts(found: Sequence[VerifiedRun]) -> list[MadeWith]:
    """Return what the figures were made with, from the run.json of every training and verification.

    Raises:
        RecordError: if one cannot be read.
    """
    verified = [RunInfo.read(verified.folder / RUN) for verified in found]
    paths = sorted({verified.folder.parent / TRAINING / RUN for verified in found})
    trained = [RunInfo.read(path) for path in paths if path.is_file()]
    every = [*trained, *verified]
    lines = [
        MadeWith("Trained on", _distinct(info.device for info in trained)),
        MadeWith("Verified on", _distinct(info.device for info in verified)),
        MadeWith("Provider of onnxruntime", _distinct(info.provider or "" for info in verified)),
        MadeWith(
            "Versions", _distinct(f"{name} {version}" for info in every for name, version in info.versions.items())
        ),
        MadeWith("Images", _distinct(_data(info) for info in every)),
    ]
    return [line for line in lines if line.values]


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))


def _data(info: RunInfo) -> str:
    told = info.data or {}
    if "name" not in told:
        return ""
    digest = str(told.get("sha256", ""))[:_DIGEST_SHOWN]
    return f"{told['name']}, {told.get('split')}, sha256 {digest}\N{HORIZONTAL ELLIPSIS}"
