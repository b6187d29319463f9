"""Largest error of Sigmoid and Tanh in onnxruntime over all float32 and float16 arguments, which proofs assume doubled.

python benchmarks/activation_error.py [--share 1.0]
"""

import argparse

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

CHUNK = 2**22
TAIL = 3  # arguments of each chunk that are computed one by one too: a runtime treats what fills no vector apart
REFERENCES = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh}


def session(operator: str, kind: int = TensorProto.FLOAT) -> onnxruntime.InferenceSession:
    """Return a session of one operator on numbers of a type, on one thread."""
    ends = [helper.make_tensor_value_info(name, kind, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def largest_error(operator: str, share: float) -> float:
    """Return the largest error over every finite argument, or over a share of the chunks of them."""
    run, reference, largest = session(operator), REFERENCES[operator], 0.0
    for start in range(0, 2**32, int(CHUNK / share)):
        points = np.arange(start, start + CHUNK, dtype=np.uint64).astype(np.uint32).view(np.float32)
        points = points[np.isfinite(points)]
        for given in (points, points[:TAIL]):
            if given.size:
                (found,) = run.run(None, {"x": given})
                exact = reference(torch.from_numpy(given).double()).numpy()
                largest = max(largest, float(np.abs(found - exact).max()))
    return largest


def largest_half_error(operator: str) -> float:
    """Return the largest error over every finite argument of float16."""
    points = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    points = points[np.isfinite(points)]
    (found,) = session(operator, TensorProto.FLOAT16).run(None, {"x": points})
    exact = REFERENCES[operator](torch.from_numpy(points).double()).numpy()
    return float(np.abs(found.astype(np.float64) - exact).max())


def main() -> None:
    """Print the largest errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="share of the arguments, for a quick look")
    share = parser.parse_args().share
    torch.set_num_threads(1)
    for operator in REFERENCES:
        print(f"{operator} of float16: {largest_half_error(operator):.6g}")
        print(f"{operator}: {largest_error(operator, share):.6g} (onnxruntime {onnxruntime.__version__})", flush=True)


if __name__ == "__main__":
    main()
