"""A stand-in for `abscert` that starts at once, and lists of instances for it: the query's name says what it does."""

import sys
from collections.abc import Sequence
from pathlib import Path

ANSWER = "((X_0 0.5)\n (Y_0 0.5))"
_SOURCE = f"""
import os, sys, time
query, timeout = sys.argv[2], float(sys.argv[sys.argv.index("--timeout") + 1])
what = os.path.basename(query).removesuffix(".gz").removesuffix(".vnnlib").split("--")[-1]
with open(os.path.join(os.path.dirname(query), "started"), "a") as file:
    file.write(what + "\\n")
if what == "sat":
    print("sat")
    print({ANSWER!r})
elif what == "late":
    time.sleep(timeout + 0.3)
    print("unsat")
elif what == "hangs":
    os.fork() or time.sleep(60)
    time.sleep(60)
elif what == "dies":
    os.kill(os.getpid(), 9)
elif what == "eats":
    held = bytearray(os.urandom(1)) * 2**28
    time.sleep(60)
elif what == "refuses":
    sys.stderr.write("note: nothing\\nerror: cannot read it\\n")
    sys.exit(2)
elif what == "babbles":
    print("Segmentation fault")
elif what == "unknown":
    sys.stderr.write("note: an operator is missing\\n")
    print("unknown")
else:
    print(what)
"""
COMMAND = (sys.executable, "-I", "-c", _SOURCE)


def write_list(folder: Path, queries: Sequence[str], timeout: float = 30) -> Path:
    """Write a list of instances, with empty files, into a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.onnx").touch()
    for query in queries:
        (folder / f"{query}.vnnlib").touch()
    path = folder / "instances.csv"
    path.write_text("".join(f"net.onnx,{query}.vnnlib,{timeout}\n" for query in queries))
    return path


def started(folder: Path) -> list[str]:
    """Return what the stand-in was started on, in order."""
    path = folder / "started"
    return path.read_text().split() if path.exists() else []
