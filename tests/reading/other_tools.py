"""Classifiers as other tools write them: nodes, constants, the input's shape, and the layers that they come back as."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IMAGE_SHAPE = (1, 6, 6)
CLASSES = 4
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]  # operator, inputs, outputs, attributes


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / 8).astype(np.float32)


PLANES: list[int | str] = ["batch", *IMAGE_SHAPE]
DENSE: list[Node] = [("MatMul", ["h", "v"], ["o"], {}), ("Add", ["c", "o"], ["y"], {})]
DENSE_CONSTANTS = {"v": weights(9, CLASSES), "c": weights(CLASSES)}
CONVOLUTION: list[Node] = [
    ("Conv", ["n", "k", "kb"], ["conv"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Relu", ["conv"], ["relu"], {}),
    ("Flatten", ["relu"], ["flat"], {}),
    ("Gemm", ["flat", "v", "c"], ["y"], {"alpha": 0.5, "beta": 2.0}),
]
CONVOLUTION_CONSTANTS = {"k": weights(3, 1, 3, 3), "kb": weights(3), "v": weights(27, CLASSES), "c": weights(CLASSES)}
THIRD_PARTIES: dict[str, tuple[list[Node], dict[str, np.ndarray], list[int | str], list[str]]] = {
    "matmul-add": (
        [
            ("Flatten", ["x"], ["f"], {}),
            ("MatMul", ["f", "w"], ["m"], {}),
            ("Add", ["m", "b"], ["a"], {}),
            ("Relu", ["a"], ["h"], {}),
            *DENSE,
        ],
        {"w": weights(36, 9), "b": weights(9), **DENSE_CONSTANTS},
        PLANES,
        ["Conv2d", "Flatten", "Linear", "ReLU", "Linear"],
    ),
    "flat-input": (
        [("MatMul", ["x", "w"], ["m"], {}), ("Tanh", ["m"], ["h"], {}), *DENSE],
        {"w": weights(36, 9), **DENSE_CONSTANTS},
        ["batch", 36],
        ["Conv2d", "Flatten", "Linear", "Tanh", "Linear"],
    ),
    "reshape": (
        [
            ("Reshape", ["x", "s"], ["f"], {}),
            ("MatMul", ["f", "w"], ["m"], {}),
            ("Sigmoid", ["m"], ["h"], {}),
            *DENSE,
        ],
        {"s": np.array([-1, 36]), "w": weights(36, 9), **DENSE_CONSTANTS},
        PLANES,
        ["Conv2d", "Flatten", "Linear", "Sigmoid", "Linear"],
    ),
    "fixed-batch": (
        [("Reshape", ["x", "s"], ["f"], {}), ("Gemm", ["f", "w"], ["m"], {}), ("Relu", ["m"], ["h"], {}), *DENSE],
        {"s": np.array([1, 36]), "w": weights(36, 9), **DENSE_CONSTANTS},
        [1, *IMAGE_SHAPE],
        ["Conv2d", "Flatten", "Linear", "ReLU", "Linear"],
    ),
    "normalised": (
        [("Sub", ["x", "mean"], ["s"], {}), ("Div", ["s", "std"], ["n"], {}), *CONVOLUTION],
        {"mean": np.array([[[0.4]]], np.float32), "std": np.array([[[0.3]]], np.float32), **CONVOLUTION_CONSTANTS},
        PLANES,
        ["Conv2d", "Conv2d", "ReLU", "Flatten", "Linear"],
    ),
    "channels-last": (
        [("Transpose", ["x"], ["n"], {"perm": [0, 3, 1, 2]}), *CONVOLUTION],
        CONVOLUTION_CONSTANTS,
        ["batch", 6, 6, 1],
        ["Conv2d", "Conv2d", "ReLU", "Flatten", "Linear"],
    ),
    "transposed-weights": (
        [
            ("Flatten", ["x"], ["f"], {}),
            ("Transpose", ["wt"], ["w"], {"perm": [1, 0]}),
            ("MatMul", ["f", "w"], ["m"], {}),
            ("Relu", ["m"], ["h"], {}),
            *DENSE,
        ],
        {"wt": weights(9, 36), **DENSE_CONSTANTS},
        PLANES,
        ["Conv2d", "Flatten", "Linear", "ReLU", "Linear"],
    ),
}
