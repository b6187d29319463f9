"""How many cores this process may use, and how many threads it is to compute with."""

import os
from collections.abc import Mapping
from typing import Final

THREADS: Final = "OMP_NUM_THREADS"
"""The variable that torch and numpy's libraries heed; Ray sets it for its tasks."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def thread_count() -> int:
    """Return how many threads compute in this process: what `OMP_NUM_THREADS` says, else one for each core."""
    told = os.environ.get(THREADS, "")
    return int(told) if told.isdecimal() and int(told) > 0 else available_cores()


def with_threads(count: int) -> Mapping[str, str]:
    """Return the variables of a process that is to compute with so many threads: this one's, but for those."""
    return {**os.environ, **dict.fromkeys((THREADS, "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))}
