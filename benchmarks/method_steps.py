"""Cost of a training step of each baseline against the same computation written directly, side by side in one process.

Written directly: forward and backward pass of the loss in plain torch or on auto_LiRPA's BoundedModule, and the step of
Adam. Each method is timed at a moment at which its loss is the whole one.

usage: python benchmarks/method_steps.py [--data D] [--network N] [--radius R] [--rounds 30] [--methods M ...]
                                         [--keep-memory]
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

from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.tracing import bounded_module
from abscert_plugin.memory import keep_freed_memory
from abscert_plugin.networks import NetworkConfig
from abscert_plugin.networks.param_ramp import ParamRamp, collecting, ramps_of
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment

STEPS = 1000  # of the training that the moments are of
AT = {"crown-ibp": 300, "lbp": 200}  # while linear bounds count
TIMED = ("plain", "pgd", "ibp", "crown-ibp", "llm", "lbp", "adv-ibp", "sabr", "mtl-ibp")
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
        elif isinstance(layer, nn.ReLU | ParamRamp):  # both rise everywhere
            low, high = layer(center - spread), layer(center + spread)
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
        if ramps_of(network):  # the operator of ParamRamp is this project's
            self.bounded = bounded_module(network, example, classes)
        else:
            self.bounded = lirpa.BoundedModule(network, example, bound_opts={"conv_mode": "patches"}, device=CPU)
        eye = torch.eye(classes)
        self.rows = torch.stack([eye[label] - torch.cat([eye[:label], eye[label + 1 :]]) for label in range(classes)])

    def loss(self, lower, upper, labels):
        norm = self.lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        box = self.lirpa.BoundedTensor((lower + upper) / 2, norm)
        found = self.bounded.compute_bounds(x=(box,), C=self.rows[labels], method="CROWN-IBP", bound_upper=False)[0]
        return torch.log1p(torch.exp(-found).sum(dim=1)).mean()

    def loss_by_chosen_slopes(self, lower, upper, labels):
        """Return the loss by slopes that one step from random ones leads to (auto_LiRPA's optimisable slopes)."""
        relus, batch, start = self.bounded.relus, len(labels), self.bounded.final_name
        slopes = [torch.rand(batch, *relu.output_shape[1:], requires_grad=True) for relu in relus]

        def bound(slopes):
            for relu, slope in zip(relus, slopes, strict=True):
                relu.opt_stage, relu.alpha = "opt", {start: slope[None, None]}
                relu.alpha_lookup_idx, relu.alpha_indices = {start: None}, None
            return self.loss(lower, upper, labels)

        slopes_of_loss = torch.autograd.grad(bound(slopes), slopes)
        return bound(
            [(a.detach() - 2 * slope.sign()).clamp(0, 1) for a, slope in zip(slopes, slopes_of_loss, strict=True)]
        )


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
    if name == "llm":
        chosen = Linear(network, x[:2], classes)
        return lambda: chosen.loss_by_chosen_slopes(lower, upper, labels)
    if name in ("crown-ibp", "lbp"):
        linear = Linear(network, x[:2], classes)
        ramp, natural_end = {"crown-ibp": (0.5, 0.0), "lbp": (0.25, 0.5)}[name]
        share = (AT[name] / STEPS - 0.05) / ramp
        natural = 1 + share * (natural_end - 1)
        low, high = cut(x, share * radius)

        def mixed():
            robust = (1 - share) * linear.loss(low, high, labels) + share * ibp_loss(network, low, high, labels)
            return natural * functional.cross_entropy(network(x), labels) + (1 - natural) * robust

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
    parser.add_argument("--methods", nargs="+", default=TIMED)
    parser.add_argument("--keep-memory", action="store_true", help="as every command that trains does")
    options = parser.parse_args()
    if options.keep_memory:
        keep_freed_memory()

    data = load_data(options.data, Split.VALIDATION, options.data_dir)
    batch = data.take(np.arange(options.batch_size))
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    x = 2 * (images.float() / data.levels) - 1
    radius, classes = Radius.parse(options.radius), len(data.classes)
    for name in options.methods:
        entry = METHODS.named(name)
        objective = entry.create(radius, {}).build(None, data.levels, CPU)
        moment = Moment(AT.get(name, STEPS - 1), STEPS, 1)
        losses = {}
        for kind in ("ours", "direct"):
            config = NetworkConfig(options.network, entry.activation, data.shape, classes, takes_intervals=False)
            network = config.build(0)
            with torch.no_grad(), collecting(network):
                network(x)
            for layer in ramps_of(network):
                layer.begin_bend()
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
