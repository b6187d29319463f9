"""How a rate, an interval, a time, a radius, a class and a claim are written; one wording for terminal and page."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from abscert_plugin.records import Record

ABSENT: Final = "\N{EM DASH}"
_ROUND: Final = 10  # hours of an estimate from which they are whole
# scale -> (the other scale, what a radius on it is multiplied by): x_training = 2 * x_pixel - 1
_OTHER_SCALE: Final[Mapping[str, tuple[str, float]]] = MappingProxyType(
    {"pixel": ("training", 2.0), "training": ("pixel", 0.5)}
)

INPUTS: Final[Mapping[str, str]] = MappingProxyType({"float": "all images", "uint8": "8-bit images only"})


def percent(rate: float) -> str:
    """Return a rate (0 to 1) in per cent, without the sign.

    >>> percent(0.0111)
    '1.11'
    """
    return f"{100 * rate:.2f}"


def interval_percent(interval: tuple[float, float]) -> str:
    """Return an interval of a rate (0 to 1) in per cent, without the sign.

    >>> interval_percent((0.01, 0.025))
    '1.00\u20132.50'
    """
    low, high = interval
    return f"{percent(low)}\N{EN DASH}{percent(high)}"


def duration(seconds: float) -> str:
    """Return a time in two units at most.

    >>> duration(4.2), duration(200.0), duration(7260.0)
    ('4 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def rough_duration(seconds: float) -> str:
    """Return an estimate of a time, in one unit and two digits or so: more would say more than is known.

    >>> rough_duration(42.3), rough_duration(200.0), rough_duration(9000.0), rough_duration(3.6e7)
    ('42 s', '3 min', '2.5 h', '10,000 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{hours:,.0f} h" if hours >= _ROUND else f"{hours:.1f} h" if hours >= 1 else f"{seconds / 60:.0f} min"


def signed(value: float | None) -> str:
    """Return a number with its sign, three significant digits; a dash where there is none.

    >>> signed(0.25), signed(None)
    ('+0.25', '\u2014')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def both_radii(record: Record) -> tuple[str, str] | None:
    """Return the row's radius on its own scale, and the same radius on the other one; None for the claim `cell`."""
    if record.radius is None:
        return None
    own = f"{record.radius:.4g} {record.radius_scale}"
    other = _OTHER_SCALE.get(record.radius_scale or "")
    return own, "" if other is None else f"{other[1] * record.radius:.4g} {other[0]}"


def radius_text(record: Record) -> str:
    """Return the row's radius on both scales in one phrase, or a dash."""
    radii = both_radii(record)
    if radii is None:
        return ABSENT
    own, other = radii
    return f"{own} ({other})" if other else own


def inputs_text(record: Record) -> str:
    """Return which images the row's ball holds, empty where the row does not say."""
    return "" if record.inputs is None else INPUTS.get(record.inputs, record.inputs)


def narrower_inputs(record: Record) -> str:
    """Return which images the row's ball holds where these are not all, else empty."""
    return "" if record.inputs == "float" else inputs_text(record)


def claim_text(record: Record) -> str:
    """Return the row's claim in one phrase, such as `claim ball, radius 0.1 pixel (0.2 training)`."""
    radius = "" if record.radius is None else f"radius {radius_text(record)}"
    return ", ".join(part for part in (f"claim {record.claim}", radius, narrower_inputs(record)) if part)


def class_name(label: int, classes: Sequence[str] | None) -> str:
    """Return the name of a class, its number where it has none, or `none` for the prediction -1.

    >>> class_name(1, ("cat", "dog")), class_name(7, None), class_name(-1, None)
    ('dog', '7', 'none')
    """
    if label < 0:
        return "none"
    return classes[label] if classes is not None and label < len(classes) else str(label)
