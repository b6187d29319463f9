"""Deployed files in several runtimes: do their logits lie within a proof's enclosures, and are proven labels theirs?

The enclosures are those at each image alone (a box without width), so what is left of them is what rounding may do.

usage: python benchmarks/runtimes.py DEPLOY.ONNX [DEPLOY.ONNX ...] [--data mnist] [--images 200]
           [--openvino PYTHON] [--web FOLDER]

PYTHON is one that has openvino; in FOLDER, `npm install onnxruntime-web` was run, and node is there. Prints a line for
records/benchmarks.jsonl; the exit status is 1 where a logit lies outside or a proven label differs.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from engines import TORCH, Run, by_torch, engines, points_of

from abscert_plugin.artifact.metadata import LOGITS
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.verification.logits import read_logits
from abscert_plugin.verification.proving import Prover


@dataclass(frozen=True)
class Enclosed:
    """What a proof says of a file's logits at some images.

    Args:
        images: on the pixel scale.
        logits: by the runtime that verifies.
        lower, upper: ends of what any evaluation may compute.
        labels: the file's own.
        is_proven: where every evaluation gives the label.
    """

    images: np.ndarray
    logits: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    labels: np.ndarray
    is_proven: np.ndarray

    @classmethod
    def of(cls, artifact: Artifact, images: np.ndarray) -> "Enclosed":
        points, prover, logits = points_of(artifact, images), Prover(artifact), artifact.run_images(images)
        lower, upper = (end.numpy() for end in prover.enclosures(points, points)[LOGITS].computed())
        labels = logits.argmax(axis=1)
        seen = read_logits(logits, labels).margin
        return cls(images, logits, lower, upper, labels, prover.at_points(points, labels, seen) > 0)

    def outside(self, logits: np.ndarray) -> int:
        """Return how many logits lie outside their enclosures."""
        return int((~((self.lower <= logits) & (logits <= self.upper))).sum())

    def share(self, logits: np.ndarray) -> float:
        """Return how far logits go: 1 is the end of an enclosure, 0 its middle."""
        middle, room = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        return float((np.abs(logits - middle) / room).max())

    def difference(self, logits: np.ndarray) -> float:
        """Return the largest difference from the runtime that verifies."""
        return float(np.abs(logits - self.logits).max())

    def compared(self, runs: Iterable[Run]) -> dict[str, float | int]:
        """Return counts of faults in the logits of some runs, and how far these go."""
        found: dict[str, float | int] = {
            "runs": 0,
            "outside": 0,
            "labels_that_differ": 0,
            "difference": 0.0,
            "share": 0.0,
        }
        for run in runs:
            logits = run(self.images)[LOGITS].astype(np.float64)
            is_other = logits.argmax(axis=1) != self.labels
            found["runs"] += 1
            found["outside"] += self.outside(logits)
            found["labels_that_differ"] += int((is_other & self.is_proven).sum())
            found["difference"] = max(found["difference"], self.difference(logits))
            found["share"] = max(found["share"], self.share(logits))
        return found


def runtimes(artifact: Artifact, openvino: str | None, web: Path | None) -> Iterator[tuple[str, Iterator[Run]]]:
    """Yield runs of a file's logits in each runtime at hand, by its name and version."""
    for name, engine in engines(openvino, web).items():
        yield name, engine(artifact.path, [LOGITS])
    yield TORCH, by_torch(artifact)


def arguments(usage: str | None) -> argparse.ArgumentParser:
    """Return the options of a benchmark that runs files in several runtimes."""
    parser = argparse.ArgumentParser(description=usage)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--openvino")
    parser.add_argument("--web", type=Path)
    return parser


def images_of(options: argparse.Namespace) -> np.ndarray:
    """Return the first test images, on the pixel scale."""
    data = load_data(options.data, Split.TEST, options.data_dir)
    return data.first(options.images).all_pixels()


def command(script: str, options: argparse.Namespace, *more: str) -> str:
    """Return the command that a record names."""
    others = ["--openvino PYTHON"] * (options.openvino is not None) + ["--web FOLDER"] * (options.web is not None)
    return " ".join([f"python benchmarks/{script} DEPLOY.ONNX ...", *more, f"--images {options.images}", *others])


def main() -> None:
    options = arguments(__doc__).parse_args()
    images = images_of(options)
    rows, faults = [], 0
    for path in options.files:
        artifact = Artifact.open(path, Provider.CPU, threads=1)
        enclosed = Enclosed.of(artifact, images)
        shared = {"file": path.parent.name, "images": len(images), "proven": int(enclosed.is_proven.sum())}
        for name, runs in runtimes(artifact, options.openvino, options.web):
            found = enclosed.compared(runs)
            faults += int(found["outside"] + found["labels_that_differ"])
            rows.append({**shared, "runtime": name, **found})
    record = {
        "what": "logits of other runtimes against the enclosures of a proof",
        "command": command("runtimes.py", options),
        "figure": f"{faults} logits outside their enclosures, or proven labels that differ",
        "runtimes": rows,
    }
    print(json.dumps(record))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
