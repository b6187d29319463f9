"""Two ways to train a network, at once, each on a core of its own: images a second, and the ball error that comes out.

One core trains the first way for some epochs, and the other one the second way for other numbers of epochs, one after
another: at which the error is the first way's, and what time that took. All are then verified on the whole test set by
the sound verifier. A killed run goes on by the same command.

usage: python benchmarks/paired_training.py OUT [--all "--network cnn-3layer ..."] [--ways "" "--batch-size 512 ..."]
           [--epochs 8 20] [--timeout 1]
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-W", "ignore", "-c", "from abscert_plugin.cli import main; main()"]
ALL = (
    "--data mnist --network cnn-3layer --method reachable --cells 4 --radius 0.1 --robust-loss mtl-ibp --share 0.02 "
    "--set attack=between --set attack_steps=3 --set selection=attack"
)
BEFORE = "--precision float32"
NOW = "--precision bfloat16 --batch-size 512 --set interval_batch=0.0625 --set attacked_batch=0.1875"
ONE_CORE = {**os.environ, "OMP_NUM_THREADS": "1"}


def started(out: Path, shared: str, way: str, epochs: int) -> subprocess.Popen[bytes]:
    options = [*shlex.split(shared), *shlex.split(way), "--epochs", str(epochs), "--out", str(out)]
    resumed = ["--resume"] if out.exists() else []
    return subprocess.Popen([*COMMAND, "train", *options, *resumed], env=ONE_CORE, stdout=subprocess.DEVNULL)


def ball_error(out: Path, shared: str, timeout: float) -> dict[str, object]:
    given = dict(zip(*[iter(shlex.split(shared))] * 2, strict=True))
    asked = ["--data", given["--data"], "--claim", "ball", "--radius", given["--radius"], "--timeout", str(timeout)]
    command = [*COMMAND, "verify", str(out / "deploy.onnx"), *asked, "--json"]
    return json.loads(subprocess.run(command, env=ONE_CORE, stdout=subprocess.PIPE, check=True).stdout)


def figures(out: Path) -> dict[str, object]:
    epochs = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    speeds = [epoch["images_per_second"] for epoch in epochs]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    return {
        "epochs": len(epochs),
        "seconds": round(seconds, 1),
        "images_per_second": round(statistics.median(speeds), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--all", default=ALL, help="options of both ways")
    parser.add_argument("--ways", nargs=2, default=[BEFORE, NOW], help="options of each")
    parser.add_argument(
        "--epochs", nargs="+", type=int, default=[8, 20], help="of the first way, and of the second one"
    )
    parser.add_argument("--timeout", type=float, default=1.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    epochs, *others = options.epochs
    before = options.out / f"before-{epochs}"
    beside = started(before, options.all, options.ways[0], epochs)
    folders = {options.out / f"now-{number}": number for number in others}
    ended = [started(folder, options.all, options.ways[1], number).wait() for folder, number in folders.items()]
    if any([*ended, beside.wait()]):
        sys.exit("a training failed; see above")
    for folder in (before, *folders):
        verified = ball_error(folder, options.all, options.timeout)
        print(json.dumps({"run": folder.name, **figures(folder), "verified": verified}), flush=True)


main()
