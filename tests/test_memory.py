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
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(keeps: bool) -> int:
    command = [sys.executable, "-W", "ignore", "-c", _STEPS.format(keeps=keeps)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of other C libraries is left alone")
def test_freed_pages_are_not_asked_for_again() -> None:
    assert _faults(keeps=True) * 4 < _faults(keeps=False)
