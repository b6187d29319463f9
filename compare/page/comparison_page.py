"""One HTML page of a comparison: its charts, tables, pictures and runs; it loads nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import abscert_plugin
from abscert_plugin.report.changes import COLOURS as CHANGES
from compare.landscape.stored_landscape import LandscapeRecord, StoredLandscape, stored_landscapes
from compare.page.curve_plot import BOTTOM, COLOURS, HEIGHT, LEFT, PALETTE, RIGHT, TOP, WIDTH, Plot, plots
from compare.page.curves import curve_charts
from compare.page.error_bars import charts
from compare.page.falsified import MOST_BYTES, MOST_ITEMS, falsified_galleries
from compare.page.listing import facts, listed
from compare.plans.plan import read_plan
from compare.results.stored_run import State, StoredRun, need_runs, stored_runs, stored_runs_of
from compare.results.verified_run import VerifiedRun, verified_runs
from compare.tables.catalogue import Sources, all_tables
from compare.tables.error_table import PROTOCOL_NOTES
from compare.tables.formats import templates

_TITLE: Final = "Comparison of methods"
_MIME: Final = {".png": "image/png", ".svg": "image/svg+xml"}
_MOST_LANDSCAPE_BYTES: Final = 6_000_000
_SIZE: Final = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
_HEAD, _ROW, _NAMES_WIDTH = 48, 22, 400  # of a picture that stands alone: above a chart, of a name, beside it


@final
@dataclass(frozen=True)
class ComparisonContent:
    """What a page is made of.

    Args:
        results: the results folder.
        title: of the plan, or of all runs.
        stored: the runs, done or not.
        found: the verifications of those that are done.
    """

    results: Path
    title: str
    stored: tuple[StoredRun, ...]
    found: tuple[VerifiedRun, ...]

    @classmethod
    def read(cls, results: Path, plan: str | None = None) -> "ComparisonContent":
        """Return all runs of a results folder, or those of a plan, also where the folder has none of them yet.

        Raises:
            ConfigError: if the plan cannot be read.
            RecordError: if there are no runs, or a file of one that is done cannot be read.
        """
        if plan is None:
            title, held = _TITLE, tuple(stored_runs(results))
        else:
            chosen = read_plan(plan)
            title, held = chosen.title, stored_runs_of(chosen.runs(), results)
        keys = {stored.run.key for stored in held}
        found = tuple(verified for verified in verified_runs(results)[0] if verified.run.key in keys)
        content = cls(results, title, held, found)
        need_runs(results, (*found, *content.others))
        return content

    @property
    def others(self) -> tuple[StoredRun, ...]:
        """The runs that are not done."""
        return tuple(stored for stored in self.stored if stored.state is not State.DONE)


@final
@dataclass(frozen=True, slots=True)
class LandscapePicture:
    """A picture of a landscape, as a data URI; empty where there is no room for it on the page."""

    name: str
    uri: str
    record: LandscapeRecord | None


def render_report(content: ComparisonContent, page: Path, data_dir: Path | None = None, served: bool = False) -> str:
    """Return the page.

    Args:
        content: what it is made of.
        page: where it will lie: links to records are relative to that, and left out where they would lead upwards to
            the results folder from elsewhere.
        data_dir: where the data sets' files are, for the clean images; `$ABSCERT_DATA` where None.
        served: whether the page is one of `abscert show --serve`, which has a page of each training and verification.

    Raises:
        RecordError: if a file cannot be read, or records of different versions would be averaged.
    """
    runs = listed(content.stored, content.results, page, served)
    done = len(content.stored) - len(content.others)
    return (
        templates()
        .get_template("page/report.html")
        .render(
            title=content.title,
            counts=f"{done} of {len(content.stored)} runs are done.",
            charts=charts(content.found),
            plots=plots(curve_charts(content.found)),
            size=_SIZE,
            colours=COLOURS,
            tones=[f"var(--tone-{number})" for number in range(len(COLOURS))],
            tables=all_tables(Sources.of(content.results, content.found, content.others)),
            landscapes=_pictures(stored_landscapes(content.results)),
            falsified=falsified_galleries(content.found, data_dir),
            changes={name: "#" + bytes(colour).hex() for name, colour in CHANGES.items()},
            most_items=MOST_ITEMS,
            most_megabytes=MOST_BYTES // 1_000_000,
            runs=runs,
            linked=any(run.links for run in runs),
            facts=facts(content.found),
            protocols=[PROTOCOL_NOTES[name] for name in sorted({stored.run.protocol for stored in content.stored})],
            methods=_methods({stored.run.method for stored in content.stored}),
            version=abscert_plugin.__version__,
        )
    )


def render_curves(drawn: Sequence[Plot]) -> str:
    """Return the curves as one SVG picture that stands alone, in the colours of a light page."""
    rows = [len(plot.lines) + (len(plot.flats) + 1 if plot.flats else 0) for plot in drawn]
    heights = [_HEAD + max(HEIGHT, 60 + _ROW * count) for count in rows]
    paint = {**PALETTE, "tones": [light for light, _ in COLOURS]}
    template = templates().get_template("page/curves.html")
    return template.render(
        plots=drawn, size=_SIZE, heights=heights, paint=paint, head=_HEAD, row=_ROW, names_width=_NAMES_WIDTH
    )


def _methods(used: set[str]) -> Sequence[Any]:
    """Return what is known of methods; nothing where torch, which they are written in, is not installed."""
    try:
        from abscert_plugin.training.methods import METHODS
    except ImportError:
        return []
    return [entry for name, entry in METHODS.items() if name in used]


def _pictures(stored: Sequence[StoredLandscape]) -> list[LandscapePicture]:
    shown, left = [], _MOST_LANDSCAPE_BYTES
    for one in stored:
        left -= one.picture.stat().st_size
        encoded = base64.b64encode(one.picture.read_bytes()).decode("ascii") if left >= 0 else ""
        uri = f"data:{_MIME[one.picture.suffix]};base64,{encoded}" if encoded else ""
        shown.append(LandscapePicture(one.picture.stem, uri, one.record))
    return shown
