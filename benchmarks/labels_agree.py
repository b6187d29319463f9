"""Logits and labels of a training's network in torch against its deploy.onnx in onnxruntime, on a whole test set.

usage: python benchmarks/labels_agree.py RUN_FOLDER [RUN_FOLDER ...] [--data mnist]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.training.run import restore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    data = load_data(options.data, Split.TEST, options.data_dir)
    for run in options.runs:
        network, _, grid, _ = restore(run)
        deployed, abstraction = BlackBox(run / "deploy.onnx", Provider.CPU), Abstraction(grid)
        largest, different = 0.0, 0
        for batch in data.batches(500):
            images = data.pixels(batch.images)
            with torch.inference_mode():
                expected = network(abstraction(torch.from_numpy(images))).numpy()
            logits = deployed.run(images)
            largest = max(largest, float(np.abs(logits - expected).max()))
            different += int((logits.argmax(axis=1) != expected.argmax(axis=1)).sum())
        result = {"run": run.name, "images": len(data), "largest_difference": largest, "labels_that_differ": different}
        print(json.dumps(result))


main()
