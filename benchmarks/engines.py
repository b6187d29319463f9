"""Runtimes that run an ONNX file on images: which are at hand, and runs of each in all its ways.

OpenVINO is run by another python that has it, onnxruntime-web by node in a folder where `npm install onnxruntime-web`
was run.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from abscert_plugin.front import Points
from abscert_plugin.reading.network import convert

BATCHES = (1, 100)
LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_ALL")
Outputs = Mapping[str, np.ndarray]
Run = Callable[[np.ndarray], Outputs]
Engine = Callable[[Path, Sequence[str]], Iterator[Run]]
"""From a file, and the outputs that are wanted of it, to runs: of images, on the pixel scale."""

OPENVINO = """
import sys, numpy, openvino
model, images, batch, out, *names = sys.argv[1], numpy.load(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
compiled = openvino.compile_model(model, "CPU", options)
parts = []
for start in range(0, len(images), batch):
    found = compiled(images[start : start + batch])
    parts.append([found[name].copy() for name in names])
numpy.savez(out, **{name: numpy.concatenate(some) for name, some in zip(names, zip(*parts))})
"""

WEB = """
import * as ort from 'onnxruntime-web';
import { readFileSync, writeFileSync } from 'node:fs';
const [model, images, batch, out, shape, ...names] = process.argv.slice(2);
const sizes = shape.split(',').map(Number), pixels = sizes.reduce((a, b) => a * b, 1);
const content = readFileSync(images);
const values = new Float32Array(content.buffer, content.byteOffset, content.byteLength / 4);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ['wasm'] });
const parts = names.map(() => []), types = {};
for (let start = 0; start < values.length; start += batch * pixels) {
  const data = values.slice(start, start + batch * pixels);
  const image = new ort.Tensor('float32', data, [data.length / pixels, ...sizes]);
  const found = await session.run({ image }, names);
  names.forEach((name, place) => {
    parts[place].push(Buffer.from(found[name].data.slice().buffer));
    types[name] = found[name].type;
  });
}
names.forEach((name, place) => writeFileSync(`${out}-${name}`, Buffer.concat(parts[place])));
console.log(JSON.stringify(types));
process.exit(0);
"""


def by_onnxruntime(path: Path, outputs: Sequence[str]) -> Iterator[Run]:
    """Yield runs without, with some and with all optimisations, on 1 and 2 threads, one by one and 100 at once."""
    for level, threads, batch in product(LEVELS, (1, 2), BATCHES):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        yield _in_batches(session, outputs, batch)


def by_reference(path: Path, outputs: Sequence[str]) -> Iterator[Run]:
    evaluator: Any = ReferenceEvaluator(onnx.load(path))
    for batch in BATCHES:
        yield _in_batches(evaluator, outputs, batch)


def _in_batches(session: Any, outputs: Sequence[str], batch: int) -> Run:
    def run(images: np.ndarray) -> Outputs:
        parts = [
            session.run(list(outputs), {IMAGE: images[start : start + batch]}) for start in range(0, len(images), batch)
        ]
        return {name: np.concatenate(some) for name, some in zip(outputs, zip(*parts, strict=True), strict=True)}

    return run


def by_torch(artifact: Artifact) -> Iterator[Run]:
    """Yield runs of the network as bounds read it, which has the logits alone."""
    network = convert(artifact).network

    def run(images: np.ndarray, batch: int) -> Outputs:
        values = torch.from_numpy(artifact.front.network_input(points_of(artifact, images)))
        with torch.inference_mode():
            return {LOGITS: torch.cat([network(part) for part in values.split(batch)]).numpy()}

    for batch in BATCHES:
        yield partial(run, batch=batch)


def points_of(artifact: Artifact, images: np.ndarray) -> Points:
    return images if artifact.grid is None else artifact.cells.cell(images)


def openvino(python: str) -> Engine:
    """Return OpenVINO, in float32 on one thread."""

    def engine(path: Path, outputs: Sequence[str]) -> Iterator[Run]:
        for batch in BATCHES:

            def run(images: np.ndarray, batch: int = batch) -> Outputs:
                with tempfile.TemporaryDirectory() as name:
                    given, out = Path(name) / "images.npy", Path(name) / "found.npz"
                    np.save(given, images)
                    said([python, "-c", OPENVINO, str(path), str(given), str(batch), str(out), *outputs])
                    with np.load(out) as found:
                        return {output: found[output] for output in outputs}

            yield run

    return engine


def web(folder: Path) -> Engine:
    """Return onnxruntime-web, by WebAssembly on one thread."""

    def engine(path: Path, outputs: Sequence[str]) -> Iterator[Run]:
        for batch in BATCHES:

            def run(images: np.ndarray, batch: int = batch) -> Outputs:
                with tempfile.TemporaryDirectory(dir=folder) as name:  # there node finds the package
                    script, given, out = (Path(name) / one for one in ("run.mjs", "images", "found"))
                    script.write_text(WEB)
                    given.write_bytes(np.ascontiguousarray(images, dtype="<f4").tobytes())
                    shape = ",".join(map(str, images.shape[1:]))
                    command = ["node", str(script), str(path.resolve()), str(given), str(batch), str(out), shape]
                    types = json.loads(said([*command, *outputs]))
                    return {one: _read(out.with_name(f"found-{one}"), types[one], len(images)) for one in outputs}

            yield run

    return engine


def _read(path: Path, kind: str, count: int) -> np.ndarray:
    code = {"float32": "<f4", "int64": "<i8", "bool": "?"}[kind]
    values: np.ndarray = np.frombuffer(path.read_bytes(), dtype=np.dtype(code))
    return values if len(values) == count else values.reshape(count, -1)


def said(command: Sequence[str]) -> str:
    """Return the last line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def has_web(folder: Path) -> bool:
    return shutil.which("node") is not None and (folder / "node_modules" / "onnxruntime-web").is_dir()


def engines(python: str | None, folder: Path | None) -> dict[str, Engine]:
    """Return the runtimes at hand, by name and version.

    Args:
        python: one that has openvino, if any.
        folder: where onnxruntime-web is, if anywhere.
    """
    found: dict[str, Engine] = {
        f"onnxruntime {onnxruntime.__version__}": by_onnxruntime,
        f"onnx's reference {metadata.version('onnx')}": by_reference,
    }
    if python is not None:
        version = said([python, "-c", "import openvino; print(openvino.__version__)"]).split("-")[0]
        found[f"OpenVINO {version}"] = openvino(python)
    if folder is not None:
        package = json.loads((folder / "node_modules" / "onnxruntime-web" / "package.json").read_text())
        found[f"onnxruntime-web {package['version']} (wasm)"] = web(folder)
    return found


TORCH = f"torch {torch.__version__}"
