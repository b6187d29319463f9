"""Peak memory of `abscert verify --claim ball --black-box` against the model's own inference, each in its own process.

usage: python benchmarks/blackbox_memory.py DEPLOY.ONNX --radius 0.1 [--data mnist] [--limit 20]
Both processes run batches of the same size; the peak is the operating system's ru_maxrss.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = """
import sys, numpy as np, onnxruntime, onnx
model = sys.argv[1]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
shape = [size for size in session.get_inputs()[0].shape[1:]]
for _ in range(5):
    session.run(None, {session.get_inputs()[0].name: np.zeros((int(sys.argv[2]), *shape), dtype=np.float32)})
"""
OURS = "from abscert_plugin.cli import main; main()"


def peak(code: str, *arguments: str) -> int:
    """Return the peak of a process's memory, in KiB."""
    report = "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    wrapper = f"import resource, atexit, sys\natexit.register(lambda: {report})\n{code}"
    result = subprocess.run([sys.executable, "-c", wrapper, *arguments], capture_output=True, text=True, check=True)
    return int(result.stderr.rsplit("peak ", 1)[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--limit", default="20")
    parser.add_argument("--timeout", default="2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = peak(
            OURS, "verify", str(options.model), "--data", options.data, "--claim", "ball", "--radius", options.radius,
            "--black-box", "--limit", options.limit, "--timeout", options.timeout, "--out", f"{folder}/run", "--json",
        )  # fmt: skip
    bare = peak(BARE, str(options.model), "1024")
    parameters = options.model.stat().st_size // 4
    print(json.dumps({"parameters": parameters, "bare_KiB": bare, "verify_KiB": ours, "ratio": round(ours / bare, 3)}))


main()
