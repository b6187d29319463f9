"""The table of methods: those of this package, abstraction's own, and those that other packages register."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, final

from abscert_plugin.errors import ConfigError
from abscert_plugin.training.method import ABSTRAIN, ReachableMethod
from abscert_plugin.training.robust import RobustConfig
from baselines import adv_ibp, crown_ibp, ibp, lbp, llm, mtl_ibp, plain, sabr
from baselines.method import Entry

ENTRY_POINTS: Final = "abscert.baselines"


@final
@dataclass(frozen=True)
class _NoOptions:
    """Algorithm 2 has none."""


_ABSTRACTION: Final = (
    Entry(
        "abstrain", "Algorithm 2: cross-entropy on cells (claim cell)", "AbsCert, 2023", _NoOptions, lambda _: ABSTRAIN
    ),
    Entry("reachable", "sound losses over reachable cells", "abscert-plugin", RobustConfig, ReachableMethod),
)
_OWN: Final = (
    plain.PLAIN,
    plain.PGD,
    ibp.ENTRY,
    crown_ibp.ENTRY,
    llm.ENTRY,
    lbp.ENTRY,
    adv_ibp.ENTRY,
    sabr.ENTRY,
    mtl_ibp.ENTRY,
)


def methods() -> Mapping[str, Entry]:
    """Return every method by its name.

    A package adds one through the entry-point group `abscert.baselines`: each entry is an `Entry`.

    Raises:
        ConfigError: if a registered one is no `Entry`, or takes a name that is taken.
    """
    table = {entry.name: entry for entry in (*_OWN, *_ABSTRACTION)}
    for point in entry_points(group=ENTRY_POINTS):
        entry = point.load()
        if not isinstance(entry, Entry) or entry.name in table:
            raise ConfigError(f"the entry point {point.value} of {ENTRY_POINTS} is no new Entry; remove its package")
        table[entry.name] = entry
    return table


def method_entry(name: str) -> Entry:
    """Return a method's row.

    Raises:
        ConfigError: if there is none of this name; the message lists those there are.
    """
    table = methods()
    if name not in table:
        raise ConfigError(f"expected a method of {', '.join(table)}, got {name!r}")
    return table[name]
