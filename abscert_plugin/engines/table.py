"""The table of engines, by the names that `--engine` takes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.engines.job import Engine
from abscert_plugin.engines.processes import Processes
from abscert_plugin.engines.ray_cluster import Cluster
from abscert_plugin.errors import ConfigError

LOCAL: Final = "local"
"""The engine that is none: one process, this one."""
ENGINES: Final[Mapping[str, Callable[..., Engine]]] = MappingProxyType({"processes": Processes, "ray": Cluster})
"""Each takes its own of the options of `engine_of`."""
_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"workers": ("processes",), "address": ("ray",), "cpus": ("processes", "ray"), "gpus": ("ray",)}
)


def engine_of(
    name: str, workers: int | None, address: str | None, cpus: int | None, gpus: float | None
) -> Engine | None:
    """Return the engine of a name; None for `local`, which is this process.

    Args:
        name: of the engine. What is None of the rest is left to it.
        workers: processes of the engine `processes`.
        address: HOST:PORT of a Ray cluster's head node, or `auto`.
        cpus: CPU cores of a worker.
        gpus: GPUs of a worker.

    Raises:
        ConfigError: if there is none, or an option is of another engine or has no meaning.
    """
    if name not in (LOCAL, *ENGINES):
        raise ConfigError(expected_one_of("--engine", (LOCAL, *ENGINES), name))
    options: dict[str, Any] = {"workers": workers, "address": address, "cpus": cpus, "gpus": gpus}
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if name not in _OF[option]:
            raise ConfigError(f"expected --{option} with --engine {' or '.join(_OF[option])} alone")
    return None if name == LOCAL else ENGINES[name](**given)
