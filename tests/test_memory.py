"""What a process frees stays with it: the next step of a training finds its pages ready."""

import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource
import torch
from abscert_plugin.memory import keep_freed_memory
if {keeps}:
    keep_freed_memory()
def step():
    large = torch.zeros(40 * 2**20 // 4)
    return float((large + 1)[-1])
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
step()
print(sorted(faults() for _ in range(11))[5])
"""


def _faults(keeps: bool) -> int:
    """Return the median of some steps: the kernel may take idle pages away from a few."""
    command = [sys.executable, "-W", "ignore", "-c", _STEPS.format(keeps=keeps)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of other C libraries is left alone")
def test_freed_pages_are_not_asked_for_again() -> None:
    assert _faults(keeps=True) * 4 < _faults(keeps=False)
