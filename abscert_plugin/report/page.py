"""A verification run as one HTML page that needs no network and no other file."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

import abscert_plugin
from abscert_plugin.claim import Claim, Inputs, Verdict, scope
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import RecordError
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record, RunInfo
from abscert_plugin.report import figures
from abscert_plugin.report.bars import class_chart
from abscert_plugin.report.changes import COLOURS
from abscert_plugin.report.counterexamples import Replay, Shown, Sources, shown_images
from abscert_plugin.report.gallery import take_images
from abscert_plugin.report.phi_pictures import STRADDLE_COLOURS, PhiItem, phi_items
from abscert_plugin.report.steps import decided_by
from abscert_plugin.report.templates import environment
from abscert_plugin.verification.summary import summarise

MAX_ITEMS: Final = 200
MAX_REASONS: Final = 12
# Raw bytes of all pictures of a page; fewer items are shown where images are large (40 of 224 x 224 in colour).
_PICTURE_BYTES: Final = 12_000_000
_DIGEST_SHOWN: Final = 12
_IMAGE_AND_CELLS: Final = 2  # pictures of an image without a counterexample
_EDGES_SHOWN: Final = 8


@final
@dataclass(frozen=True)
class PageContent:
    """What a page is made of.

    Args:
        run: the content of run.json.
        records: the run's rows, of one claim and one radius.
        grid: the model's grid, whose cells are drawn beside each image; None draws the images alone.
        data: where the images are; None writes the page without pictures.
        folder: where the run keeps its counterexamples; None draws none.
        replay: runs the deployed file; None leaves the counterexamples' labels out.
    """

    run: RunInfo
    records: Sequence[Record]
    grid: Grid | None = None
    data: DataSet | None = None
    folder: Path | None = None
    replay: Replay | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes; None without the data set."""
        return None if self.data is None else self.data.classes


@final
@dataclass(frozen=True, slots=True)
class HeadLine:
    """One line of the page's head; `detail` is the long form of a shortened value."""

    name: str
    value: str
    detail: str = ""


@final
@dataclass(frozen=True, slots=True)
class Reason:
    """How many images share a verdict and its reason."""

    verdict: str
    text: str
    count: int


@final
@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One image that is not certified: its row, the names of its classes, and what is shown of it.

    Args:
        record: its row.
        label, prediction: its class and the predicted one, by name.
        refuted: the class that its counterexample gets, by name; empty where that is not known.
        shown: its pictures.
    """

    record: Record
    label: str
    prediction: str
    refuted: str
    shown: Shown


@final
@dataclass(frozen=True, slots=True)
class Gallery:
    """The images that are shown.

    Args:
        items: those shown, most negative margin first, those without a margin last.
        classes: label and name of the classes of those shown, by label.
        failing: how many there are, shown or not.
        missing: why there are no pictures; empty where there are.
    """

    items: tuple[GalleryItem, ...]
    classes: tuple[tuple[int, str], ...]
    failing: int
    missing: str


def render_page(content: PageContent) -> str:
    """Return the page; all that comes from files is escaped.

    Raises:
        RecordError: if there is no row, an image stands twice, the rows differ in claim or radius, or the claim or the
            kind of images has no meaning.
        DataError: if the data set's images cannot be read or drawn.
    """
    summary = summarise(content.records)
    if summary.claim not in list(Claim):
        raise RecordError(f"expected records of the claim {' or '.join(Claim)}, got {summary.claim!r}")
    first = content.records[0]
    if first.inputs not in (None, *Inputs):
        raise RecordError(f"expected records of the images {' or '.join(Inputs)}, got {first.inputs!r}")
    gallery = _gallery(content)
    return (
        environment()
        .get_template("page.html")
        .render(
            summary=summary,
            scope=scope(Claim(summary.claim), first.inputs),
            claim=figures.claim_text(first),
            inputs=figures.narrower_inputs(first),
            steps=decided_by(content.records),
            colours={name: "#" + bytes(colour).hex() for name, colour in {**COLOURS, **STRADDLE_COLOURS}.items()},
            seen=_seen(content, gallery.missing),
            radius=figures.radius_text(first),
            names=[name for name in (_text(content.run.data, "name"), _text(content.run.model, "path")) if name],
            notices=_notices(content),
            facts=_facts(content),
            chart=class_chart(content.records, content.class_names),
            reasons=_reasons(content.records),
            max_reasons=MAX_REASONS,
            gallery=gallery,
            changed=any(len(item.shown.pictures) > _IMAGE_AND_CELLS for item in gallery.items),
            coloured=content.data is not None and content.data.shape[0] > 1,
            cells=content.grid.cells if content.grid else None,
            details=_details(content.run),
            version=abscert_plugin.__version__,
        )
    )


def _notices(content: PageContent) -> list[str]:
    """Return what a reader must know before the figures."""
    notices = []
    if content.run.seconds is None:
        notices.append("This run has not finished; the figures are of the rows written so far.")
    images = (content.run.data or {}).get("images")
    if isinstance(images, int) and images != len(content.records):
        notices.append(f"These are the rows of {len(content.records):,} of the run's {images:,} images.")
    return notices


def _facts(content: PageContent) -> list[HeadLine]:
    run = content.run
    first = content.records[0]
    facts = [
        HeadLine("Data set", ", ".join(part for part in (_text(run.data, "name"), _text(run.data, "split")) if part)),
        _digest("Data sha256", run.data),
        HeadLine("Model", _text(run.model, "path")),
        _digest("Model sha256", run.model),
        HeadLine("Network", _text(run.model, "network")),
        _cells(content),
        HeadLine("Claim", first.claim),
        HeadLine("Radius", "" if first.radius is None else figures.radius_text(first)),
        HeadLine("Inputs", figures.inputs_text(first)),
        HeadLine("Certified for", summarise(content.records).holds_for),
        _floor(run),
        HeadLine("Provider", run.provider or ""),
        HeadLine("Device", run.device),
        HeadLine("Time", "" if run.seconds is None else f"{run.seconds:,.1f} s"),
        HeadLine("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]
    return [fact for fact in facts if fact.value]


def _cells(content: PageContent) -> HeadLine:
    """Return the count of cells and, where they differ in width, their edges."""
    grid, run = content.grid, content.run
    if grid is None:
        return HeadLine("Cells per channel", _text(run.model, "cells") or _text(run.configuration, "cells"))
    if grid.is_uniform:
        return HeadLine("Cells per channel", str(grid.cells))
    edges = [f"{edge:.4g}" for edge in grid.inner_edges]
    dots = "" if len(edges) <= _EDGES_SHOWN else ", \N{HORIZONTAL ELLIPSIS}"
    shown = f"{grid.cells}, with edges at {', '.join(edges[:_EDGES_SHOWN])}{dots} (pixel scale)"
    return HeadLine("Cells per channel", shown, ", ".join(edges) if dots else "")


def _floor(run: RunInfo) -> HeadLine:
    """Return the margin that a run needs, and that of a bound in runs whose bounds were not proven."""
    floor, bound = (run.configuration.get(name) for name in ("floor", "bound_floor"))
    if not isinstance(floor, int | float):
        return HeadLine("Floor of the margin", "")
    of_bounds = f"; of bounds {bound:.3g}" if isinstance(bound, int | float) else ""
    return HeadLine("Floor of the margin", f"{floor:.3g}{of_bounds}")


def _digest(name: str, source: Mapping[str, Any] | None) -> HeadLine:
    digest = _text(source, "sha256")
    shown = digest if len(digest) <= _DIGEST_SHOWN else f"{digest[:_DIGEST_SHOWN]}\N{HORIZONTAL ELLIPSIS}"
    return HeadLine(name, shown, digest)


def _text(source: Mapping[str, Any] | None, key: str) -> str:
    """Return an entry as text, empty where it is absent."""
    value = None if source is None else source.get(key)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _details(run: RunInfo) -> dict[str, dict[str, str]]:
    """Return every entry of run.json as text, by group."""
    groups = {"Options": run.configuration, "Data set": run.data, "Model": run.model, "Versions": run.versions}
    return {name: {str(key): _text(group, key) for key in group} for name, group in groups.items() if group}


def _reasons(records: Sequence[Record]) -> list[Reason]:
    counts = Counter((record.verdict, record.reason) for record in records)
    return [Reason(verdict, reason, count) for (verdict, reason), count in counts.most_common()]


def _gallery(content: PageContent) -> Gallery:
    failing = [record for record in content.records if record.verdict != Verdict.CERTIFIED]
    missing = why_no_pictures(content)
    data = None if missing else content.data
    shown = sorted(failing, key=_by_margin)[: _item_limit(data, content.records[0].claim)]
    images = take_images(data, [record.index for record in shown]) if data else {}
    found = shown_images(shown, images, Sources(content.grid, content.folder, content.replay))
    items = tuple(_item(record, found.get(record.index, Shown()), content.class_names) for record in shown)
    classes = tuple(sorted({(item.record.label, item.label) for item in items}))
    return Gallery(items, classes, len(failing), missing)


def _seen(content: PageContent, missing: str) -> tuple[PhiItem, ...]:
    """Return a few images as phi shows them to the network; none where there is no phi or no image."""
    if missing or content.grid is None or content.data is None:
        return ()
    return phi_items(content.run, content.records, content.data, content.grid, content.class_names)


def _item(record: Record, shown: Shown, names: Sequence[str] | None) -> GalleryItem:
    label, prediction = (figures.class_name(number, names) for number in (record.label, record.prediction))
    refuted = "" if shown.label is None else figures.class_name(shown.label, names)
    return GalleryItem(record, label, prediction, refuted, shown)


def _by_margin(record: Record) -> tuple[float, int]:
    margin = record.margin
    return (math.inf if margin is None or math.isnan(margin) else margin), record.index


def _item_limit(data: DataSet | None, claim: str) -> int:
    if data is None:
        return MAX_ITEMS
    image_and_cells = 2 * math.prod(data.shape)
    # a counterexample, and two pictures in colour of what it changed
    more = math.prod(data.shape) + 2 * 3 * math.prod(data.shape[1:]) if claim == Claim.BALL else 0
    return max(1, min(MAX_ITEMS, _PICTURE_BYTES // (image_and_cells + more)))


def why_no_pictures(content: PageContent) -> str:
    """Return why the data set's images are not those of the rows, or empty where they are."""
    data = content.data
    if data is None:
        return "The data set was not at hand when this page was written, so it has no pictures."
    digest = (content.run.data or {}).get("sha256")
    labels = dict(zip(data.index.tolist(), data.labels.tolist(), strict=True))
    differs = any(labels.get(record.index, record.label) != record.label for record in content.records)
    if differs or digest not in (None, data.sha256):
        return "The data set at hand is not the one of this run, so this page has no pictures."
    if not np.isin([record.index for record in content.records], data.index).any():
        return "The data set at hand has none of this run's images, so this page has no pictures."
    return ""
