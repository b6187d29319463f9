"""Engines: how the runs that are not done are carried out, one at a time here or many at once on a cluster."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.errors import ConfigError
from compare.results.stored_run import StoredRun
from compare.running import ray_engine
from compare.running.ray_engine import Cluster
from compare.running.worker import run_in_process

OnProgress: TypeAlias = Callable[[Sequence[StoredRun]], None]


@final
@dataclass(frozen=True, slots=True)
class Resources:
    """What an engine carries runs out with.

    Args:
        data_dir: where the data sets' files are; `$ABSCERT_DATA` where None.
        cluster: of the engine `ray`; None takes the cluster that this machine is a node of.
    """

    data_dir: Path | None = None
    cluster: Cluster | None = None


# takes runs, tells every second which are at work, and yields each as it ends, with the reason of its failure or ""
Endings: TypeAlias = Generator[tuple[StoredRun, str], None, None]
Engine: TypeAlias = Callable[[Sequence[StoredRun], Resources, OnProgress], Endings]


def _local(todo: Sequence[StoredRun], resources: Resources, on_progress: OnProgress) -> Endings:
    """Carry the runs out on this machine, one process at a time."""
    if resources.cluster is not None:
        raise ConfigError("expected --address, --cpus and --gpus with --engine ray alone")
    for stored in todo:
        yield stored, run_in_process(stored, resources.data_dir, partial(on_progress, (stored,))).reason


def _ray(todo: Sequence[StoredRun], resources: Resources, on_progress: OnProgress) -> Endings:
    """Send the runs to a Ray cluster."""
    return ray_engine.carry_out(todo, resources.data_dir, resources.cluster or Cluster(), on_progress)


ENGINES: Final[Mapping[str, Engine]] = MappingProxyType({"local": _local, "ray": _ray})


def engine_of(name: str) -> Engine:
    """Return the engine of this name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in ENGINES:
        raise ConfigError(expected_one_of("--engine", ENGINES, name))
    return ENGINES[name]
