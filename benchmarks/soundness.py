"""The soundness experiment of proofs in float32: random nets, traps, and published attacks.

A value outside its enclosure, a margin below its bound, or a proof of an image that some evaluation mislabels would be
a fault of the proof. The last line is a JSON object in the form of records/benchmarks.jsonl, and the exit status is 1
where there are faults, of the proof or of the command.

usage: python benchmarks/soundness.py nets [--count 10000] [--ways 8] [--seed 0]
       python benchmarks/soundness.py traps [--count 2000] [--seconds 0.3] [--every 4] [--seed 0]
       python benchmarks/soundness.py attacks [--count 20] [--seed 0]
"""

import argparse
import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from soundness_trials.attacks import run_attacks
from soundness_trials.nets import Experiment
from soundness_trials.traps import run_traps

FAULTS = ("values_outside", "margins_below", "proof_wrong", "guard_wrong", "command_wrong")
Counts = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the experiment.

    Args:
        what: what it tries, in words.
        count: how many, by default.
        run: the trial.
        figure: what its counts say, in words.
    """

    what: str
    count: int
    run: Callable[[argparse.Namespace], Counts]
    figure: Callable[[Counts], str]


def _progress(name: str) -> Callable[[int], None]:
    started = time.perf_counter()

    def report(done: int) -> None:
        if done % 100 == 0:
            print(f"{name}: {done} after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    return report


def _nets(options: argparse.Namespace) -> Counts:
    return Experiment(options.seed, options.ways).run(options.count, _progress("nets"))


def _nets_figure(counts: Counts) -> str:
    return (
        f"{counts['values_outside']} of {counts['values']:,} values outside their enclosures, "
        f"{counts['margins_below']} margins below their bounds, in {counts['evaluations']:,} evaluations; of the "
        f"margins that were above 0 in all of these, intervals prove {counts['proven_share_ibp']:.1%}, CROWN "
        f"{counts['proven_share_crown']:.1%}"
    )


def _traps(options: argparse.Namespace) -> Counts:
    return run_traps(options.seed, options.count, options.seconds, options.every, _progress("traps"))


def _traps_figure(counts: Counts) -> str:
    return (
        f"{counts['proof_wrong']} wrong proofs of {counts['mislabelled']:,} balls in which an image is mislabelled "
        f"({counts['mislabelled_by_onnxruntime']:,} by onnxruntime itself); {counts['proof_honest_certified']:,} of "
        f"{counts['proof_honest']:,} other balls proven. auto_LiRPA alone, where it opens the file: "
        f"{counts['lirpa_wrong']} wrong of {counts['lirpa_asked'] - counts['lirpa_honest']}; of the "
        f"{counts['lirpa_honest_certified']} other balls that it certifies, "
        f"{counts['lirpa_honest_certified_and_proven']} are proven"
    )


def _attacks(options: argparse.Namespace) -> Counts:
    return run_attacks(options.seed, options.count, _progress("attacks"))


def _attacks_figure(counts: Counts) -> str:
    wrong, mislabelled, tame, tried = (
        sum(one[name] for one in counts.values()) for name in ("proof_wrong", "mislabelled", "tame_proof", "tried")
    )
    tried_on = f"{mislabelled} balls in which an image is mislabelled"
    return f"{wrong} wrong proofs of {tried_on}; {tame} of {tried} tame ones proven"


PARTS: Mapping[str, Part] = {
    "nets": Part("random nets of up to 4 layers, weights of many sizes", 10_000, _nets, _nets_figure),
    "traps": Part("traps of six kinds in wrapped, plain and trained files", 2_000, _traps, _traps_figure),
    "attacks": Part("published attacks, rebuilt in small form", 20, _attacks, _attacks_figure),
}


def faults(found: Counts) -> int:
    """Return how many faults were counted, in parts of a result too."""
    inner = sum(faults(part) for part in found.values() if isinstance(part, dict))
    return inner + sum(int(found.get(name, 0)) for name in FAULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="part", required=True)
    for name, part in PARTS.items():
        one = names.add_parser(name)
        one.add_argument("--count", type=int, default=part.count)
        one.add_argument("--seed", type=int, default=0)
    names.choices["nets"].add_argument("--ways", type=int, default=8, help="evaluations of each point")
    names.choices["traps"].add_argument("--seconds", type=float, default=0.3, help="of the command, for an image")
    names.choices["traps"].add_argument(
        "--every", type=int, default=4, help="the command and auto_LiRPA are asked about every so many files; 0: never"
    )
    options = parser.parse_args()
    part = PARTS[options.part]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinite logits are what some traps are made for
        counts = part.run(options)
    command = shlex.join(["python", "benchmarks/soundness.py", *sys.argv[1:]])
    print(json.dumps({"what": part.what, "command": command, "figure": part.figure(counts), "counts": counts}))
    sys.exit(bool(faults(counts)))


if __name__ == "__main__":
    main()
