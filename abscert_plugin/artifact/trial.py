"""Running a file for the first time in a process of its own, so that one that kills onnxruntime kills no other."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.files import byte_limit, raise_limit
from abscert_plugin.graph.shapes import MEMORY_LIMIT

_PATIENCE: Final = 600  # seconds for one image; no network that is verified image by image takes this long
_NO_MEMORY: Final = 77
# The same settings as BlackBox's, without the seconds that importing this package takes. What it raises is told, in
# better words, by whoever opens the file next: here only the death of the process and its lack of memory count.
_SOURCE: Final = f"""
import os, sys
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
path, limit, *sizes = sys.argv[1:]
import numpy, onnxruntime
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), resource.getrlimit(resource.RLIMIT_AS)[1]))
except (ImportError, ValueError, OSError):
    pass
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4
try:
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    zeros = numpy.zeros([int(size) for size in sizes], numpy.float32)
    session.run(None, {{session.get_inputs()[0].name: zeros}})
except MemoryError:
    os._exit({_NO_MEMORY})
except Exception as error:
    os._exit({_NO_MEMORY} if "bad_alloc" in str(error) or "llocate memory" in str(error) else 1)
os._exit(0)
"""


def try_in_child(file: Path, shape: tuple[int, ...], path: Path) -> None:
    """Load an ONNX file and run it once, on zeros, in a process of its own.

    Args:
        file: what is run; it reads float32.
        shape: of its input, batch first.
        path: what the file is called in messages.

    Raises:
        UnsupportedModelError: if that ends the process by a signal, takes more memory than MEMORY_LIMIT (or than
            the environment variable ABSCERT_MAX_BYTES says), or more than ten minutes.
    """
    limit = byte_limit(MEMORY_LIMIT)
    # -P: nothing is imported from the folder that the command happens to run in
    command = [sys.executable, "-P", "-c", _SOURCE, str(file.resolve()), str(limit), *map(str, shape)]
    try:
        # the command is this interpreter with the source above: S603 is about others
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=_PATIENCE)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise UnsupportedModelError(f"{path}: onnxruntime takes more than {_PATIENCE} seconds for one image") from None
    status = done.returncode
    if status == _NO_MEMORY:
        raise UnsupportedModelError(
            f"{path}: onnxruntime needs more than {limit:,} bytes for one image; "
            f"if it is to be trusted, {raise_limit()}"
        )
    if status < 0:
        raise UnsupportedModelError(f"onnxruntime dies with {_signal_name(-status)} on {path}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
