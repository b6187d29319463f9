"""What a guard certifies beside what `verify --bound ibp` does, and what it costs beside a bare pass.

usage: python benchmarks/guards.py DEPLOY_ONNX ... [--radius 0.1] [--radius 0.3] [--bound ibp] [--data mnist]
       [--images 10000] [--rounds 30]

Shares are of all images, those of the wrong label among them. Times are of one thread, by turns in one process, in
seconds of the processor, so that other work on the machine counts little; of each round the guard's seconds over the
model's, and of these the median. Prints one line of JSON for a model.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider, Runner
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.guards.guarded import CERTIFIED, LABEL
from abscert_plugin.guards.write import write_guard
from abscert_plugin.verification.proving import Prover

AT_ONCE = 100
BATCHES = (1, 100)


def shares(artifact: Artifact, guard: Path, ball: Ball, data: DataSet) -> dict[str, float]:
    """Return the percentages of images that the guard and proofs by intervals certify with their own label."""
    runner, prover = Runner(guard), Prover(artifact)
    counts = {"guard": 0, "ibp": 0, "crown_ibp": 0, "guard_alone": 0}
    for batch in data.batches(AT_ONCE):
        images, labels = data.pixels(batch.images), batch.labels
        found = runner.run(artifact.front.file_input(images))
        reach = artifact.front.reach(ball, images)
        by_guard = found[CERTIFIED] & (found[LABEL] == labels)
        bounds = prover.least_margins(reach.lowest, reach.highest, labels, BoundMethod.IBP)
        rest = np.flatnonzero(bounds <= 0)
        linear = bounds.copy()
        if len(rest):
            ends = reach.lowest[rest], reach.highest[rest]
            linear[rest] = prover.least_margins(*ends, labels[rest], BoundMethod.CROWN_IBP, is_open=True)
        counts["guard"] += int(by_guard.sum())
        counts["ibp"] += int((bounds > 0).sum())
        counts["crown_ibp"] += int((linear > 0).sum())
        counts["guard_alone"] += int((by_guard & (bounds <= 0)).sum())
    return {name: round(100 * count / len(data), 3) for name, count in counts.items()}


def cost(model: Path, guard: Path, artifact: Artifact, batch: int, rounds: int) -> float:
    """Return the median of the guard's seconds over the model's, by turns."""
    images = np.random.default_rng(0).random((batch, *artifact.metadata.image_shape), dtype=np.float32)
    given = artifact.front.file_input(images)
    runners = [Runner(path, threads=1) for path in (guard, model)]
    repeats = max(1, 100 // batch)
    ratios = []
    for number in range(rounds + 3):
        seconds = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            start = time.thread_time()
            for _ in range(repeats):
                runners[place].run(given)
            seconds[place] = time.thread_time() - start
        ratios.append(seconds[0] / seconds[1])
    return round(statistics.median(ratios[3:]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--radius", action="append")
    parser.add_argument("--bound", type=BoundMethod, default=BoundMethod.IBP)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    data = load_data(options.data, Split.TEST, options.data_dir).first(options.images)
    for model in options.models:
        artifact = Artifact.open(model, Provider.CPU)
        for text in options.radius or ["0.1", "0.3"]:
            ball = Ball(Radius.parse(text))
            with tempfile.TemporaryDirectory() as folder:
                guard = Path(folder) / "guard.onnx"
                write_guard(artifact, [ball], guard, bound=options.bound)
                line: dict[str, Any] = {
                    "network": artifact.metadata.network,
                    "training": artifact.metadata.training,
                    "data": options.data,
                    "radius": text,
                    "bound": str(options.bound),
                    "images": len(data),
                    "certified": shares(artifact, guard, ball, data),
                    "size": round(guard.stat().st_size / model.stat().st_size, 2),
                    "time": {str(batch): cost(model, guard, artifact, batch, options.rounds) for batch in BATCHES},
                }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
