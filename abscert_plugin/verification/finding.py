"""One thing that the check of a certificate looked at, or did not, and what was found."""

from dataclasses import dataclass
from typing import Final, final

_NAMED: Final = 5  # images that a failed check names


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: what, whether it holds, and what was found.

    Args:
        name: what it is.
        holds: whether it holds; None where it was not looked at, or not all of it, and nothing contradicts it.
        detail: what was found.
    """

    name: str
    holds: bool | None
    detail: str


def checked(name: str, fault: str, found: str) -> Check:
    """Return what was looked at: a fault, or what was found where there is none."""
    return Check(name, not fault, fault or found)


def not_checked(name: str, why: str) -> Check:
    """Return what was not looked at, and why."""
    return Check(name, None, f"not checked: {why}")


def listed(faults: list[str]) -> str:
    """Return faults in a line: a few, and how many more there are."""
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return "; ".join(faults[:_NAMED]) + more
