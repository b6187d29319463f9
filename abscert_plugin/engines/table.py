"""The table of engines, by the names that `--engine` takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.engines.job import Engine
from abscert_plugin.engines.processes import Processes
from abscert_plugin.engines.ray_cluster import Cluster
from abscert_plugin.errors import ConfigError

LOCAL: Final = "local"
"""The engine that is none: one process, this one."""
ENGINES: Final[Mapping[str, Callable[..., Engine]]] = MappingProxyType({"processes": Processes, "ray": Cluster})
"""Each takes its own of `Options`."""
_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"workers": ("processes",), "address": ("ray",), "cpus": ("processes", "ray"), "gpus": ("ray",)}
)


@final
@dataclass(frozen=True, slots=True)
class Options:
    """What engines are asked for; None leaves it to the engine.

    Args:
        workers: processes of the engine `processes`.
        address: HOST:PORT of a Ray cluster's head node, or `auto`.
        cpus: CPU cores of a worker.
        gpus: GPUs of a worker.
    """

    workers: int | None = None
    address: str | None = None
    cpus: int | None = None
    gpus: float | None = None


def engine_of(name: str, options: Options) -> Engine | None:
    """Return the engine of a name; None for `local`, which is this process.

    Raises:
        ConfigError: if there is none, or an option is of another engine or has no meaning.
    """
    if name not in (LOCAL, *ENGINES):
        raise ConfigError(expected_one_of("--engine", (LOCAL, *ENGINES), name))
    given: dict[str, Any] = {}
    for option, engines in _OF.items():
        value = getattr(options, option)
        if value is None:
            continue
        if name not in engines:
            raise ConfigError(f"expected --{option} with --engine {' or '.join(engines)} alone")
        given[option] = value
    return None if name == LOCAL else ENGINES[name](**given)
