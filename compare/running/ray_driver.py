"""The process that speaks to a Ray cluster, and the task in which a node carries a run out: all that imports Ray.

It is a process of its own since Ray writes to stdout and stderr as it likes, tries for minutes to reach a cluster that
is not there, and ends the process that loses its cluster.
"""

import logging
import platform
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from typing import Any, Final, final

import ray
from ray.exceptions import RayError, RayTaskError

from abscert_plugin.errors import AbscertError, ConfigError
from compare.results.stored_run import StoredRun
from compare.running.ray_engine import Connected, Ended, Event, RayJob, RayTask
from compare.running.worker import LOOK_EVERY, run_in_process, when_stdin_ends

_RETRIES: Final = 3  # of a run whose node or process was killed


@final
class KilledError(AbscertError):
    """The process of a run was ended by a signal: Ray tries the run again."""


def drive(job: RayJob, on_event: Callable[[Event], None]) -> None:
    """Send the runs to the cluster and tell how each ends; once stdin ends, stop all of them.

    Args:
        job: the runs, and where to.
        on_event: told once the cluster has answered, and of each run as it ends.

    Raises:
        ConfigError: if Ray finds no cluster, or this machine is no node of it.
    """
    is_alone = Flag()
    when_stdin_ends(is_alone.set)
    try:
        # nothing of what the nodes print, and no warnings: what a run has to say is in its folder
        ray.init(address=job.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        fault = " ".join(str(error).split())[:300]
        raise ConfigError(f"Ray cannot connect this machine to the cluster {job.address}: {fault}") from error
    try:
        on_event(Connected())
        pending = {_send(task, job): task.run.key for task in job.tasks}
        while pending and not is_alone.is_set():
            ended, _ = ray.wait(list(pending), num_returns=1, timeout=LOOK_EVERY)
            for reference in ended:
                on_event(Ended(pending.pop(reference), _reason(reference)))
        for reference in pending:
            ray.cancel(reference, force=True)
    finally:
        ray.shutdown()


def _send(task: RayTask, job: RayJob) -> Any:
    remote = ray.remote(_carry_out).options(
        name=task.run.title,
        num_cpus=job.cpus,
        num_gpus=job.gpus,
        max_retries=_RETRIES,
        retry_exceptions=[KilledError],
    )
    return remote.remote(task, job.data_dir)


def _carry_out(task: RayTask, data_dir: str | None) -> str:
    """Carry a run out on the node where Ray starts this; return why it failed, empty where it did not."""
    stored = StoredRun(task.run, Path(task.folder))
    if not stored.folder.parent.is_dir():
        return (
            f"the node {platform.node()} has no {stored.folder.parent}: every node has to see the results folder there"
        )
    ending = run_in_process(stored, Path(data_dir) if data_dir else None, lambda: None)
    if ending.was_killed:
        raise KilledError(ending.reason)
    return ending.reason


def _reason(reference: Any) -> str:
    """Return why a task failed, in one line; empty where it did not."""
    try:
        return str(ray.get(reference))
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        line = str(cause).strip().split("\n", 1)[0][:500]
        return line if isinstance(cause, AbscertError) else f"{type(cause).__name__} in Ray: {line}"
