"""Largest errors in onnxruntime of functions without a standard accuracy, which proofs assume doubled.

Each over every float32 argument of a range, or over every n-th: `functions.py` in bounds/proof says in what terms.

python benchmarks/function_error.py [--every 1] [--only Exp Log ...]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

CHUNK = 2**22
TAIL = 3  # arguments of each chunk that are computed one by one too: a runtime treats what fills no vector apart
TINY = 2.0**-126  # what flushing may change
OPSET = 20
Exact = Callable[[torch.Tensor], torch.Tensor]
Terms = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Trial:
    """An operator, its exact function in float64, in terms of what its errors are given, and the range of arguments.

    A Pow has an exponent as well.
    """

    operator: str
    exact: Exact
    terms: Terms
    least: float = -3e38
    most: float = 3e38
    attributes: dict[str, Any] = field(default_factory=dict)
    exponent: float | None = None


def softplus(points: torch.Tensor) -> torch.Tensor:
    return points.clamp(min=0) + torch.log1p((-points.abs()).exp())


def gelu(points: torch.Tensor) -> torch.Tensor:
    return points / 2 * torch.special.erfc(-points / math.sqrt(2))


def gelu_tanh(points: torch.Tensor) -> torch.Tensor:
    return points * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (points + 0.044715 * points**3))


def of_value(_: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return value.abs()


def of_one_and_value(_: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return 1 + value.abs()


def of_one(_: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(value)


def of_argument(points: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return points.abs()


def power(exponent: float) -> Trial:
    """Return the trial of a power whose values are normal float32 numbers."""
    ends = 2.0 ** (-100 / abs(exponent)), 2.0 ** (100 / abs(exponent))
    return Trial(
        "Pow", lambda points: points.pow(exponent), of_value, max(ends[0], TINY), min(ends[1], 3e38), {}, exponent
    )


TRIALS = {
    "Exp": Trial("Exp", torch.exp, of_value, -200, 88),
    "Log": Trial("Log", torch.log, of_one_and_value, TINY),
    "Erf": Trial("Erf", torch.erf, of_one),
    "Sin": Trial("Sin", torch.sin, of_one, -(2.0**20), 2.0**20),
    "Cos": Trial("Cos", torch.cos, of_one, -(2.0**20), 2.0**20),
    "Tan": Trial("Tan", torch.tan, of_value, -1.5, 1.5),
    "Softplus": Trial("Softplus", softplus, of_one_and_value),
    "Gelu": Trial("Gelu", gelu, of_argument),
    "Gelu, tanh": Trial("Gelu", gelu_tanh, of_argument, -1e12, 1e12, {"approximate": "tanh"}),
    "Mish": Trial("Mish", lambda points: points * torch.tanh(softplus(points)), of_argument),
    "HardSwish": Trial("HardSwish", lambda points: points * (points / 6 + 0.5).clamp(0, 1), of_argument),
}
for exponent in (0.5, 1.5, 2.5, 3.0, 4.0, 10.0, -0.5, -1.0, -2.0, -0.75):
    TRIALS[f"Pow {exponent:g}"] = power(exponent)


def session(trial: Trial) -> onnxruntime.InferenceSession:
    """Return a session of one operator, on one thread."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    numbers = [] if trial.exponent is None else [numpy_helper.from_array(np.float32(trial.exponent), "p")]
    node = helper.make_node(trial.operator, ["x", *(one.name for one in numbers)], ["y"], **trial.attributes)
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def largest_error(trial: Trial, every: int) -> tuple[float, float]:
    """Return the largest error beside underflow, in its terms, and the argument where it was seen."""
    run, largest, place = session(trial), 0.0, 0.0
    for start in range(0, 2**32, CHUNK * every):
        stop = min(start + CHUNK * every, 2**32)
        points = np.arange(start, stop, every, dtype=np.uint64).astype(np.uint32).view(np.float32)
        points = points[(points >= trial.least) & (points <= trial.most)]  # NaN is neither
        for given in (points, points[:TAIL]):
            if not given.size:
                continue
            (found,) = run.run(None, {"x": given})
            wide = torch.from_numpy(given).double()
            exact = trial.exact(wide)
            errors = ((torch.from_numpy(found).double() - exact).abs() - TINY).clamp(min=0)
            errors = (errors / trial.terms(wide, exact)).nan_to_num(0.0, math.inf, math.inf)  # 0 / 0 at 0
            worst = int(errors.argmax())
            if float(errors[worst]) > largest:
                largest, place = float(errors[worst]), float(wide[worst])
    return largest, place


def main() -> None:
    """Print the largest errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every n-th argument, for a quick look")
    parser.add_argument("--only", nargs="*", choices=TRIALS, help="the functions; all of them by default")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.only or TRIALS:
        largest, place = largest_error(TRIALS[name], chosen.every)
        print(f"{name}: {largest:.6g} at {place:.9g} (onnxruntime {onnxruntime.__version__})", flush=True)


if __name__ == "__main__":
    main()
