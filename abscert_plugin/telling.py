"""How far a piece of work is, told by whoever does it to whoever shows it."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Tell(Protocol):
    """Is told how far a piece of work is, whenever that changes."""

    def __call__(self, what: str, done: int, total: int | None, note: str = "") -> object:
        """Take notice.

        Args:
            what: is being done; a piece of work does several things, one after the other.
            done: how much of it.
            total: how much there is; None where that is not known.
            note: what else there is to say.
        """


def nobody(what: str, done: int, total: int | None, note: str = "") -> None:
    """Take no notice."""
