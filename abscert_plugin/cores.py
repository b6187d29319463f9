"""How many cores this process may use, and how many threads it is to compute with."""

import os
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
