"""Kill the runner of a plan at random moments, and compare what it ends with to an undisturbed run's.

Compared is all but the clock's: weights, ONNX files, histories, records, counterexamples. Every other kill spares the
process of the run that is at work, which then ends by itself.

usage: python benchmarks/kills.py [PLAN] [--kills 20] [--longest 6] [--seed 0]
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-W", "ignore", "-c", "from abscert_plugin.cli import main; main()", "compare", "run"]
OF_THE_CLOCK = ("seconds", "images_per_second", "started", "finished")


def without_clock(line: str) -> str:
    return json.dumps({name: value for name, value in json.loads(line).items() if name not in OF_THE_CLOCK})


def outcome(results: Path) -> dict[str, str]:
    """Return what each file of the runs says, by its path; without run.json and done.json, which tell the time."""
    found = {}
    for path in sorted((results / "runs").rglob("*")):
        name = str(path.relative_to(results))
        if path.suffix == ".jsonl":
            found[name] = "\n".join(without_clock(line) for line in path.read_text().splitlines())
        elif path.suffix in (".safetensors", ".onnx", ".npy"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", nargs="?", default="digits-smoke")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds from a start to its kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        subprocess.run([*COMMAND, options.plan, "--out", str(undisturbed)], check=True, **quiet)
        at_work = 0
        for number in range(options.kills):
            runner = subprocess.Popen([*COMMAND, options.plan, "--out", str(killed)], start_new_session=True, **quiet)
            time.sleep(moments.uniform(1.0, options.longest))
            at_work += runner.poll() is None
            kill = os.kill if number % 2 else os.killpg
            with contextlib.suppress(ProcessLookupError):
                kill(runner.pid, signal.SIGKILL)
            runner.wait()
        subprocess.run([*COMMAND, options.plan, "--out", str(killed)], check=True, **quiet)
        first, second = outcome(undisturbed), outcome(killed)
    differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    result = {"kills": options.kills, "while_at_work": at_work, "files": len(first), "differing": differing}
    print(json.dumps(result))
    sys.exit(bool(differing))


main()
