"""The soundness experiment of proofs in float32: random nets, traps, and published attacks.

A value outside its enclosure, a margin below its bound, or a proof of an image that some evaluation mislabels would be
a fault of the proof; the last line is a JSON object that counts them, and the exit status is 1 where there are any.

usage: python benchmarks/soundness.py nets [--count 10000] [--ways 8] [--seed 0]
       python benchmarks/soundness.py traps [--count 2000] [--seconds 0.3] [--every 4] [--seed 0]
       python benchmarks/soundness.py attacks [--count 20] [--seed 0]
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from soundness_trials.attacks import run_attacks
from soundness_trials.nets import Experiment
from soundness_trials.traps import run_traps

FAULTS = ("values_outside", "margins_below", "proof_wrong", "command_wrong")


def _progress(name: str) -> Callable[[int], None]:
    started = time.perf_counter()

    def report(done: int) -> None:
        if done % 100 == 0:
            print(f"{name}: {done} after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    return report


def _nets(options: argparse.Namespace) -> dict[str, Any]:
    return Experiment(options.seed, options.ways).run(options.count, _progress("nets"))


def _traps(options: argparse.Namespace) -> dict[str, Any]:
    return run_traps(options.seed, options.count, options.seconds, options.every, _progress("traps"))


def _attacks(options: argparse.Namespace) -> dict[str, Any]:
    return run_attacks(options.seed, options.count, _progress("attacks"))


def faults(found: dict[str, Any]) -> int:
    """Return how many faults were counted, in parts of a result too."""
    inner = sum(faults(part) for part in found.values() if isinstance(part, dict))
    return inner + sum(int(found.get(name, 0)) for name in FAULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, run, count in (("nets", _nets, 10_000), ("traps", _traps, 2_000), ("attacks", _attacks, 20)):
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        part.add_argument("--count", type=int, default=count)
        part.add_argument("--seed", type=int, default=0)
    parts.choices["nets"].add_argument("--ways", type=int, default=8, help="evaluations of each point")
    parts.choices["traps"].add_argument("--seconds", type=float, default=0.3, help="of the command, for an image")
    parts.choices["traps"].add_argument("--every", type=int, default=4, help="files from one that the command is asked")
    options = parser.parse_args()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinite logits are what some traps are made for
        found = options.run(options)
    asked = {name: value for name, value in vars(options).items() if name != "run"}
    print(json.dumps({**asked, **found, "run_seconds": round(time.perf_counter() - started, 1)}))
    sys.exit(bool(faults(found)))


if __name__ == "__main__":
    main()
