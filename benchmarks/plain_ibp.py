"""Train plain IBP (no abstraction) with the loop, network and schedule of `reachable`, and bound it on the test set.

The last line has the share of test images that interval bounds do not certify, the share left when CROWN-IBP and
CROWN (auto_LiRPA) are tried on the rest, and the share that a gradient attack (PGD) refutes: the true ball error, which
a complete verifier would find, lies between the last two.

usage: python benchmarks/plain_ibp.py --radius 0.3 --epochs 14 --out runs/ibp [--network cnn-2layer] [--ramp 0.5]
"""

import argparse
import json
from pathlib import Path

import torch

from abscert_plugin.data import Split, load_data
from abscert_plugin.lirpa.bounds import Bounder, BoundMethod
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.radius import Radius
from abscert_plugin.training.checkpoint import FILE_NAME, read_checkpoint
from abscert_plugin.training.config import TrainingConfig
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import Job, error_rate, load_weights, train
from abscert_plugin.training.robust import RobustConfig
from baselines.ibp import PixelBalls, ibp

CPU = torch.device("cpu")


class Printer:
    def on_start(self, total_steps, steps_done):
        pass

    def on_step(self, images, loss):
        pass

    def on_epoch(self, row):
        print(json.dumps(row), flush=True)


def decide(network, objective, balls, radius, feed) -> tuple[int, int]:
    """Return how many test images bounds certify, and how many an attack refutes."""
    bounder, certified, refuted = None, 0, 0
    generator = torch.Generator().manual_seed(0)
    for images, labels in feed.batches(torch.arange(len(feed)), 200):
        box = balls.box(images, radius.outward)
        if bounder is None:
            bounder = Bounder(network, tuple(box.center.shape[1:]), objective_classes(network), CPU)
        done = torch.zeros(len(labels), dtype=torch.bool)
        with torch.no_grad():
            done = objective.margins(network, images, labels) > 0
            wrong = network(balls.center(images)).argmax(dim=1) != labels
        for _ in range(4):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            found = balls.adversarial(network, box, labels, 20)
            with torch.no_grad():
                wrong |= network(found).argmax(dim=1) != labels
        refuted += int(wrong.sum())
        for method in (BoundMethod.CROWN_IBP, BoundMethod.CROWN):
            rows = torch.nonzero(~done & ~wrong)[:, 0]
            if len(rows):
                margins = bounder.margins(box.lower[rows], box.upper[rows], labels[rows], method)
                done[rows] = margins.amin(dim=1) > 0
        certified += int((done & ~wrong).sum())
    return certified, refuted


def objective_classes(network) -> int:
    return network[-1].out_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--network", default="cnn-2layer")
    parser.add_argument("--radius", required=True)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--ramp", type=float, default=0.5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    splits = {split: load_data(options.data, split, options.data_dir) for split in Split}
    training = splits[Split.TRAIN]
    shape, classes = training.shape, len(training.classes)
    network = NetworkConfig(options.network, Activation.RELU, shape, classes, takes_intervals=False).build(0)
    config = RobustConfig(Radius.parse(options.radius), ramp=options.ramp)
    objective = ibp(training.levels, config)
    loop = TrainingConfig(options.epochs, 128, 1e-3, patience=0, gradient_clip=10.0)
    options.out.mkdir(parents=True, exist_ok=True)
    description = {"method": "ibp", "network": options.network, "epochs": options.epochs, **config.describe()}
    job = Job(network, objective, training, splits[Split.VALIDATION], loop, CPU, options.out, description)
    resumed = read_checkpoint(options.out) if (options.out / FILE_NAME).exists() else None
    checkpoint = train(job, resumed, Printer())
    load_weights(network, checkpoint.best)
    network.eval()
    test = Feed(splits[Split.TEST], CPU)
    wrong = 0
    with torch.no_grad():
        for images, labels in test.batches(torch.arange(len(test)), 1000):
            wrong += int((network(PixelBalls(training.levels).center(images)).argmax(dim=1) != labels).sum())
    certified, refuted = decide(network, objective, PixelBalls(training.levels), config.radius, test)
    result = {
        **description,
        "best_epoch": checkpoint.best_epoch,
        "test_clean_error": wrong / len(test),
        "test_ball_error_by_interval_bounds": error_rate(network, objective, test),
        "test_ball_error_by_all_bounds": 1 - certified / len(test),
        "test_error_under_attack": refuted / len(test),
    }
    print(json.dumps(result))
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


main()
