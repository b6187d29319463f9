"""Tables of what this project has and what other packages register, such as methods, networks and solvers.

A package registers an entry through an entry point in its pyproject.toml, such as

    [project.entry-points."abscert.networks"]
    tiny = "my_package:TINY"

One that cannot be loaded is named on stderr, once, and left out: it stops no command that has no need of it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.errors import ConfigError

_LOG = logging.getLogger(__name__)


EntryT = TypeVar("EntryT")


def registered(group: str, name: str | None = None) -> Iterator[tuple[EntryPoint, Any]]:
    """Yield the entry points of a group that can be loaded, each with what it names; the others are named on stderr.

    Args:
        group: the group.
        name: only those of this name; None yields all.
    """
    for point in entry_points(group=group) if name is None else entry_points(group=group, name=name):
        try:
            yield point, point.load()
        except Exception as error:  # noqa: BLE001 - whatever another package's import raises
            leave_out(point, f"{type(error).__name__}: {error}")


def leave_out(point: EntryPoint, why: str) -> None:
    """Say in one line that what a package registered is not used."""
    line = f"note: left out {point.name} ({point.value} of the entry points {point.group}): {why}"
    _LOG.warning("%s", " ".join(line.split()))


@final
class Registry(Mapping[str, EntryT], Generic[EntryT]):
    """The entries of one kind by their names: our own, then those of other packages, which are loaded when first read.

    Args:
        kind: the class of an entry; its attribute `name` is what an option calls it.
        own: our own entries, each of another name.
        groups: the entry-point groups in which other packages register theirs.
        noun: what an entry is, in messages.
    """

    def __init__(self, kind: type[EntryT], own: Sequence[EntryT], groups: Sequence[str], noun: str) -> None:
        self._kind = kind
        self._own = own
        self._groups = groups
        self._noun = noun

    @cached_property
    def _entries(self) -> Mapping[str, EntryT]:
        table = {_name(entry): entry for entry in self._own}
        origins = dict.fromkeys(table, "abscert-plugin")
        for point, entry in (found for group in self._groups for found in registered(group)):
            if not isinstance(entry, self._kind):
                leave_out(point, f"expected a {self._kind.__name__}, got {type(entry).__name__}")
            elif _name(entry) in table:
                both = " and ".join(sorted([origins[_name(entry)], point.value]))
                raise ConfigError(
                    f"the {self._noun} {_name(entry)} is registered twice in {point.group}, by {both}; remove a package"
                )
            else:
                table[_name(entry)], origins[_name(entry)] = entry, point.value
        return table

    def named(self, name: str) -> EntryT:
        """Return the entry of this name.

        Raises:
            ConfigError: if there is none; the message lists those there are.
        """
        if name not in self._entries:
            raise ConfigError(expected_one_of(f"a {self._noun}", self, name))
        return self._entries[name]

    def __getitem__(self, name: str) -> EntryT:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _name(entry: Any) -> str:
    return str(entry.name)
