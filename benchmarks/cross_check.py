"""Cross-check of `verify --claim ball` with Marabou, a complete verifier that this project has no part in.

Marabou reads `abstract.onnx` and decides, over the box that spans an image's reachable cells, whether another label can
win. It lives in an environment of its own (pip install maraboupy onnx numpy); --python names that interpreter.
A certificate by bounds must be unsat; an image that is falsified must be sat. Between the two lie images that only
running or splitting cells can certify, since the box holds more than its corners: for these either answer is right.

Fully connected networks alone: see the note at MARABOU.

usage: python benchmarks/cross_check.py RUN_FOLDER --python /path/to/python --radius 0.1 [--data digits] [--limit 20]
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from abscert_plugin.artifact.metadata import read_model
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.radius import Radius
from abscert_plugin.verification.ball import BallVerifier, Budget
from abscert_plugin.verification.deployed import DeployedCells
from abscert_plugin.verification.reach import Ball
from abscert_plugin.verification.run import Artifact

# 2.0.0 is wrong on convolutional networks: for a box without any constraint on the logits it answers unsat.
MARABOU = """
import json, sys
from maraboupy import Marabou
options = Marabou.createOptions(verbosity=0, timeoutInSeconds=60)
for line in sys.stdin:
    task = json.loads(line)
    network = Marabou.read_onnx(task["model"])
    inputs, outputs = network.inputVars[0].flatten(), network.outputVars[0].flatten()
    for variable, low, high in zip(inputs, task["lower"], task["upper"]):
        network.setLowerBound(int(variable), low)
        network.setUpperBound(int(variable), high)
    # logit[label] - logit[other] <= 0
    network.addInequality([int(outputs[task["label"]]), int(outputs[task["other"]])], [1.0, -1.0], 0.0)
    print("answer", network.solve(options=options, verbose=False)[0], flush=True)
"""
BY_BOUNDS = ("ibp", "crown-ibp", "crown", "optimised")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit", type=int, default=20)
    options = parser.parse_args()

    path = options.run / "deploy.onnx"
    artifact = Artifact.open(path, Provider.CPU)
    white_box = open_white_box(read_model(path), path)
    ball = Ball(Radius.parse(options.radius))
    deployed = DeployedCells(artifact.classifier, artifact.metadata)
    verifier = BallVerifier(deployed, white_box, ball, Budget(exhaustive=1))
    data = load_data(options.data, Split.TEST, options.data_dir).first(options.limit)
    batch = data.take(np.arange(len(data)))
    images = data.pixels(batch.images)
    records = [item.record for item in verifier.decide(images, batch.labels, batch.index)]
    lower, upper = ball.reach(artifact.metadata.grid, images).box()
    fixed = Path(tempfile.mkdtemp()) / "abstract.onnx"
    fixed.write_bytes(with_batch_of_one(options.run / "abstract.onnx"))

    counts: dict[str, int] = {}
    for row, record in enumerate(records):
        tasks = [
            {
                "model": str(fixed),
                "lower": lower[row].ravel().tolist(),
                "upper": upper[row].ravel().tolist(),
                "label": record.label,
                "other": other,
            }
            for other in range(artifact.metadata.classes)
            if other != record.label
        ]
        text = "".join(json.dumps(task) + "\n" for task in tasks)
        result = subprocess.run([options.python, "-c", MARABOU], input=text, capture_output=True, text=True, check=True)
        answers = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("answer")]
        assert len(answers) == len(tasks), result.stdout + result.stderr
        answer = "sat" if "sat" in answers else "unsat" if set(answers) == {"unsat"} else "undecided"
        by_bounds = record.verdict == "certified" and record.method in BY_BOUNDS
        contradiction = (by_bounds and answer == "sat") or (record.verdict == "falsified" and answer == "unsat")
        key = f"{record.verdict} by {record.method}, Marabou {answer}" + (" CONTRADICTION" if contradiction else "")
        counts[key] = counts.get(key, 0) + 1
        assert not contradiction, (record, answers)
    print(json.dumps(dict(sorted(counts.items())), indent=2))


def with_batch_of_one(path: Path) -> bytes:
    model = read_model(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model.SerializeToString()


main()
