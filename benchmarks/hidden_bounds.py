"""CROWN of a convolutional file by proofs, over windows of hidden values against whole images, in turn in one process.

usage: python benchmarks/hidden_bounds.py DEPLOY_ONNX [--radius 0.1] [--data mnist] [--images 10] [--rounds 3]
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import tightening, windows
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.verification.proving import Prover

WAYS = {"whole": lambda *_: None, "windows": windows.windows_of}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    artifact = Artifact.open(options.model, Provider.CPU)
    batch = load_data(options.data, Split.TEST, options.data_dir).first(options.images)
    images = batch.all_pixels()
    reach = artifact.front.reach(Ball(Radius.parse(options.radius)), images)
    asked = reach.lowest, reach.highest, batch.labels, BoundMethod.CROWN

    def bounds(way: str) -> tuple[float, np.ndarray]:
        with patch.object(tightening, "windows_of", WAYS[way]):
            prover = Prover(artifact)
            start = time.perf_counter()
            found = prover.least_margins(*asked, is_open=True)
        return time.perf_counter() - start, found

    times: dict[str, list[float]] = {way: [] for way in WAYS}
    margins = {}
    for number in range(options.rounds):
        for way in sorted(WAYS, reverse=number % 2 == 0):
            seconds, margins[way] = bounds(way)
            times[way].append(seconds)
    ratios = [whole / over for whole, over in zip(times["whole"], times["windows"], strict=True)]
    result = {
        "network": artifact.metadata.network,
        "radius": options.radius,
        "images": len(images),
        **{f"{way}_s": round(statistics.median(times[way]) / len(images), 4) for way in WAYS},
        "median_of_ratios": round(statistics.median(ratios), 2),
        "least_gain_of_a_margin": float((margins["windows"] - margins["whole"]).min()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
