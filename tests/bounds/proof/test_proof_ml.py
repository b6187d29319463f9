"""Scikit-learn's other nodes: rows over their norms, and linear classifiers, against onnxruntime and exact numbers."""

from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampled_graphs import Net, sampled, session, values_of

from abscert_plugin.bounds.proof import Proof, norms
from abscert_plugin.bounds.proof.norms import NORMS
from abscert_plugin.bounds.tails import kept_margins
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.graph.tail import Tail, without_tail

ML = "ai.onnx.ml"
getcontext().prec = 60


def normaliser(random: np.random.Generator, norm: str, features: int = 4) -> onnx.ModelProto:
    net = Net(random, (features,), opset=17)
    if norm == "MAX" or random.random() < 0.5:
        net.add("Abs")
    net.add("Add", net.last, net.constant(net.pick(0.05, 0.4), np.float32))
    net.add("Mul", net.last, net.constant(10.0 ** net.integer(-4, 8), np.float32))
    net.add("Normalizer", net.last, domain=ML, norm=norm)
    net.add("Cast", to=onnx.TensorProto.FLOAT)  # onnx infers no type of a Normalizer
    return net.logits()


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_rows_over_their_norms_are_enclosed(norm: str) -> None:
    for seed in range(3):
        random = np.random.default_rng(seed)
        assert sampled(normaliser(random, norm), random, 0.1, 1.0).excess <= 0


def exact(row: list[float], norm: str) -> list[Decimal]:
    entries = [Decimal(entry) for entry in row]
    whole = {
        "L1": sum(map(abs, entries), Decimal(0)),
        "L2": sum((entry * entry for entry in entries), Decimal(0)).sqrt(),
        "MAX": max(entries),
    }[norm]
    return [entry / whole for entry in entries]


ENTRY = st.floats(-4, 4, width=32)


@given(st.sampled_from(sorted(NORMS)), st.lists(st.tuples(ENTRY, ENTRY), min_size=1, max_size=4), st.data())
def test_ends_hold_the_exact_share_at_every_point(
    norm: bytes, rows: list[tuple[float, float]], data: st.DataObject
) -> None:
    if norm == b"MAX":
        rows = [(abs(first), abs(second)) for first, second in rows]
    lower, upper = [min(row) for row in rows], [max(row) for row in rows]
    low, high = NORMS[norm]((torch.tensor([lower], dtype=torch.float64), torch.tensor([upper], dtype=torch.float64)))
    point = [data.draw(st.floats(*ends)) for ends in zip(lower, upper, strict=True)]
    if sum(map(abs, point)) < 1e-5:
        return
    for least, most, share in zip(low[0].tolist(), high[0].tolist(), exact(point, norm.decode()), strict=True):
        assert least <= share <= most
    if lower == upper:
        assert (high - low).max() < 1e-5 or (low == -torch.inf).any()


def test_ends_of_other_corners_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = norms._sizes
    monkeypatch.setattr(norms, "_sizes", lambda lower, upper: right(lower, upper)[:1] * 2)
    random = np.random.default_rng(0)
    assert sampled(normaliser(random, "L1"), random, 0.1, 1.0).excess > 1e-3


@pytest.mark.parametrize("norm", [b"L1", b"L2", b"MAX"])
def test_nothing_is_claimed_near_0_nor_far_out(norm: bytes) -> None:
    for row in ([0.0, 0.0], [1e-20, 0.0], [1e17, 1.0]):
        ends = torch.tensor([row], dtype=torch.float64)
        low, high = NORMS[norm]((ends, ends))
        assert (low == -torch.inf).all()
        assert (high == torch.inf).all()
    ends = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)
    assert (NORMS[norm]((ends, ends))[0] == -torch.inf).all() == (norm == b"MAX")


# --- linear classifiers ----------------------------------------------------------------------------------------------


def linear(random: np.random.Generator, classes: int = 3, **more: Any) -> Net:
    net = Net(random, (4,), opset=17)
    net.add(
        "LinearClassifier",
        net.last,
        domain=ML,
        outputs=2,
        coefficients=random.standard_normal(4 * classes).astype(np.float32).tolist(),
        intercepts=random.standard_normal(classes).astype(np.float32).tolist(),
        classlabels_ints=list(range(max(2, classes))),
        **more,
    )
    net.last = net.nodes[-1].output[1]
    return net


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifiers_are_enclosed(transform: str, classes: int) -> None:
    random = np.random.default_rng(classes)
    assert sampled(linear(random, classes, post_transform=transform).logits(), random).excess <= 0


def test_images_stay_apart_behind_nodes_of_which_onnx_infers_no_shape() -> None:
    net = Net(np.random.default_rng(0), (4,), opset=17)
    net.add("Scaler", net.last, domain=ML, offset=[0.5], scale=[2.0])
    net.add("Normalizer", net.last, domain=ML, norm="L2")
    net.add("LinearClassifier", net.last, domain=ML, outputs=2, coefficients=[1.0] * 12, intercepts=[0.0] * 3)
    model = net.model(net.nodes[-1].output[1])
    assert batch_obstacle(read_graph(model, Path("net.onnx")), model) is None


def test_one_score_of_two_classes_is_refused() -> None:
    model = linear(np.random.default_rng(0), 1).model("v0_1")
    with pytest.raises(UnsupportedModelError, match="a row of coefficients for each class"):
        Proof(read_graph(model, Path("net.onnx")), "x", (4,), 2)


def test_a_softmax_that_is_normalised_again_is_a_tail() -> None:
    """Labels that the kept margins show are those of onnxruntime, of scores that nearly tie too."""
    random = np.random.default_rng(0)
    net = linear(random, 3, post_transform="SOFTMAX")
    net.add("Normalizer", net.last, domain=ML, norm="L1")
    model = net.model(net.last)
    cut = without_tail(read_graph(model, Path("net.onnx")))
    assert cut is not None
    assert cut.tail is Tail.SOFTMAX
    assert cut.graph.output == "v0_1"
    proof, run = Proof(cut.graph, "x", (4,), 3), session(model, True)
    plain = session(net.model("v0_1"), True)
    shown = 0
    for _ in range(40):
        points = random.uniform(-1, 1, (2, 4)).astype(np.float32)
        first, second = (values_of(plain, point[None])["v0_1"][0].argmax() for point in points)
        for _ in range(40 if first != second else 0):  # towards a tie
            middle = ((points[0].astype(np.float64) + points[1]) / 2).astype(np.float32)
            points[int(values_of(plain, middle[None])["v0_1"][0].argmax() != first)] = middle
        for point in points:
            answer = values_of(run, point[None])[net.last][0]
            box, label = torch.from_numpy(point[None]), torch.tensor([int(answer.argmax())])
            for label in torch.arange(3).unsqueeze(1):
                margins = kept_margins(cut.tail, proof.margins_at(box, label), None, label)
                if bool((margins > 0).all()):
                    assert (np.delete(answer, int(label)) < answer[int(label)]).all()
                    shown += 1
    assert shown > 20
    for other in ({"norm": "L2"}, {"norm": "MAX"}):
        del net.nodes[-1].attribute[:]
        net.nodes[-1].attribute.extend(onnx.helper.make_attribute(*pair) for pair in other.items())
        assert without_tail(read_graph(net.model(net.last), Path("net.onnx"))) is None
