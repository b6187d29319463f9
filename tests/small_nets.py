"""Small networks for queries: as ONNX files of several shapes, in exact rationals, and in float32 in any order."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Net:
    """Dense layers with ReLUs between them.

    Args:
        layers: weights [in, out] and biases of each.
    """

    layers: Sequence[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def drawn(cls, chance: np.random.Generator, sizes: Sequence[int], in_eighths: bool = False) -> "Net":
        layers = []
        for inputs, outputs in pairwise(sizes):
            weight, bias = chance.standard_normal((inputs, outputs)), chance.standard_normal(outputs)
            if in_eighths:
                weight, bias = np.round(8 * weight) / 8, np.round(8 * bias) / 8
            layers.append((weight.astype(np.float32), bias.astype(np.float32)))
        return cls(layers)

    def exact(self, values: Sequence[Fraction]) -> list[Fraction]:
        found = list(values)
        for place, (weight, bias) in enumerate(self.layers):
            found = [
                sum((Fraction(float(w)) * v for w, v in zip(column, found, strict=True)), Fraction(float(b)))
                for column, b in zip(weight.T, bias, strict=True)
            ]
            if place + 1 < len(self.layers):
                found = [max(value, Fraction(0)) for value in found]
        return found

    def single(self, values: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        """Return the outputs in float32, each sum in an order of its own."""
        found = values.astype(np.float32)
        for place, (weight, bias) in enumerate(self.layers):
            sums = []
            for column, b in zip(weight.T, bias, strict=True):
                terms = [*(column * found), b]
                total = np.float32(0)
                for k in chance.permutation(len(terms)):
                    total = np.float32(total + terms[k])
                sums.append(total)
            found = np.array(sums, np.float32)
            if place + 1 < len(self.layers):
                found = np.maximum(found, np.float32(0))
        return found

    def write(self, path: Path, rank: int = 2, opset: int = 13) -> Path:
        """Write it as a file whose input is [1, inputs], or of rank 1 or 3; the output is [1, outputs] or [outputs]."""
        inputs, outputs = len(self.layers[0][0]), len(self.layers[-1][1])
        shape = {1: [inputs], 2: [1, inputs], 3: [1, 1, inputs]}[rank]
        nodes, tensors, last = [], [], "x"
        if rank == 3:
            nodes.append(helper.make_node("Flatten", ["x"], ["flat"]))
            last = "flat"
        for place, (weight, bias) in enumerate(self.layers):
            tensors += [numpy_helper.from_array(weight, f"w{place}"), numpy_helper.from_array(bias, f"b{place}")]
            is_last = place + 1 == len(self.layers)
            given = "y" if is_last else f"a{place}"
            if rank == 1:
                nodes.append(helper.make_node("MatMul", [last, f"w{place}"], [f"m{place}"]))
                nodes.append(helper.make_node("Add", [f"m{place}", f"b{place}"], [given]))
            else:
                nodes.append(helper.make_node("Gemm", [last, f"w{place}", f"b{place}"], [given]))
            if not is_last:
                nodes.append(helper.make_node("Relu", [given], [f"h{place}"]))
                last = f"h{place}"
        given_shape = [outputs] if rank == 1 else [1, outputs]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, given_shape)],
            tensors,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
        return path


def relu_file(path: Path, count: int) -> Path:
    """Write a file that gives positive inputs as they are: no rounding of its own is in the way."""
    shape = [1, count]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
