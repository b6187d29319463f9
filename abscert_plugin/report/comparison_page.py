"""Two verifications of the same images as one HTML page: verdicts that changed, with their pictures and margins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import abscert_plugin
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.records import Record
from abscert_plugin.report import figures
from abscert_plugin.report.comparison import VERDICTS, Comparison, Pair
from abscert_plugin.report.counterexamples import Sources, shown_images
from abscert_plugin.report.gallery import Picture, take_images
from abscert_plugin.report.page import why_no_pictures
from abscert_plugin.report.templates import environment
from abscert_plugin.verification.summary import summarise

MOST_ITEMS: Final = 60
MOST_ROWS: Final = 2000
_PICTURE_BYTES: Final = 12_000_000
_PICTURES: Final = 5  # of an image at most: itself, and two of each run
_LETTERS: Final = ("A", "B")


@final
@dataclass(frozen=True, slots=True)
class ChangedItem:
    """An image whose verdicts differ.

    Args:
        pair: its rows.
        label: its class, by name.
        predictions: what each run's file gives it, by name.
        pictures: the image, and the counterexamples that are stored of it.
    """

    pair: Pair
    label: str
    predictions: tuple[str, str]
    pictures: tuple[Picture, ...]


def render_comparison(comparison: Comparison) -> str:
    """Return the page; all that comes from files is escaped.

    Raises:
        RecordError: if the rows of a run differ in claim or radius.
        DataError: if the data set's images cannot be read or drawn.
    """
    data, missing = _data(comparison)
    changed = comparison.changed
    shown = changed[: _limit(data)]
    return (
        environment()
        .get_template("comparison.html")
        .render(
            comparison=comparison,
            letters=_LETTERS,
            summaries=[summarise(content.records) for content in comparison.contents],
            claims=[figures.claim_text(content.records[0]) for content in comparison.contents],
            verdicts=VERDICTS,
            changed=[_item(comparison, pair, ()) for pair in changed[:MOST_ROWS]],
            count=len(changed),
            items=_items(comparison, shown, data),
            missing=missing,
            version=abscert_plugin.__version__,
        )
    )


def _data(comparison: Comparison) -> tuple[DataSet | None, str]:
    """Return the images, and why there are none."""
    missing = ""
    for content in comparison.contents:
        missing = why_no_pictures(content)
        if not missing:
            return content.data, ""
    return None, missing


def _limit(data: DataSet | None) -> int:
    if data is None:
        return 0
    return max(1, min(MOST_ITEMS, _PICTURE_BYTES // (_PICTURES * 3 * math.prod(data.shape[1:]))))


def _items(comparison: Comparison, pairs: Sequence[Pair], data: DataSet | None) -> list[ChangedItem]:
    if data is None:
        return []
    images = take_images(data, [pair.first.index for pair in pairs])
    rows: tuple[list[Record], list[Record]] = ([pair.first for pair in pairs], [pair.second for pair in pairs])
    drawn = [
        shown_images(own, images, Sources(None, content.folder))
        for own, content in zip(rows, comparison.contents, strict=True)
    ]
    items = []
    for pair in pairs:
        found = [shown[pair.first.index].pictures for shown in drawn if pair.first.index in shown]
        pictures = [*(found[0][:1] if found else ())]
        for letter, own in zip(_LETTERS, found, strict=False):
            pictures += [replace(picture, caption=f"{letter}: {picture.caption}") for picture in own[1:]]
        items.append(_item(comparison, pair, tuple(pictures)))
    return items


def _item(comparison: Comparison, pair: Pair, pictures: tuple[Picture, ...]) -> ChangedItem:
    names = comparison.class_names
    first, second = (figures.class_name(row.prediction, names) for row in (pair.first, pair.second))
    return ChangedItem(pair, figures.class_name(pair.first.label, names), (first, second), pictures)
