"""Where the pages' templates come from."""

import jinja2


def environment() -> jinja2.Environment:
    """Return the templates of this room; whatever they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("abscert_plugin.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
