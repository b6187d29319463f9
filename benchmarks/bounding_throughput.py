"""Bounds through `Bounder` against calling auto_LiRPA directly on the same boxes, in turn in one process.

usage: python benchmarks/bounding_throughput.py RUN_FOLDER [--radius 0.1] [--data mnist] [--batch-size 64] [--rounds 9]
(RUN_FOLDER as `abscert train --out` wrote it)
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
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.compat import lirpa_version, load_lirpa
from abscert_plugin.lirpa.tracing import margin_rows, quiet
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.training.run import restore

NAMES = {BoundMethod.IBP: "IBP", BoundMethod.CROWN_IBP: "CROWN-IBP", BoundMethod.CROWN: "CROWN"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    network, config, grid, _ = restore(options.run)
    assert isinstance(grid, Grid)
    white_box = open_white_box(Artifact.open(options.run / "deploy.onnx", Provider.CPU))
    data = load_data(options.data, Split.TEST, options.data_dir)
    batch = data.take(np.arange(options.batch_size))
    reach = Cells(grid).reach(Ball(Radius.parse(options.radius)), data.pixels(batch.images))
    lower, upper = (torch.from_numpy(end) for end in reach.box())
    labels = torch.from_numpy(batch.labels)

    lirpa = load_lirpa()
    with quiet():
        direct = lirpa.BoundedModule(network, torch.zeros(2, *config.input_shape), bound_opts={"conv_mode": "patches"})
    rows = margin_rows(config.classes)[labels]

    def bare(method: BoundMethod) -> torch.Tensor:
        norm = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        box = lirpa.BoundedTensor((lower + upper) / 2, norm)
        with torch.no_grad(), quiet():
            return direct.compute_bounds(x=(box,), C=rows, method=NAMES[method], bound_upper=False)[0]

    def ours(method: BoundMethod) -> torch.Tensor:
        return white_box.bounder.margins(lower, upper, labels, method)

    for method in NAMES:
        apart = float((bare(method) - ours(method)).abs().max())
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        for number in range(options.rounds):
            for name, call in sorted({"bare": bare, "ours": ours}.items(), reverse=number % 2 == 0):
                start = time.perf_counter()
                call(method)
                times[name].append(time.perf_counter() - start)
        ratios = [own / base for own, base in zip(times["ours"], times["bare"], strict=True)]
        result = {
            "method": str(method),
            "auto_LiRPA": lirpa_version(),
            "batch_size": options.batch_size,
            "bare_ms": round(1e3 * statistics.median(times["bare"]), 1),
            "ours_ms": round(1e3 * statistics.median(times["ours"]), 1),
            "median_of_ratios": round(statistics.median(ratios), 3),
            "largest_difference": round(apart, 6),
        }
        print(json.dumps(result))


main()
