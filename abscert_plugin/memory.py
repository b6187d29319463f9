"""How the C library keeps memory while a command trains or bounds."""

import ctypes
import platform
from typing import Final

# glibc's malloc.h
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next step; without glibc, do nothing.

    Bounds of a batch are tensors of tens of megabytes. glibc hands each back to the system when it is freed, and the
    next step has every page of it zeroed anew: a third of the time of a step of CROWN-IBP or LossLandscapeMatters on
    a CPU (docs/results/benchmarks.md). The process is about a fifth larger for it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_ARENA_MAX, 1)  # other arenas are too small for such tensors
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 2**26)
