"""What proofs cost beside the float32 bounds that certified before them: the same images, in turn in one process.

usage: python benchmarks/proof_cost.py DEPLOY_ONNX [--radius 0.1] [--data mnist] [--images 500] [--rounds 5]

Float32: intervals of all images, then CROWN-IBP of those that are still open, by auto_LiRPA. Proofs: intervals of all,
then CROWN-IBP in float32 of the open ones, and a proof of those that it would certify. Attacks and the search are
left out: they are the same.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.front import Reach
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.verification.proving import Prover

AT_ONCE = 100


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


def proven(white_box: WhiteBox, prover: Prover, reach: Reach, labels: np.ndarray) -> int:
    """Return how many images proofs certify."""
    found = prover.least_margins(reach.lowest, reach.highest, labels, BoundMethod.IBP)
    rest = np.flatnonzero(found <= 0)
    if len(rest):
        seen = in_float32(white_box, reach.take(rest), labels[rest], BoundMethod.CROWN_IBP)
        likely = rest[seen > 0]
        ends = reach.lowest[likely], reach.highest[likely]
        found[likely] = prover.least_margins(*ends, labels[likely], BoundMethod.CROWN_IBP)
    return int((found > 0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    artifact = Artifact.open(options.model, Provider.CPU)
    white_box, prover = open_white_box(artifact), Prover(artifact)
    data = load_data(options.data, Split.TEST, options.data_dir)
    parts = []
    for start in range(0, options.images, AT_ONCE):
        batch = data.take(np.arange(start, min(start + AT_ONCE, options.images)))
        reach = artifact.front.reach(Ball(Radius.parse(options.radius)), data.pixels(batch.images))
        parts.append((reach, batch.labels))

    counts: dict[str, int] = {}
    times: dict[str, list[float]] = {"float32": [], "proofs": []}
    for number in range(options.rounds):
        for name in sorted(times, reverse=number % 2 == 0):
            start_time = time.perf_counter()
            if name == "float32":
                counts[name] = sum(bounded(white_box, *part) for part in parts)
            else:
                counts[name] = sum(proven(white_box, prover, *part) for part in parts)
            times[name].append(time.perf_counter() - start_time)
    ratios = [own / base for own, base in zip(times["proofs"], times["float32"], strict=True)]
    result = {
        "network": artifact.metadata.network,
        "radius": options.radius,
        "images": options.images,
        "certified_float32": counts["float32"],
        "certified_proofs": counts["proofs"],
        "float32_s": round(statistics.median(times["float32"]), 2),
        "proofs_s": round(statistics.median(times["proofs"]), 2),
        "median_of_ratios": round(statistics.median(ratios), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
