"""Cost of a step of Algorithm 2 against a step of the same network on plain images, side by side in one process.

usage: python benchmarks/training_step.py [--data mnist] [--network dm-small] [--cells 10] [--rounds 40]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.training.abstrain import Abstrain
from abscert_plugin.training.objective import Moment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--network", default="dm-small")
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()

    data = load_data(options.data, Split.VALIDATION, options.data_dir)
    batch = data.take(np.arange(options.batch_size))
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    objective = Abstrain(Grid(options.cells), data.levels, torch.device("cpu"))
    moment = Moment(0, 1, 1)

    def build(takes_intervals: bool) -> tuple[nn.Module, torch.optim.Adam]:
        config = NetworkConfig(options.network, Activation.RELU, data.shape, len(data.classes), takes_intervals)
        network = config.build(0)
        return network, torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=2e-4, fused=True)

    networks = {"plain": build(False), "abstrain": build(True)}

    def step(name: str) -> float:
        network, optimiser = networks[name]
        start = time.perf_counter()
        if name == "plain":
            loss = functional.cross_entropy(network(images.float().div_(data.levels).mul_(2).sub_(1)), labels)
        else:
            loss = objective.loss(network, objective.encode(images), labels, moment)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return time.perf_counter() - start

    for name in networks:
        step(name)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(options.rounds):  # interleaved, and in turn first: noise hits both alike
        for name in sorted(networks, reverse=number % 2 == 0):
            times[name].append(step(name))
    ratios = [own / plain for own, plain in zip(times["abstrain"], times["plain"], strict=True)]
    result = {
        "data": options.data,
        "network": options.network,
        "cells": options.cells,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "plain_ms": round(1e3 * statistics.median(times["plain"]), 2),
        "abstrain_ms": round(1e3 * statistics.median(times["abstrain"]), 2),
        "median_of_ratios": round(statistics.median(ratios), 4),
        "ratio_of_least": round(min(times["abstrain"]) / min(times["plain"]), 4),
    }
    print(json.dumps(result))


main()
