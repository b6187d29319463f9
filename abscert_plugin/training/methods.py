"""The table of all training methods, and the one that a command's options ask for."""

from collections.abc import Mapping
from typing import Final

from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.plugins import Registry
from abscert_plugin.training import abstrain, reachable
from abscert_plugin.training.edges import EdgeChoice
from abscert_plugin.training.method import Method, MethodEntry

METHODS: Final = Registry(MethodEntry, (abstrain.ENTRY, reachable.ENTRY), ("abscert.methods",), "method")
"""Every method by its name; a package adds one through the entry-point group `abscert.methods`."""


def chosen_method(name: str, radius: Radius | None, given: Mapping[str, str], edges: EdgeChoice | None) -> Method:
    """Return the method of this name with its options.

    Args:
        name: a key of `METHODS`.
        radius: the ball to train for; None where none was given.
        given: the method's options in text, by name.
        edges: how the edges of its cells are chosen; None where that was not given.

    Raises:
        ConfigError: if an option has no meaning, or the method has no use for it.
    """
    entry = METHODS.named(name)
    if radius is not None and not entry.takes_radius and edges is not EdgeChoice.SPARSE:
        users = ", ".join(other.name for other in METHODS.values() if other.takes_radius)
        raise ConfigError(
            f"expected no --radius with --method {name}, which trains for no ball; leave it out, or choose one of "
            f"{users}, or --edges sparse"
        )
    method = entry.create(radius, given)
    if edges is not None and not method.takes_intervals:
        raise ConfigError(f"expected no --edges: the networks of {name} take the images themselves")
    return method


def users_of(option: str) -> str:
    """Return the names of the methods that have an option, for a message."""
    return ", ".join(entry.name for entry in METHODS.values() if option in entry.option_names)
