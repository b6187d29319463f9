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


def with_a_node(model: onnx.ModelProto, is_last: bool) -> onnx.ModelProto:
    """Return a model with a QuickGelu of its own behind the logits."""
    (last,) = model.graph.output
    model.graph.node.append(helper.make_node("QuickGelu", [last.name], ["more"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    last.name = "more" if is_last else last.name
    return model


def test_a_node_of_the_file_itself_is_no_matter_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "KNOWN", rewriting.KNOWN - {"QuickGelu"})
    net = Net(np.random.default_rng(0), (4,))
    net.add("Gemm", net.last, net.floats(4, 4))
    need_known_nodes(with_a_node(net.logits(), is_last=True), FILE)


@pytest.mark.parametrize("is_last", [True, False])
def test_a_node_of_the_file_itself_hides_no_other(monkeypatch: pytest.MonkeyPatch, is_last: bool) -> None:
    monkeypatch.setattr(rewriting, "KNOWN", rewriting.KNOWN - {"QuickGelu"})
    with pytest.raises(UnsupportedModelError, match="onnxruntime computes QuickGelu in place"):
        need_known_nodes(with_a_node(of_swish(), is_last), FILE)


def test_what_cannot_be_written_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rewriting, "rewritten", lambda model: rewritten_to_nowhere(model, tmp_path, monkeypatch))
    with pytest.raises(UnsupportedModelError, match=r"^model.onnx: ") as caught:
        need_known_nodes(of_swish(), FILE)
    assert len(str(caught.value).splitlines()) == 1


def rewritten_to_nowhere(model: onnx.ModelProto, folder: Path, patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    patch.setattr(tempfile, "TemporaryDirectory", lambda prefix: nullcontext(str(folder / "gone")))
    return blackbox.rewritten(model)
