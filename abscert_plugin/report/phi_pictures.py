"""What phi makes of a few images: their cells' lower and upper ends, and which pixels a ball takes into other cells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from abscert_plugin.ball import Ball
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import RecordError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record, RunInfo
from abscert_plugin.report.changes import faint
from abscert_plugin.report.counterexamples import ball_of
from abscert_plugin.report.figures import class_name
from abscert_plugin.report.gallery import Picture, draw_image, png_uri, take_images, to_bytes
from abscert_plugin.verification.decision import ITSELF

OF_EACH: Final = 2
"""Images that are shown of each verdict."""
STRADDLE_COLOURS: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"two": (230, 159, 0), "more": (118, 42, 131)}
)
"""Of a pixel that reaches two cells, and of one that reaches more."""
_TWO: Final = 2


@final
@dataclass(frozen=True, slots=True)
class PhiItem:
    """One image under the abstraction.

    Args:
        record: its row.
        label: its class, by name.
        pictures: the image, the lower ends, the upper ends and, of a ball, the pixels that straddle cells.
        text: how many pixels straddle; empty of the claim `cell`.
        log2_count: log2 of how many combinations of cells the ball reaches.
    """

    record: Record
    label: str
    pictures: tuple[Picture, ...]
    text: str = ""
    log2_count: float = 0.0


def phi_items(
    run: RunInfo, records: Sequence[Record], data: DataSet, grid: Grid, names: Sequence[str] | None
) -> tuple[PhiItem, ...]:
    """Return the pictures of a few images: falsified, unknown, and certified by the smallest margin.

    Raises:
        DataError: if the images have neither 1 nor 3 channels.
        RecordError: if rows of the claim `ball` tell of no ball.
    """
    chosen = chosen_rows(records, frozenset(data.index.tolist()))
    images = take_images(data, [record.index for record in chosen])
    return tuple(_item(run, record, images[record.index], grid, names) for record in chosen)


def chosen_rows(records: Sequence[Record], known: frozenset[int]) -> list[Record]:
    """Return the rows that are shown: of each verdict those of the margin nearest to 0.

    Of the falsified, those that a changed image falsifies come first: there is more to see.

    Args:
        records: all rows.
        known: the indices whose images are at hand.
    """
    there = [record for record in records if record.index in known]
    chosen = []
    for verdict in (Verdict.FALSIFIED, Verdict.UNKNOWN, Verdict.CERTIFIED):
        own = [record for record in there if record.verdict == verdict]
        chosen += sorted(own, key=lambda record: (record.counterexample == ITSELF, _size(record), record.index))[
            :OF_EACH
        ]
    return chosen


def _size(record: Record) -> float:
    margin = record.margin
    return math.inf if margin is None or math.isnan(margin) else abs(margin)


def _item(
    run: RunInfo,
    record: Record,
    image: Float32[np.ndarray, "channels height width"],
    grid: Grid,
    names: Sequence[str] | None,
) -> PhiItem:
    cells, edges = grid.cell(image), grid.edges
    height, width = image.shape[1:]
    ends = ((edges[:-1], "lower ends"), (edges[1:], "upper ends"))
    pictures = [draw_image(image, "image")]
    pictures += [
        Picture(name, f"the {name} of its cells", png_uri(to_bytes(edge[cells])), height, width) for edge, name in ends
    ]
    text, log2_count = "", 0.0
    if record.claim == Claim.BALL:
        reach = Cells(grid).reach(_ball(run, record), image[None])
        counts = reach.highest[0].astype(np.int64) - reach.lowest[0] + 1
        moving = int((counts > 1).any(axis=0).sum())
        text, log2_count = f"{moving:,} of {height * width:,} pixels straddle an edge", float(np.log2(counts).sum())
        pictures.append(Picture("straddling", text, png_uri(draw_straddling(image, counts)), height, width))
    return PhiItem(record, class_name(record.label, names), tuple(pictures), text, log2_count)


def _ball(run: RunInfo, record: Record) -> Ball:
    try:
        return Ball.told(run.configuration)
    except RecordError:  # of an older run; the row has the float nearest to the radius
        return ball_of(record)


def draw_straddling(
    image: Float32[np.ndarray, "channels height width"], counts: Int64[np.ndarray, "channels height width"]
) -> UInt8[np.ndarray, "3 height width"]:
    """Return the picture of how many cells each pixel reaches; one that keeps its cell shows the image's grey, faint.

    Args:
        image: the image.
        counts: how many cells each pixel reaches, of each channel; the most of them counts.
    """
    drawn = faint(image)
    most = counts.max(axis=0)
    for where, name in ((most == _TWO, "two"), (most > _TWO, "more")):
        drawn[:, where] = np.array(STRADDLE_COLOURS[name], dtype=np.uint8)[:, None]
    return drawn
