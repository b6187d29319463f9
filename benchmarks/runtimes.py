"""Deployed files in several runtimes: do their logits lie within a proof's enclosures, and are proven labels theirs?

The enclosures are those at each image alone (a box without width), so what is left of them is what rounding may do.

usage: python benchmarks/runtimes.py DEPLOY.ONNX [DEPLOY.ONNX ...] [--data mnist] [--images 200]
           [--openvino PYTHON] [--web FOLDER]

PYTHON is one that has openvino; in FOLDER, `npm install onnxruntime-web` was run, and node is there. Prints a line for
records/benchmarks.jsonl; the exit status is 1 where a logit lies outside or a proven label differs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator

from abscert_plugin.artifact.metadata import IMAGE, LOGITS
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.front import Points
from abscert_plugin.reading.network import convert
from abscert_plugin.verification.logits import read_logits
from abscert_plugin.verification.proving import Prover

BATCHES = (1, 100)
LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_ALL")
Run = Callable[[np.ndarray], np.ndarray]

OPENVINO = """
import sys, numpy, openvino
model, images, batch, out = sys.argv[1], numpy.load(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
compiled = openvino.compile_model(model, "CPU", options)
parts = [compiled(images[start : start + batch])["logits"] for start in range(0, len(images), batch)]
numpy.save(out, numpy.concatenate(parts))
print(openvino.__version__)
"""

WEB = """
import * as ort from 'onnxruntime-web';
import { readFileSync, writeFileSync } from 'node:fs';
const [model, images, batch, out, ...shape] = process.argv.slice(2);
const sizes = shape.map(Number), pixels = sizes.reduce((a, b) => a * b, 1);
const content = readFileSync(images);
const values = new Float32Array(content.buffer, content.byteOffset, content.byteLength / 4);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ['wasm'] });
const parts = [];
for (let start = 0; start < values.length; start += batch * pixels) {
  const data = values.slice(start, start + batch * pixels);
  const image = new ort.Tensor('float32', data, [data.length / pixels, ...sizes]);
  parts.push(Buffer.from((await session.run({ image })).logits.data.slice().buffer));
}
writeFileSync(out, Buffer.concat(parts));
console.log(ort.env.versions.web);
process.exit(0);
"""


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
        lower, upper = (end.numpy() for end in prover.hidden(points, points)[LOGITS].computed())
        labels = logits.argmax(axis=1)
        seen = read_logits(logits, labels).margin
        return cls(images, logits, lower, upper, labels, prover.at_points(points, labels, seen) > 0)

    def compared(self, runs: Iterable[Run]) -> dict[str, float | int]:
        """Return counts of faults in the logits of some runs, and how far these go."""
        found: dict[str, float | int] = {
            "runs": 0,
            "outside": 0,
            "labels_that_differ": 0,
            "difference": 0.0,
            "share": 0.0,
        }
        middle, room = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        for run in runs:
            logits = run(self.images).astype(np.float64)
            is_other = logits.argmax(axis=1) != self.labels
            found["runs"] += 1
            found["outside"] += int((~((self.lower <= logits) & (logits <= self.upper))).sum())
            found["labels_that_differ"] += int((is_other & self.is_proven).sum())
            found["difference"] = max(found["difference"], float(np.abs(logits - self.logits).max()))
            found["share"] = max(found["share"], float((np.abs(logits - middle) / room).max()))
        return found


def points_of(artifact: Artifact, images: np.ndarray) -> Points:
    return images if artifact.grid is None else artifact.cells.cell(images)


def in_batches(run: Run, batch: int) -> Run:
    return lambda images: np.concatenate([run(images[start : start + batch]) for start in range(0, len(images), batch)])


def by_onnxruntime(artifact: Artifact) -> Iterator[Run]:
    """Yield runs without, with some and with all optimisations, on 1 and 2 threads."""
    for level, threads, batch in product(LEVELS, (1, 2), BATCHES):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
        yield in_batches(partial(_run_session, session), batch)


def _run_session(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    return np.asarray(session.run([LOGITS], {IMAGE: images})[0])


def by_reference(artifact: Artifact) -> Iterator[Run]:
    evaluator: Any = ReferenceEvaluator(onnx.load(artifact.path))
    for batch in BATCHES:
        yield in_batches(lambda images: np.asarray(evaluator.run([LOGITS], {IMAGE: images})[0]), batch)


def by_torch(artifact: Artifact) -> Iterator[Run]:
    network = convert(artifact).network

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            values = torch.from_numpy(artifact.front.network_input(points_of(artifact, images)))
            return np.asarray(network(values).numpy())

    for batch in BATCHES:
        yield in_batches(run, batch)


def by_openvino(artifact: Artifact, python: str) -> Iterator[Run]:
    for batch in BATCHES:

        def run(images: np.ndarray, batch: int = batch) -> np.ndarray:
            with tempfile.TemporaryDirectory() as name:
                given, out = Path(name) / "images.npy", Path(name) / "logits.npy"
                np.save(given, images)
                said([python, "-c", OPENVINO, str(artifact.path), str(given), str(batch), str(out)])
                return np.asarray(np.load(out))

        yield run


def by_web(artifact: Artifact, folder: Path) -> Iterator[Run]:
    for batch in BATCHES:

        def run(images: np.ndarray, batch: int = batch) -> np.ndarray:
            with tempfile.TemporaryDirectory(dir=folder) as name:  # there node finds the package
                script, given, out = (Path(name) / one for one in ("run.mjs", "images", "logits"))
                script.write_text(WEB)
                given.write_bytes(np.ascontiguousarray(images, dtype="<f4").tobytes())
                sizes = map(str, images.shape[1:])
                said(["node", str(script), str(artifact.path), str(given), str(batch), str(out), *sizes])
                return np.frombuffer(out.read_bytes(), dtype="<f4").reshape(len(images), -1)

        yield run


def said(command: list[str]) -> str:
    """Return the last line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout.strip().splitlines()[-1]


def has_web(folder: Path) -> bool:
    return shutil.which("node") is not None and (folder / "node_modules" / "onnxruntime-web").is_dir()


def runtimes(openvino: str | None, web: Path | None) -> dict[str, Callable[[Artifact], Iterator[Run]]]:
    """Return the runtimes at hand, by name and version."""
    found: dict[str, Callable[[Artifact], Iterator[Run]]] = {
        f"onnxruntime {onnxruntime.__version__}": by_onnxruntime,
        f"onnx's reference {metadata.version('onnx')}": by_reference,
        f"torch {torch.__version__}": by_torch,
    }
    if openvino is not None:
        version = said([openvino, "-c", "import openvino; print(openvino.__version__)"]).split("-")[0]
        found[f"OpenVINO {version}"] = lambda artifact: by_openvino(artifact, openvino)
    if web is not None:
        package = json.loads((web / "node_modules" / "onnxruntime-web" / "package.json").read_text())
        found[f"onnxruntime-web {package['version']} (wasm)"] = lambda artifact: by_web(artifact, web)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--openvino")
    parser.add_argument("--web", type=Path)
    options = parser.parse_args()
    data = load_data(options.data, Split.TEST, options.data_dir)
    images = data.pixels(data.take(np.arange(options.images)).images)
    rows, faults = [], 0
    for path in options.files:
        artifact = Artifact.open(path, Provider.CPU, threads=1)
        enclosed = Enclosed.of(artifact, images)
        shared = {"file": path.parent.name, "images": len(images), "proven": int(enclosed.is_proven.sum())}
        for name, runs in runtimes(options.openvino, options.web).items():
            found = enclosed.compared(runs(artifact))
            faults += int(found["outside"] + found["labels_that_differ"])
            rows.append({**shared, "runtime": name, **found})
    more = ["--openvino PYTHON"] * (options.openvino is not None) + ["--web FOLDER"] * (options.web is not None)
    record = {
        "what": "logits of other runtimes against the enclosures of a proof",
        "command": " ".join(["python benchmarks/runtimes.py DEPLOY.ONNX ...", f"--images {options.images}", *more]),
        "figure": f"{faults} logits outside their enclosures, or proven labels that differ",
        "runtimes": rows,
    }
    print(json.dumps(record))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
