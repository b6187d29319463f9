"""Where the time of a training step goes, and what other ways of computing it would gain, side by side in one process.

Ways: as it is (float32); bfloat16 by autocast, with intervals in float32 (`--precision bfloat16`); weights and values
with channels last; both; intervals of a quarter of each batch (`--set interval_batch=0.25`); an attack on the quarter
of largest loss alone (`--set attacked_batch=0.25`), with intervals of as many or of a sixteenth; one attack step in
place of three; the network compiled by torch.compile (its plain passes: intervals go through its layers one by one).
One thread. Shares are of the step as it is, backward passes with what they belong to: attack, intervals, the passes of
plain and attacked images, Adam and the rest.

usage: python benchmarks/step_profile.py [--networks dm-small dm-medium cnn-7] [--rounds 6] [--compile]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from abscert_plugin.bounds.intervals import Box
from abscert_plugin.claim import Radius
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.memory import keep_freed_memory
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.training import reachable
from abscert_plugin.training.config import Optimiser
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.steps import Steps

CPU = torch.device("cpu")
TRAINED = {
    "reachable": {"loss": "mtl-ibp", "share": "0.02", "attack_steps": "3", "interval_batch": "1.0"},
    "abstrain": {},
}
CELLS = {"reachable": 4, "abstrain": 10}
MOMENT = Moment(900, 1000, 1)  # the radius is whole, and the regulariser counts for nothing


class Trainer:
    """A network that is trained a step at a time in one of the ways."""

    def __init__(self, network: str, method: str, data: DataSet, batch: int, **way: object) -> None:
        entry = METHODS.named(method)
        given = {**TRAINED[method], **{name: str(value) for name, value in dict(way.get("options", {})).items()}}
        radius = Radius.parse("0.1") if entry.takes_radius else None
        self._objective = entry.create(radius, given).build(Grid(CELLS[method]), data.levels, CPU)
        config = NetworkConfig(network, Activation.RELU, data.shape, len(data.classes), takes_intervals=True)
        self._network: nn.Module = config.build(0)
        if way.get("last"):
            self._network = self._network.to(memory_format=torch.channels_last)
        self._steps = Steps(self._network.parameters(), Optimiser.ADAM, 2e-4)
        self._called = torch.compile(self._network) if way.get("compiled") else self._network
        self._half, self._last = bool(way.get("half")), bool(way.get("last"))
        taken = data.take(np.arange(batch))
        self._images, self._labels = torch.from_numpy(taken.images), torch.from_numpy(taken.labels)

    def step(self) -> float:
        """Take a step; return its seconds."""
        start = time.perf_counter()
        inputs = self._objective.encode(self._images)
        if self._last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._half):
            loss = self._objective.loss(self._called, inputs, self._labels, MOMENT)
        self._steps.forget_gradients()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), 10.0)
        self._steps.take(1e-4)
        return time.perf_counter() - start


@contextmanager
def no_adversary() -> Iterator[None]:
    """Let the attack of cells return its middle at once."""
    kept = reachable.ReachableCells.adversarial

    def middle(_self: object, _network: nn.Module, box: Box, *_: object) -> torch.Tensor:
        return box.center

    reachable.ReachableCells.adversarial = middle
    try:
        yield
    finally:
        reachable.ReachableCells.adversarial = kept


def in_turns(trainers: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds + 1):
        for name in sorted(trainers, reverse=number % 2 == 0):
            seconds = trainers[name]()
            if number:
                times[name].append(seconds)
    return times


def ways(method: str, compiled: bool) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {
        "as it is": {},
        "bfloat16": {"half": True},
        "channels last": {"last": True},
        "both": {"half": True, "last": True},
    }
    if method == "reachable":
        found["a quarter's intervals"] = {"options": {"interval_batch": 0.25}}
        found["a quarter's intervals, bfloat16"] = {"options": {"interval_batch": 0.25}, "half": True}
        hardest = {"interval_batch": 0.25, "attacked_batch": 0.25}
        found["a quarter's intervals and attack"] = {"options": hardest}
        found["a quarter's attack, bfloat16"] = {"options": {**hardest, "interval_batch": 0.0625}, "half": True}
        found["one attack step"] = {"options": {"attack_steps": 1}}
    if compiled:
        found["compiled"] = {"compiled": True}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--networks", nargs="+", default=["dm-small", "dm-medium", "cnn-7"])
    parser.add_argument("--methods", nargs="+", default=list(TRAINED))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--compile", action="store_true", help="also compiled: minutes for each network")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    data = load_data(options.data, Split.VALIDATION, options.data_dir)
    for network in options.networks:
        for method in options.methods:
            made = (network, method, data, options.batch_size)
            trainers = {name: Trainer(*made, **way).step for name, way in ways(method, options.compile).items()}
            if method == "reachable":
                plain, quarter = Trainer(*made), Trainer(*made, options={"interval_batch": 1 / options.batch_size})

                def unattacked(step: Callable[[], float] = plain.step) -> float:
                    with no_adversary():
                        return step()

                trainers |= {"- attack": unattacked, "- intervals": quarter.step}
            times = in_turns(trainers, options.rounds)
            own = times["as it is"]
            gains = {
                name: round(statistics.median(mine / other for mine, other in zip(own, some, strict=True)), 2)
                for name, some in times.items()
                if not name.startswith("-")
            }
            shares = {
                name[2:]: round(1 - statistics.median(b / a for a, b in zip(own, some, strict=True)), 2)
                for name, some in times.items()
                if name.startswith("-")
            }
            row = {"network": network, "method": method, "images_a_second": round(options.batch_size / min(own))}
            print(json.dumps({**row, "gains": gains, "shares": shares}), flush=True)


if __name__ == "__main__":
    main()
