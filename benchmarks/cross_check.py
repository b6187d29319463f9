"""Cross-check of `verify --claim ball` with a complete verifier that this project has no part in.

The peer reads `abstract.onnx` and decides, over the box that spans an image's reachable cells, whether another label
can win. It lives in an environment of its own (pip install maraboupy "numpy<2.3" onnx onnxruntime; or pip install
vibecheck-nn), and --python names that interpreter. A certificate by bounds must be unsat; an image that is falsified
must be sat. Between the two lie images that only running or splitting cells can certify, since the box holds more than
its corners: for these either answer is right. Of the first --limit images, the first --each of every way to be decided
are asked about.

Marabou is asked about fully connected networks alone: see the note at MARABOU.

usage: python benchmarks/cross_check.py RUN_FOLDER --peer marabou|vibecheck --python /path/to/python --radius 0.1
           [--data digits] [--limit 20] [--each 5]
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed

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


def ask_marabou(python, task) -> str:
    tasks = [{**task, "other": other} for other in task["others"]]
    text = "".join(json.dumps(item) + "\n" for item in tasks)
    result = subprocess.run([python, "-c", MARABOU], input=text, capture_output=True, text=True, check=True)
    answers = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("answer")]
    assert len(answers) == len(tasks), result.stdout + result.stderr
    return "sat" if "sat" in answers else "unsat" if set(answers) == {"unsat"} else "undecided"


def ask_vibecheck(python, task) -> str:
    folder = Path(task["model"]).parent
    lines = [f"(declare-const X_{place} Real)" for place in range(len(task["lower"]))]
    lines += [f"(declare-const Y_{place} Real)" for place in range(len(task["others"]) + 1)]
    for place, (low, high) in enumerate(zip(task["lower"], task["upper"], strict=True)):
        lines += [f"(assert (>= X_{place} {low:.9f}))", f"(assert (<= X_{place} {high:.9f}))"]
    wins = " ".join(f"(and (>= Y_{other} Y_{task['label']}))" for other in task["others"])
    (folder / "box.vnnlib").write_text("\n".join([*lines, f"(assert (or {wins}))"]) + "\n")
    answer = folder / "answer.txt"
    answer.unlink(missing_ok=True)
    command = [str(Path(python).parent / "vibecheck"), "--net", task["model"], "--spec", str(folder / "box.vnnlib")]
    result = subprocess.run(
        [*command, "--timeout", "60", "--device", "cpu", "--results-file", str(answer)], capture_output=True, text=True
    )
    assert answer.exists(), result.stdout + result.stderr
    word = answer.read_text().split()[0]
    return word if word in ("sat", "unsat") else "undecided"


PEERS = {"marabou": ask_marabou, "vibecheck": ask_vibecheck}
BY_BOUNDS = ("ibp", "crown-ibp", "crown", "optimised")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--peer", choices=PEERS, default="vibecheck")
    parser.add_argument("--python", required=True)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--each", type=int, default=5)
    options = parser.parse_args()

    path = options.run / "deploy.onnx"
    artifact = Artifact.open(path, Provider.CPU)
    white_box = open_white_box(artifact)
    ball = Ball(Radius.parse(options.radius))
    deployed = Deployed(artifact)
    verifier = BallVerifier(deployed, white_box, ball, Budget(exhaustive=1))
    data = load_data(options.data, Split.TEST, options.data_dir).first(options.limit)
    batch = data.take(np.arange(len(data)))
    images = data.pixels(batch.images)
    records = [item.record for item in verifier.decide(images, batch.labels, batch.index)]
    lower, upper = artifact.front.reach(ball, images).box()
    fixed = Path(tempfile.mkdtemp()) / "abstract.onnx"
    fixed.write_bytes(with_batch_of_one(options.run / "abstract.onnx"))

    counts: dict[str, int] = {}
    asked: dict[tuple[str, str], int] = {}
    for row, record in enumerate(records):
        way = (record.verdict, record.method)
        if record.method == "forward" or asked.get(way, 0) >= options.each:
            continue
        asked[way] = asked.get(way, 0) + 1
        task = {
            "model": str(fixed),
            "lower": lower[row].ravel().tolist(),
            "upper": upper[row].ravel().tolist(),
            "label": record.label,
            "others": [other for other in range(artifact.metadata.classes) if other != record.label],
        }
        answer = PEERS[options.peer](options.python, task)
        by_bounds = record.verdict == "certified" and record.method in BY_BOUNDS
        contradiction = (by_bounds and answer == "sat") or (record.verdict == "falsified" and answer == "unsat")
        key = f"{record.verdict} by {record.method}, {options.peer} {answer}"
        counts[key] = counts.get(key, 0) + 1
        assert not contradiction, (record, answer)
    print(json.dumps(dict(sorted(counts.items())), indent=2))


def with_batch_of_one(path: Path) -> bytes:
    model = read_model(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model.SerializeToString()


main()
