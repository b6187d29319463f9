"""What fewer bits cost: error, certified images, size and time of a file in float32, float16 and int8.

Each file is written by `abscert export --precision`, int8 with ranges of 500 training images. Cells are proven at their
points, balls by proofs with intervals and CROWN-IBP alone. Time is that of onnxruntime's CPU provider on one thread, by
turns, as `abscert verify` opens the file, and with integer kernels where it has them. Prints a JSON line for
benchmarks/records/benchmarks.jsonl.

python benchmarks/precision.py NAME=RUN/deploy.onnx ... [--data-dir DATA] [--images 1000]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.precision import FilePrecision, narrow
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Arithmetic, Inputs, Radius, RadiusScale
from abscert_plugin.data import Split, load_data
from abscert_plugin.verification.logits import read_logits
from abscert_plugin.verification.proving import Prover

CALIBRATION = 500
RADII = ("0.1", "0.3")
AT_ONCE = 50
TURNS = 15
TIMED = 250  # images of a turn


def certified(prover: Prover, artifact: Artifact, images: np.ndarray, labels: np.ndarray, radius: str) -> int:
    """Return how many balls are proven by intervals or CROWN-IBP."""
    ball, found = Ball(Radius.parse(radius, RadiusScale.PIXEL), Inputs.FLOAT), 0
    for start in range(0, len(images), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        reach = artifact.front.reach(ball, images[part])
        bounds = prover.least_margins(reach.lowest, reach.highest, labels[part], BoundMethod.CROWN_IBP)
        found += int((bounds > 0).sum())
    return found


def rows_of(
    name: str, precision: str, artifact: Artifact, images: np.ndarray, labels: np.ndarray
) -> list[dict[str, object]]:
    """Return what is said of a file: a row for each arithmetic that its proofs may be asked for."""
    margins = np.concatenate(
        [
            read_logits(artifact.run_images(images[start : start + AT_ONCE]), labels[start : start + AT_ONCE]).margin
            for start in range(0, len(images), AT_ONCE)
        ]
    )
    right = np.flatnonzero(margins > 0)
    rows: list[dict[str, object]] = []
    for asked in (None, Arithmetic.ANY_ORDER) if precision == FilePrecision.FLOAT16 else (None,):
        prover = Prover(artifact, asked)
        proven = prover.at_points(artifact.cells.cell(images[right]), labels[right], margins[right]) > 0
        rows.append(
            {
                "network": name,
                "precision": precision,
                "arithmetic": str(prover.arithmetic),
                "images": len(images),
                "mislabelled": int((~(margins > 0)).sum()),
                "cell": int(proven.sum()),
                **{f"ball_{radius}": certified(prover, artifact, images, labels, radius) for radius in RADII},
                "bytes": artifact.path.stat().st_size,
            }
        )
    return rows


def seconds(runs: Sequence[Callable[[np.ndarray], object]], images: np.ndarray) -> list[float]:
    """Return the median seconds of each run of some images, by turns."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(TURNS):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def with_integer_kernels(path: Path) -> Callable[[np.ndarray], object]:
    """Return the file as onnxruntime runs it where it may, with integer kernels for QuantizeLinear."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"image": images})


def main() -> None:
    """Print the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="NAME=deploy.onnx")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    asked = parser.parse_args()
    training, test = (load_data("mnist", split, asked.data_dir) for split in (Split.TRAIN, Split.TEST))
    shown = training.first(CALIBRATION).all_pixels()
    images, labels = test.first(asked.images).all_pixels(), test.labels[: asked.images]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in asked.files:
            name, _, path = file.partition("=")
            source = Artifact.open(Path(path), Provider.CPU, threads=1)
            artifacts = [source]
            for precision in FilePrecision:
                made = narrow(source, precision, Path(folder) / name, shown)
                artifacts.append(Artifact.open(made.path, Provider.CPU, threads=1))
            runs = [one.run_images for one in artifacts] + [with_integer_kernels(one.path) for one in artifacts]
            times = seconds(runs, images[:TIMED])
            pairs = list(zip(times[: len(artifacts)], times[len(artifacts) :], strict=True))
            for artifact, precision, taken in zip(artifacts, ("float32", *FilePrecision), pairs, strict=True):
                share = {"time": round(taken[0] / pairs[0][0], 3), "time_integer": round(taken[1] / pairs[0][1], 3)}
                rows += [{**found, **share} for found in rows_of(name, precision, artifact, images, labels)]
    print(json.dumps({"precisions": rows}))


if __name__ == "__main__":
    main()
