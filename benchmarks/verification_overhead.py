"""Cost of `abscert verify` over a data set against onnxruntime's bare forward passes over the same batches.

Both are timed in turn in one process; the data set is read beforehand in both cases.

usage: python benchmarks/verification_overhead.py DEPLOY.ONNX [--data mnist] [--rounds 5]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.cores import thread_count
from abscert_plugin.data import Split, load_data
from abscert_plugin.verification.run import Verification


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    data = load_data(options.data, Split.TEST, options.data_dir)
    batches = [data.pixels(batch.images) for batch in data.batches(options.batch_size)]
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = thread_count()
    session = onnxruntime.InferenceSession(str(options.model), session_options, providers=["CPUExecutionProvider"])
    artifact = Artifact.open(options.model, Provider.CPU)
    verification = Verification(artifact, data, options.batch_size)

    def bare() -> float:
        start = time.perf_counter()
        for images in batches:
            session.run(None, {"image": images})
        return time.perf_counter() - start

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            verification.run(Path(folder) / "run", lambda _: None)
            return time.perf_counter() - start

    bare(), whole()
    times = {"bare": [], "verify": []}
    for _ in range(options.rounds):
        times["bare"].append(bare())
        times["verify"].append(whole())
    ratios = [own / base for own, base in zip(times["verify"], times["bare"], strict=True)]
    result = {
        "data": options.data,
        "images": len(data),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "bare_s": round(statistics.median(times["bare"]), 3),
        "verify_s": round(statistics.median(times["verify"]), 3),
        "median_of_ratios": round(statistics.median(ratios), 4),
        "ratio_of_least": round(min(times["verify"]) / min(times["bare"]), 4),
    }
    print(json.dumps(result))


main()
