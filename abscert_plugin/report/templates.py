"""Where the pages' templates come from, and how they write numbers."""

import jinja2

from abscert_plugin.report import figures


def environment() -> jinja2.Environment:
    """Return the templates of this room; whatever they show is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("abscert_plugin.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["count_text"] = "{:,}".format
    found.filters["percent"] = figures.percent
    found.filters["interval_percent"] = figures.interval_percent
    found.filters["signed"] = figures.signed
    found.filters["time_text"] = figures.duration
    return found
