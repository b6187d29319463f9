"""What proofs cost beside what decided before them: the same images, in turn in one process.

usage: python benchmarks/proof_cost.py DEPLOY_ONNX [--claim ball] [--radius 0.1] [--data mnist] [--images 500]
       [--rounds 5] [--guard]

ball: intervals of all images, then CROWN-IBP of those that are still open, by auto_LiRPA, in float32 and not rounded
outward; against the same two by proofs. Attacks and the search are left out: they are the same.
With --guard: the logits of all images and intervals of their balls, by onnxruntime and auto_LiRPA; against running the
file's guard, which answers both.
cell: images decided for this runtime alone; against the same for any order of the sums.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Arithmetic, Claim, Radius, Verdict
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.front import Reach
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.memory import keep_freed_memory
from abscert_plugin.verification.cell import CellDecider, open_cells
from abscert_plugin.verification.guarding import GuardRun
from abscert_plugin.verification.proving import Prover

AT_ONCE = 100
CELLS_AT_ONCE = 250
Way = Callable[[], int]
"""Decides all images and returns how many it certifies."""


def in_float32(white_box: WhiteBox, reach: Reach, labels: np.ndarray, method: BoundMethod) -> np.ndarray:
    lower, upper = map(torch.from_numpy, reach.box())
    return white_box.bounder.margins(lower, upper, torch.from_numpy(labels), method).amin(dim=1).numpy()


def bounded(white_box: WhiteBox, reach: Reach, labels: np.ndarray) -> int:
    """Return how many images float32 bounds alone would certify."""
    found = in_float32(white_box, reach, labels, BoundMethod.IBP)
    rest = np.flatnonzero(found <= 0)
    if len(rest):
        found[rest] = in_float32(white_box, reach.take(rest), labels[rest], BoundMethod.CROWN_IBP)
    return int((found > 0).sum())


def proven(prover: Prover, reach: Reach, labels: np.ndarray) -> int:
    """Return how many images proofs certify."""
    found = prover.least_margins(reach.lowest, reach.highest, labels, BoundMethod.IBP)
    rest = np.flatnonzero(found <= 0)
    if len(rest):
        ends = reach.lowest[rest], reach.highest[rest]
        found[rest] = prover.least_margins(*ends, labels[rest], BoundMethod.CROWN_IBP, is_open=True)
    return int((found > 0).sum())


def ball_ways(artifact: Artifact, data: DataSet, radius: str) -> Mapping[str, Way]:
    white_box, prover, parts = open_white_box(artifact), Prover(artifact), []
    for batch in data.batches(AT_ONCE):
        parts.append((artifact.front.reach(Ball(Radius.parse(radius)), data.pixels(batch.images)), batch.labels))
    return {
        "before": lambda: sum(bounded(white_box, *part) for part in parts),
        "proofs": lambda: sum(proven(prover, *part) for part in parts),
    }


def guard_ways(artifact: Artifact, data: DataSet, radius: str) -> Mapping[str, Way]:
    white_box, ball = open_white_box(artifact), Ball(Radius.parse(radius))
    guard, batches = GuardRun(artifact, ball), [(data.pixels(one.images), one.labels) for one in data.batches(AT_ONCE)]

    def before() -> int:
        count = 0
        for images, labels in batches:
            is_right = artifact.run_images(images).argmax(axis=1) == labels
            bounds = in_float32(white_box, artifact.front.reach(ball, images), labels, BoundMethod.IBP)
            count += int((is_right & (bounds > 0)).sum())
        return count

    return {"before": before, "proofs": lambda: sum(int((guard.margins(*one) > 0).sum()) for one in batches)}


def cell_ways(artifact: Artifact, data: DataSet) -> Mapping[str, Way]:
    batches = [(data.pixels(batch.images), batch.labels, batch.index) for batch in data.batches(CELLS_AT_ONCE)]

    def way(decider: CellDecider) -> Way:
        return lambda: sum(
            one.record.verdict is Verdict.CERTIFIED for batch in batches for one in decider.decide(*batch)
        )

    kinds = {"before": Arithmetic.THIS_RUNTIME, "proofs": Arithmetic.ANY_ORDER}
    return {name: way(open_cells(artifact, kind)[0]) for name, kind in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--claim", choices=[str(claim) for claim in Claim], default=str(Claim.BALL))
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--guard", action="store_true")
    options = parser.parse_args()

    keep_freed_memory()
    is_ball = options.claim == Claim.BALL
    artifact = Artifact.open(options.model, Provider.CPU)
    data = load_data(options.data, Split.TEST, options.data_dir).first(options.images)
    of_balls = guard_ways if options.guard else ball_ways
    ways = of_balls(artifact, data, options.radius) if is_ball else cell_ways(artifact, data)
    counts = {name: way() for name, way in ways.items()}  # and what is made once is made
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in sorted(ways, reverse=number % 2 == 0):
            start = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - start)
    ratios = [own / base for own, base in zip(times["proofs"], times["before"], strict=True)]
    result = {
        "network": artifact.metadata.network,
        "claim": options.claim,
        "radius": options.radius if is_ball else None,
        "images": len(data),
        **{f"certified_{name}": count for name, count in counts.items()},
        **{f"{name}_s": round(statistics.median(times[name]), 3) for name in ways},
        "median_of_ratios": round(statistics.median(ratios), 3),
        "quartiles": [round(quartile, 3) for quartile in np.quantile(ratios, [0.25, 0.75]).tolist()],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
