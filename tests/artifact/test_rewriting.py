"""Nodes that onnxruntime puts in place of a file's own: nothing is proven where one of them is not known."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from sampled_graphs import Net

from abscert_plugin import blackbox
from abscert_plugin.artifact import rewriting
from abscert_plugin.artifact.rewriting import need_known_nodes
from abscert_plugin.errors import UnsupportedModelError

FILE = Path("model.onnx")


def of_swish() -> onnx.ModelProto:
    """Return a model with x sigmoid(1.5 x), for which onnxruntime has a node."""
    net = Net(np.random.default_rng(0), (4,))
    read = net.add("Gemm", net.last, net.floats(4, 4))
    gate = net.add("Sigmoid", net.add("Mul", read, net.constant(1.5, np.float32)))
    net.add("Mul", read, gate)
    return net.logits()


def test_a_known_node_in_their_place_is_taken() -> None:
    need_known_nodes(of_swish(), FILE)


def test_an_unknown_node_in_their_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "KNOWN", rewriting.KNOWN - {"QuickGelu"})
    with pytest.raises(UnsupportedModelError, match=r"^model.onnx: onnxruntime computes QuickGelu in place of nodes"):
        need_known_nodes(of_swish(), FILE)


def test_a_node_of_the_file_itself_is_no_matter_here() -> None:
    model = of_swish()
    (last,) = model.graph.output
    model.graph.node.append(helper.make_node("QuickGelu", [last.name], ["more"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    last.name = "more"
    need_known_nodes(model, FILE)


def test_what_cannot_be_written_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rewriting, "rewritten", lambda model: rewritten_to_nowhere(model, tmp_path, monkeypatch))
    with pytest.raises(UnsupportedModelError, match=r"^model.onnx: ") as caught:
        need_known_nodes(of_swish(), FILE)
    assert len(str(caught.value).splitlines()) == 1


def rewritten_to_nowhere(model: onnx.ModelProto, folder: Path, patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    patch.setattr(tempfile, "TemporaryDirectory", lambda prefix: nullcontext(str(folder / "gone")))
    return blackbox.rewritten(model)
