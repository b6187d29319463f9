"""Passes over windows: the bounds of passes over whole images, and no runtime leaves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sampled_graphs import CLASSES, Net, sampled

from abscert_plugin.bounds.proof import Proof, tightening, windows
from abscert_plugin.bounds.proof.windows import Window, windows_of
from abscert_plugin.graph.nodes import read_graph

SHAPE = 2, 14, 13


def convolution(net: Net, inputs: int, outputs: int) -> None:
    groups = net.pick(1, 2)
    side, pads = net.integers(2, 1, 3), net.integers(2, 0, 2)
    weight = net.floats(outputs, inputs // groups, *side)
    bias = [net.floats(outputs)] if net.pick(True, False) else []
    how: dict[str, Any] = {"strides": net.integers(2, 1, 2), "dilations": net.integers(2, 1, 2), "pads": 2 * pads}
    net.add("Conv", net.last, weight, *bias, group=groups, **how)


def entrywise(net: Net, channels: int) -> None:
    kind = net.pick("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Mul", "Add", "BatchNormalization", "twice")
    if kind == "twice":
        net.add("Add", net.last, net.last)
    elif kind in ("Mul", "Add"):
        net.add(kind, net.last, net.floats(1, channels, 1, 1))
    elif kind == "BatchNormalization":
        variance = net.constant(net.random.random(channels) + 0.5, np.float32)
        net.add(kind, net.last, net.floats(channels), net.floats(channels), net.floats(channels), variance)
    else:
        net.add(kind)


def chain(seed: int) -> tuple[Net, list[str]]:
    """Return a net of convolutions and steps entry by entry, and the tensors behind its convolutions."""
    net = Net(np.random.default_rng(seed), SHAPE)
    behind, channels = [], SHAPE[0]
    for _ in range(net.integer(2, 3)):
        outputs = net.pick(2, 4)
        convolution(net, channels, outputs)
        behind.append(net.last)
        channels = outputs
        for _ in range(net.integer(1, 2)):
            entrywise(net, channels)
    return net, behind


def proof_of(net: Net) -> Proof:
    return Proof(read_graph(net.logits(), Path("net.onnx")), "x", SHAPE, CLASSES)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_windows_give_the_bounds_of_whole_images(seed: int, single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    net, behind = chain(seed)
    proof = proof_of(net).in_float32() if single else proof_of(net)
    center = torch.from_numpy(net.random.uniform(-1, 1, (2, *SHAPE)).astype(np.float32))
    values = proof.intervals(center - 0.05, center + 0.05)
    tight = proof.tightening
    for name in behind[1:]:
        found = windows_of(tight._before[name], name, "x", proof.shapes)
        assert found is not None
        value = values[name]
        is_open = torch.from_numpy(net.random.random((2, value.lower[0].numel())) < 0.3)
        whole = tight._bounds_of(name, values, is_open, float("inf"), tight._before[name])
        over = tightening._by_windows(found, values, is_open.reshape(value.lower.shape).flatten(2), float("inf"))
        over = over.reshape(whole.shape)
        asked = is_open.expand(2, -1, -1)
        size = whole[asked].abs().max()
        assert float((over[asked] - whole[asked]).abs().max()) <= (1e-4 if single else 1e-9) * float(size)
        assert single or bool((over[asked] >= whole[asked] - 1e-13 * size).all())  # fewer roundings, no more


def excess(seed: int) -> float:
    net, _ = chain(seed)
    return sampled(net.logits(), net.random).excess


@pytest.mark.parametrize("seed", range(20, 26))
def test_no_runtime_leaves_what_windows_enclose(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    assert excess(seed) <= 0


def without_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows._Inside, "backward", lambda self, rows, descent: descent.send(self.input, rows))


def one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Window.of
    monkeypatch.setattr(Window, "of", lambda self, values, *rest: of(self, values.roll(1, -1), *rest))


def other_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = windows.Windows.lines
    monkeypatch.setattr(
        windows.Windows,
        "lines",
        lambda self, values: {
            name: tuple(line.roll(1, -1) for line in found) for name, found in lines(self, values).items()
        },
    )


@pytest.mark.parametrize("fault", [without_mask, one_off, other_lines])
def test_a_fault_in_windows_is_seen(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    fault(monkeypatch)

    def is_seen(seed: int) -> bool:
        try:
            return excess(seed) > 0
        except AssertionError:  # ends that cross leave no finite bounds
            return True

    assert any(map(is_seen, range(20, 32)))


def test_what_is_no_chain_of_convolutions_has_no_windows() -> None:
    net = Net(np.random.default_rng(0), SHAPE)
    net.add("Conv", net.last, net.floats(2, 2, 3, 3), pads=[1] * 4)
    net.add("Relu")
    net.add("Add", net.last, "x")
    joined = net.add("Conv", net.last, net.floats(2, 2, 3, 3))
    net.add("Relu")
    net.add("Mul", net.last, net.floats(2, 12, 11))
    uneven = net.add("Conv", net.last, net.floats(2, 2, 3, 3))
    net.add("Relu")
    proof = proof_of(net)
    for name in (joined, uneven):
        assert windows_of(proof.tightening._before[name], name, "x", proof.shapes) is None


def test_windows_that_hold_most_of_an_image_are_not_used() -> None:
    net = Net(np.random.default_rng(0), SHAPE)
    for side in (9, 5):
        net.add("Conv", net.last, net.floats(2, 2, side, side))
        net.add("Relu")
    proof = proof_of(net)
    behind = net.nodes[2].output[0]
    assert windows_of(proof.tightening._before[behind], behind, "x", proof.shapes) is None
