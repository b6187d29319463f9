"""ONNX graphs, node by node."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.graph.nodes import Graph, read_graph


class Draft:
    """A graph that is being written; nodes and constants are named in order, and what a node gives is its name.

    Args:
        prefix: of all names.
    """

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._prefix = prefix

    def constant(self, values: Any) -> str:
        name = f"{self._prefix}c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.array(values, dtype=np.float32), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._prefix}v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def dense(self, value: str, weight: Any, bias: Any) -> str:
        """Add a Gemm with weights [in, out]."""
        return self.node("Gemm", value, self.constant(weight), self.constant(bias))

    def relu(self, value: str) -> str:
        return self.node("Relu", value)

    def model(self, source: str, shape: Sequence[int], logits: str, classes: int) -> onnx.ModelProto:
        """Return the model up to a value that no node reads, which it calls `logits`."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sizes])
            for name, sizes in ((source, shape), ("logits", (classes,)))
        ]
        nodes = copy.deepcopy(self.nodes)
        last = next(node for node in nodes if node.output[0] == logits)
        last.output[0] = last.name = "logits"
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def graph_of(model: onnx.ModelProto) -> Graph:
    return read_graph(model, Path("net.onnx"))
