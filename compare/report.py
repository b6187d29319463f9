"""One HTML page of a comparison: its charts, tables, pictures and runs; it loads nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import abscert_plugin
from abscert_plugin.report.changes import COLOURS as CHANGES
from compare.bars import charts
from compare.catalogue import all_tables
from compare.collect import Outcome, outcomes
from compare.curve_plot import BOTTOM, COLOURS, HEIGHT, LEFT, PALETTE, RIGHT, TOP, WIDTH, Plot, plots
from compare.curves import curve_charts
from compare.formats import templates
from compare.gallery import MOST_BYTES, MOST_ITEMS, halls
from compare.landscape_record import LandscapeRecord, StoredLandscape, stored_landscapes
from compare.listing import facts, listed
from compare.plan import read_plan
from compare.results import Place, State, places, stored_runs
from compare.tables import PROTOCOLS, require_runs
from compare.times import read_times

_TITLE: Final = "Comparison of methods"
_MIME: Final = {".png": "image/png", ".svg": "image/svg+xml"}
_MOST_LANDSCAPE_BYTES: Final = 6_000_000
_SIZE: Final = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
_HEAD, _ROW, _NAMES_WIDTH = 48, 22, 400  # of a picture that stands alone: above a chart, of a name, beside it


@final
@dataclass(frozen=True)
class Content:
    """What a page is made of.

    Args:
        results: the results folder.
        title: of the plan, or of all runs.
        places: the runs, done or not.
        found: the verifications of those that are done.
    """

    results: Path
    title: str
    places: tuple[Place, ...]
    found: tuple[Outcome, ...]

    @classmethod
    def read(cls, results: Path, plan: str | None = None) -> "Content":
        """Return all runs of a results folder, or those of a plan, also where the folder has none of them yet.

        Raises:
            ConfigError: if the plan cannot be read.
            RecordError: if there are no runs, or a file of one that is done cannot be read.
        """
        if plan is None:
            title, held = _TITLE, tuple(stored_runs(results))
        else:
            chosen = read_plan(plan)
            title, held = chosen.title, places(chosen.runs(), results)
        keys = {place.run.key for place in held}
        found = tuple(outcome for outcome in outcomes(results)[0] if outcome.run.key in keys)
        content = cls(results, title, held, found)
        require_runs(results, found, content.others)
        return content

    @property
    def others(self) -> tuple[Place, ...]:
        """The runs that are not done."""
        return tuple(place for place in self.places if place.state is not State.DONE)


@final
@dataclass(frozen=True, slots=True)
class LandscapePicture:
    """A picture of a landscape, as a data URI; empty where there is no room for it on the page."""

    name: str
    uri: str
    record: LandscapeRecord | None


def render_report(content: Content, page: Path, data_dir: Path | None = None) -> str:
    """Return the page.

    Args:
        content: what it is made of.
        page: where it will lie: links to records are relative to that, and left out where they would lead upwards to
            the results folder from elsewhere.
        data_dir: where the data sets' files are, for the clean images; `$ABSCERT_DATA` where None.

    Raises:
        RecordError: if a file cannot be read, or records of different versions would be averaged.
    """
    runs = listed(content.places, content.results, page)
    done = len(content.places) - len(content.others)
    return (
        templates()
        .get_template("report.html")
        .render(
            title=content.title,
            counts=f"{done} of {len(content.places)} runs are done.",
            charts=charts(content.found),
            plots=plots(curve_charts(content.found)),
            size=_SIZE,
            colours=COLOURS,
            tones=[f"var(--tone-{place})" for place in range(len(COLOURS))],
            tables=all_tables(content.results, content.found, content.others, read_times(content.results)),
            landscapes=_pictures(stored_landscapes(content.results)),
            halls=halls(content.found, data_dir),
            changes={name: "#" + bytes(colour).hex() for name, colour in CHANGES.items()},
            most_items=MOST_ITEMS,
            most_megabytes=MOST_BYTES // 1_000_000,
            runs=runs,
            linked=any(run.links for run in runs),
            facts=facts(content.found),
            protocols=[PROTOCOLS[name] for name in sorted({place.run.protocol for place in content.places})],
            methods=_methods({place.run.method for place in content.places}),
            version=abscert_plugin.__version__,
        )
    )


def render_curves(drawn: Sequence[Plot]) -> str:
    """Return the curves as one SVG picture that stands alone, in the colours of a light page."""
    rows = [len(plot.lines) + (len(plot.flats) + 1 if plot.flats else 0) for plot in drawn]
    heights = [_HEAD + max(HEIGHT, 60 + _ROW * count) for count in rows]
    paint = {**PALETTE, "tones": [light for light, _ in COLOURS]}
    template = templates().get_template("curves.html")
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
        content = one.picture.read_bytes()
        left -= len(content)
        encoded = base64.b64encode(content).decode("ascii")
        uri = f"data:{_MIME[one.picture.suffix]};base64,{encoded}" if left >= 0 else ""
        shown.append(LandscapePicture(one.picture.stem, uri, one.record))
    return shown
