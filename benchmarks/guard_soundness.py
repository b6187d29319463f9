"""Images of balls that a guard certifies, run by onnxruntime: the label is kept, and the margin that the guard told.

Of each certified image, those with the least margins first, come points found by gradients for some, the ball's ends,
and, half and half, random corners of the ball and images anywhere in it. The last line is a JSON object in the form of
records/benchmarks.jsonl, and the exit status is 1 where an image loses its label or has a smaller margin.

usage: python benchmarks/guard_soundness.py DEPLOY.ONNX [DEPLOY.ONNX ...] [--radius 0.1] [--images 10000000]
       [--bound ibp]
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider, Runner
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Reach
from abscert_plugin.guards import guarded
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.verification.attack import gradient_attack

Array: TypeAlias = np.ndarray[Any, Any]
BATCH, PROGRESS = 1000, 500_000
ATTACKED, RESTARTS = 200, 3
WRONG = ("mislabelled", "margins_below")


class Sampling:
    """What was counted over some files.

    Args:
        seed: of the draws.
        bound: of the guards.
    """

    def __init__(self, seed: int, bound: BoundMethod) -> None:
        self._bound = bound
        self._chance = np.random.default_rng(seed)
        self.counts = Counter[str]()
        self.closest = np.inf  # of what margins exceed those that were told

    def run(self, path: Path, radius: Radius, images: Array, count: int) -> None:
        """Sample so many images of the balls that the guard of a file certifies."""
        artifact, ball = Artifact.open(path, Provider.CPU, threads=1), Ball(radius)
        runner = Runner(guarded(artifact, [ball], bound=self._bound).model.SerializeToString(), threads=1)
        parts = [runner.run(part) for part in _parts(images)]
        labels, certified, margins = (
            np.concatenate([part[name] for part in parts]) for name in ("label", "certified", "margin")
        )
        rows = np.flatnonzero(certified)
        rows = rows[np.argsort(margins[rows])]
        self.counts["guarded"] += len(images)
        self.counts["certified"] += len(rows)
        self._attack(artifact, artifact.front.reach(ball, images[rows[:ATTACKED]]), labels[rows], margins[rows])
        each, done, started = math.ceil(count / max(1, len(rows))), 0, time.perf_counter()
        for row in rows:
            low, high = ball.ends(images[row])
            few = min(each, count - done)
            for first in range(0, few, BATCH):
                points = self._points(low, high, min(BATCH, few - first), has_ends=first == 0)
                self._check(artifact, points, labels[row], margins[row])
            done += few
            if done % PROGRESS < few:
                print(f"{path}: {done:,} after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    def _points(self, low: Array, high: Array, count: int, has_ends: bool) -> Array:
        share = self._chance.random((count, *low.shape), dtype=np.float32)
        share[: count // 2] = np.rint(share[: count // 2])
        if has_ends:
            share[:1], share[1:2] = 0, 1
        points: Array = np.clip(low + share * (high - low), low, high)
        return points

    def _attack(self, artifact: Artifact, reach: Reach, labels: Array, margins: Array) -> None:
        try:
            network = open_white_box(artifact).network
        except UnsupportedModelError:
            return
        for first in range(0, len(reach), BATCH):
            rows = np.arange(first, min(first + BATCH, len(reach)))
            found = gradient_attack(network, reach.take(rows), labels[rows], rows, RESTARTS, np.inf)
            self.counts["attacked"] += len(rows)
            for row, point in zip(rows, found.points, strict=True):
                image = reach.image_in(int(row), point)
                if image is not None:
                    self._check(artifact, image[None], labels[row], margins[row])

    def _check(self, artifact: Artifact, points: Array, label: int, told: float) -> None:
        logits = artifact.run_images(points).astype(np.float64)
        others = np.delete(logits, label, axis=1)
        margins = logits[:, label] - others.max(axis=1)
        self.counts["images"] += len(points)
        self.counts["mislabelled"] += int((~(margins > 0)).sum())
        self.counts["margins_below"] += int((~(margins >= told)).sum())
        self.closest = min(self.closest, float(margins.min()) - float(told))


def _parts(images: Array) -> Iterator[Array]:
    for first in range(0, len(images), BATCH):
        yield images[first : first + BATCH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--bound", type=BoundMethod, default=BoundMethod.IBP)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = load_data(options.data, Split.TEST, options.data_dir)
    images = data.all_pixels()
    sampling = Sampling(options.seed, options.bound)
    for path in options.files:
        sampling.run(path, Radius.parse(options.radius), images, -(-options.images // len(options.files)))
    counts = sampling.counts
    figure = (
        f"{counts['mislabelled']} of {counts['images']:,} images mislabelled, {counts['margins_below']} margins below "
        f"the guard's, in {counts['certified']:,} certified balls; the closest one is {sampling.closest:.2g} above it"
    )
    about = f"images of balls that guards certify by {options.bound}, radius {options.radius} (pixel)"
    what = f"{about}: random, corners, and found by gradients"
    command = shlex.join(["python", "benchmarks/guard_soundness.py", *sys.argv[1:]])
    print(json.dumps({"what": what, "command": command, "figure": figure, "counts": dict(counts)}))
    sys.exit(any(counts[name] for name in WRONG))


if __name__ == "__main__":
    main()
