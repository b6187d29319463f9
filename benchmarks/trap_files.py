"""Small ONNX files that are right in real arithmetic and wrong in float32, with a property for each.

All have twelve inputs x and t = relu(sum x - 11.25), which wakes up in one corner of [0, 1]^12 alone and is 0.75 at
x = 1. From there on every margin logit 0 - logit 1 is affine in t by real arithmetic, so its values at t = 0 and
t = 0.75 prove it. All constants are float32.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

INPUTS: Final = 12
WITNESS: Final = np.ones(INPUTS, np.float32)
BOXES: Final[Mapping[str, tuple[float, float]]] = {"whole": (0.0, 1.0), "corner": (1 - 2.0**-6, 1.0)}
"""The same ends for each input. In the whole box a search meets the wrong inputs by luck only."""

Layer = tuple[Any, ...]  # ("dense", weights [out, in], bias [out]), ("relu",), ("add", number), ("sub", number)


@dataclass(frozen=True)
class Trap:
    """A file and what is wrong with it.

    Args:
        name: of the file.
        what: what float32 does with it, for readers.
        layers: those behind t.
        is_wrong: whether onnxruntime mislabels the witness; not so the control.
    """

    name: str
    what: str
    layers: Sequence[Layer]
    is_wrong: bool = True

    @property
    def all_layers(self) -> list[Layer]:
        return [("dense", [[1.0] * INPUTS], [-11.25]), ("relu",), *self.layers]

    def exact(self, point: Sequence[Fraction]) -> list[Fraction]:
        """Return the logits by rational arithmetic."""
        values = list(point)
        for kind, *given in self.all_layers:
            values = EXACT[kind](values, *given)
        return values

    def model(self) -> onnx.ModelProto:
        """Return the ONNX model: x [1, 12] to logits [1, 2], opset 13."""
        nodes, tensors, name = [], [], "x"
        for place, (kind, *given) in enumerate(self.all_layers):
            output = "logits" if place == len(self.all_layers) - 1 else f"v{place}"
            if kind == "dense":
                arrays = [np.asarray(given[0], np.float32).T.copy(), np.asarray(given[1], np.float32)]
            else:
                arrays = [np.full((1, 1), number, np.float32) for number in given]
            names = [f"c{place}_{at}" for at in range(len(arrays))]
            tensors += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
            nodes.append(helper.make_node(OPERATORS[kind], [name, *names], [output], output))
            name = output
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
            for name, size in (("x", INPUTS), ("logits", 2))
        ]
        graph = helper.make_graph(nodes, self.name, ends[:1], ends[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def run(self, point: np.ndarray) -> np.ndarray:
        """Return the logits [2] of onnxruntime on the CPU, with its default settings and one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            self.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {"x": point[None]})[0][0])


def _dense(values: list[Fraction], weights: Sequence[Sequence[float]], bias: Sequence[float]) -> list[Fraction]:
    return [
        sum((Fraction(w) * x for w, x in zip(row, values, strict=True)), Fraction(start))
        for row, start in zip(weights, bias, strict=True)
    ]


EXACT: Final[Mapping[str, Callable[..., list[Fraction]]]] = {
    "dense": _dense,
    "relu": lambda values: [max(value, Fraction(0)) for value in values],
    "add": lambda values, number: [value + Fraction(number) for value in values],
    "sub": lambda values, number: [value - Fraction(number) for value in values],
}
OPERATORS: Final = {"dense": "Gemm", "relu": "Relu", "add": "Add", "sub": "Sub"}


def _half(large: float) -> list[Layer]:
    """relu(K t + 1/2) - relu(K t) against 1/4."""
    return [("dense", [[large], [large]], [0.5, 0.0]), ("relu",), ("dense", [[1.0, -1.0], [0.0, 0.0]], [0.0, 0.25])]


_SMALL: Final = [0.0] + 14 * [0.0625] + [0.0]
_SPLIT: Final = (9_973_961.0, 5_830_461.0)  # 3/4 of each rounds up, of the sum down

TRAPS: Final = (
    Trap("swallowed", "relu(K t + 1/2) - relu(K t), K = 2^26: the half is lost", _half(2.0**26)),
    Trap(
        "detour",
        "(r + 2^23) - 2^23, r = 1 - t: r up to 1/2 is lost",
        [
            ("dense", [[-1.0]], [1.0]),
            ("relu",),
            ("add", 2.0**23),
            ("sub", 2.0**23),
            ("dense", [[1.0], [0.0]], [0.0, 0.125]),
        ],
    ),
    Trap(
        "twice",
        "z = (a + b) t, p = a t, q = b t, each rounded: z - p - q is not 0",
        [
            ("dense", [[sum(_SPLIT)], [_SPLIT[0]], [_SPLIT[1]]], [0.0, 0.0, 0.0]),
            ("dense", [[1.0, -1.0, -1.0], [0.0, 0.0, 0.0]], [0.25, 0.0]),
        ],
    ),
    Trap(
        "order",
        "K t + 14 / 16 - K t in one sum of 16 products: from left to right, 14 / 16 is lost",
        [
            ("dense", [[2.0**28], *([0.0] for _ in range(14)), [2.0**28]], _SMALL),
            ("relu",),
            ("dense", [[1.0] * 15 + [-1.0], [0.0] * 16], [0.0, 0.5]),
        ],
    ),
    Trap(
        "overflow",
        "2^-120 relu(2^30 relu(2^100 t)), which is 2^10 t, against 2^10: infinite where t is at least 1/4",
        [
            ("dense", [[2.0**100]], [0.0]),
            ("relu",),
            ("dense", [[2.0**30]], [0.0]),
            ("relu",),
            ("dense", [[-(2.0**-126)], [2.0**-120]], [2.0**10, 0.0]),  # 0 times infinity would be NaN
        ],
    ),
    Trap(
        "subnormal",
        "2^149 (2^-149 r), r = 1 - t, in steps: r up to 1/2 underflows to 0",
        [
            ("dense", [[-1.0]], [1.0]),
            ("relu",),
            ("dense", [[2.0**-75]], [0.0]),
            ("relu",),
            ("dense", [[2.0**-74]], [0.0]),
            ("relu",),
            ("dense", [[2.0**100]], [0.0]),
            ("relu",),
            ("dense", [[2.0**49], [0.0]], [0.0, 0.125]),
        ],
    ),
    Trap("control", "the first with K = 1, which no rounding harms", _half(1.0), is_wrong=False),
)


def vnnlib(low: float, high: float) -> str:
    """Return the property, VNN-LIB 1: a box of inputs, and unsafe where logit 1 is at least logit 0."""
    lines = [f"(declare-const X_{place} Real)" for place in range(INPUTS)]
    lines += [f"(declare-const Y_{place} Real)" for place in range(2)]
    for place in range(INPUTS):
        lines += [f"(assert (>= X_{place} {low!r}))", f"(assert (<= X_{place} {high!r}))"]
    return "\n".join([*lines, "(assert (>= Y_1 Y_0))", ""])


def least_margin(trap: Trap) -> Fraction:
    """Return the least margin over [0, 1]^12 by real arithmetic."""
    points = [[Fraction(0)] * INPUTS, [Fraction(1)] * INPUTS]
    return min(first - second for first, second in map(trap.exact, points))


def write(folder: Path) -> None:
    """Write NAME.onnx, NAME-BOX.vnnlib and traps.json, which has the witness and the logits there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for trap in TRAPS:
        onnx.save(trap.model(), folder / f"{trap.name}.onnx")
        for box, (low, high) in BOXES.items():
            (folder / f"{trap.name}-{box}.vnnlib").write_text(vnnlib(low, high))
        computed = trap.run(WITNESS)
        assert least_margin(trap) > 0, trap.name
        assert (not computed[0] > computed[1]) == trap.is_wrong, (trap.name, computed)
        rows.append(
            {
                "trap": trap.name,
                "what": trap.what,
                "witness": WITNESS.tolist(),
                "real_logits": [float(value) for value in trap.exact([Fraction(1)] * INPUTS)],
                "onnxruntime_logits": [str(value) for value in computed],
                "onnxruntime": onnxruntime.__version__,
            }
        )
    (folder / "traps.json").write_text(json.dumps(rows, indent=2) + "\n")
