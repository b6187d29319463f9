"""Cost of a training step of each baseline against the same computation written directly, side by side in one process.

Written directly: forward and backward pass of the loss in plain torch or on auto_LiRPA's BoundedModule, and the step of
Adam. Each method is timed at a moment at which its loss is the whole one.

usage: python benchmarks/method_steps.py [--data mnist] [--network cnn-2layer] [--radius 0.1] [--rounds 30]
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
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.networks import NetworkConfig
from abscert_plugin.radius import Radius
from abscert_plugin.training.objective import Moment
from baselines.table import method_entry

STEPS = 1000  # of the training that the moments are of
AT = {"crown-ibp": 300, "lbp": 200}  # while linear bounds count
CPU = torch.device("cpu")


def cut(x, radius):
    return (x - 2 * radius).clamp(min=-1), (x + 2 * radius).clamp(max=1)


def ibp_loss(network, lower, upper, labels):
    *layers, last = network
    center, spread = (lower + upper) / 2, (upper - lower) / 2
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            center, spread = (
                layer(center),
                functional.conv2d(spread, layer.weight.abs(), None, layer.stride, layer.padding),
            )
        elif isinstance(layer, nn.Linear):
            center, spread = layer(center), functional.linear(spread, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            low, high = (center - spread).relu(), (center + spread).relu()
            center, spread = (low + high) / 2, (high - low) / 2
        else:
            center, spread = layer(center), layer(spread)
    rows = last.weight[labels][:, None] - last.weight
    bias = last.bias[labels][:, None] - last.bias
    low = (rows @ center[..., None])[..., 0] - (rows.abs() @ spread[..., None])[..., 0] + bias
    return functional.cross_entropy(-low, labels)


def attack(network, lower, upper, labels, steps):
    size = 0.625 if steps == 1 else 1.25 / steps
    current = lower + (upper - lower) * torch.rand_like(lower)
    for _ in range(steps):
        current = current.detach().requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(network(current), labels, reduction="sum"), current)
        current = torch.minimum(torch.maximum(current + size * (upper - lower) * slope.sign(), lower), upper)
    return current.detach()


class Linear:
    """CROWN-IBP on auto_LiRPA, written directly."""

    def __init__(self, network, example, classes):
        lirpa = load_lirpa()
        self.lirpa = lirpa
        self.bounded = lirpa.BoundedModule(network, example, bound_opts={"conv_mode": "patches"}, device=CPU)
        eye = torch.eye(classes)
        self.rows = torch.stack([eye[label] - torch.cat([eye[:label], eye[label + 1 :]]) for label in range(classes)])

    def loss(self, lower, upper, labels):
        norm = self.lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        box = self.lirpa.BoundedTensor((lower + upper) / 2, norm)
        found = self.bounded.compute_bounds(x=(box,), C=self.rows[labels], method="CROWN-IBP", bound_upper=False)[0]
        return torch.log1p(torch.exp(-found).sum(dim=1)).mean()


def direct(name, network, x, radius, labels, classes):
    """Return the loss of a method, written directly, as a function without arguments."""
    lower, upper = cut(x, radius)
    if name == "plain":
        return lambda: functional.cross_entropy(network(x), labels)
    if name == "pgd":
        return lambda: functional.cross_entropy(network(attack(network, lower, upper, labels, 7)), labels)
    if name == "ibp":
        return lambda: ibp_loss(network, lower, upper, labels)
    if name == "mtl-ibp":
        return lambda: (
            0.5 * functional.cross_entropy(network(attack(network, lower, upper, labels, 3)), labels)
            + 0.5 * ibp_loss(network, lower, upper, labels)
        )
    if name == "sabr":

        def small():
            found = attack(network, lower, upper, labels, 8)
            center, spread = found + 0.4 * ((lower + upper) / 2 - found), 0.4 * (upper - lower) / 2
            return ibp_loss(network, center - spread, center + spread, labels)

        return small
    if name == "crown-ibp":
        linear = Linear(network, x[:2], classes)
        share = (AT[name] / STEPS - 0.05) / 0.5
        low, high = cut(x, share * radius)

        def mixed():
            robust = (1 - share) * linear.loss(low, high, labels) + share * ibp_loss(network, low, high, labels)
            return (1 - share) * functional.cross_entropy(network(x), labels) + share * robust

        return mixed
    if name == "adv-ibp":
        weights = list(network.parameters())

        def joined():
            found = attack(network, lower, upper, labels, 1).requires_grad_()
            losses = functional.cross_entropy(network(found), labels), ibp_loss(network, lower, upper, labels)
            first = torch.autograd.grad(losses[0], [*weights, found])[:-1]
            second = torch.autograd.grad(losses[1], weights)
            return sum((weight * (a + b)).sum() for weight, a, b in zip(weights, first, second, strict=True))

        return joined
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--network", default="cnn-2layer")
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()

    data = load_data(options.data, Split.VALIDATION, options.data_dir)
    batch = data.take(np.arange(options.batch_size))
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    x = 2 * (images.float() / data.levels) - 1
    radius, classes = Radius.parse(options.radius), len(data.classes)
    for name in ("plain", "pgd", "ibp", "crown-ibp", "adv-ibp", "sabr", "mtl-ibp"):
        entry = method_entry(name)
        objective = entry.create(radius, {}).build(None, data.levels, CPU)
        moment = Moment(AT.get(name, STEPS - 1), STEPS, 1)
        losses = {}
        for kind in ("ours", "direct"):
            config = NetworkConfig(options.network, entry.activation, data.shape, classes, takes_intervals=False)
            network = config.build(0)
            optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
            if kind == "direct":
                loss = direct(name, network, x, float(radius.pixel), labels, classes)
            else:

                def loss(network=network, objective=objective, moment=moment):
                    return objective.loss(network, objective.encode(images), labels, moment)

            losses[kind] = (loss, optimiser)
        times = {kind: [] for kind in losses}
        for number in range(options.rounds + 2):  # interleaved, and in turn first: noise hits both alike
            for kind in sorted(losses, reverse=number % 2 == 0):
                loss, optimiser = losses[kind]
                start = time.perf_counter()
                optimiser.zero_grad(set_to_none=True)
                loss().backward()
                optimiser.step()
                if number >= 2:
                    times[kind].append(time.perf_counter() - start)
        ratios = [own / other for own, other in zip(times["ours"], times["direct"], strict=True)]
        result = {
            "method": name,
            "ours_ms": round(1e3 * statistics.median(times["ours"]), 2),
            "direct_ms": round(1e3 * statistics.median(times["direct"]), 2),
            "median_of_ratios": round(statistics.median(ratios), 3),
            "ratio_of_least": round(min(times["ours"]) / min(times["direct"]), 3),
        }
        print(json.dumps(result), flush=True)


main()
