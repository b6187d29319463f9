"""Passes over windows: the bounds of passes over whole images, and no runtime leaves them."""

from collections.abc import Callable
from dataclasses import replace
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
    side, pads = net.integers(2, 1, 3), net.pick(2 * net.integers(2, 0, 2), net.integers(4, 0, 2))
    weight = net.floats(outputs, inputs // groups, *side)
    bias = [net.floats(outputs)] if net.pick(True, False) else []
    how: dict[str, Any] = {"strides": net.integers(2, 1, 2), "dilations": net.integers(2, 1, 2), "pads": pads}
    net.add("Conv", net.last, weight, *bias, group=groups, **how)


def entrywise(net: Net, channels: int) -> None:
    kind = net.pick("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Mul", "Add", "BatchNormalization", "twice", "Pad")
    if kind == "twice":
        net.add("Add", net.last, net.last)
    elif kind == "Pad":
        sides = net.integers(4, 0, 2)
        net.add(kind, net.last, net.whole(0, 0, *sides[:2], 0, 0, *sides[2:]))
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


def block(net: Net, channels: int) -> int:
    """Add a residual block, of which one way sees less than the other, and return how many channels it gives."""
    before, is_smaller = net.last, net.pick(True, False)
    outputs, stride, axes = (4, 2, (3, 3)) if is_smaller else (channels, 1, net.pick((3, 3), (3, 1), (1, 3)))
    pads = [side // 2 for side in axes] * 2
    net.add("Conv", before, net.floats(outputs, channels, *axes), pads=pads, strides=[stride, stride])
    net.add(net.pick("Relu", "Tanh"))
    deep = net.add("Conv", net.last, net.floats(outputs, outputs, 3, 3), pads=[1] * 4)
    if is_smaller:
        net.add("Conv", before, net.floats(outputs, channels, 1, 1), strides=[2, 2])
        before = net.last
    net.add(net.pick("Add", "Sub"), *net.pick((before, deep), (deep, before)))
    return outputs


def residual(seed: int) -> tuple[Net, list[str]]:
    """Return a net of convolutions and residual blocks, and tensors behind these."""
    net = Net(np.random.default_rng(seed), SHAPE)
    net.add("Conv", net.last, net.floats(2, 2, 2, 2), strides=[1, 1])
    behind, channels = [net.last], 2
    for _ in range(2):
        net.add(net.pick("Relu", "Sigmoid"))
        channels = block(net, channels)
        behind.append(net.last)
    return net, behind


NETS = {"chain": chain, "residual": residual}


def proof_of(net: Net) -> Proof:
    return Proof(read_graph(net.logits(), Path("net.onnx")), "x", SHAPE, CLASSES)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", NETS)
def test_windows_give_the_bounds_of_whole_images(
    kind: str, seed: int, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    net, behind = NETS[kind](seed)
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
        over = tightening._by_windows(found, values, is_open.reshape(value.lower.shape), float("inf"))
        assert over is not None
        over = over.reshape(whole.shape)
        asked = is_open.expand(2, -1, -1)
        size = whole[asked].abs().max()
        assert float((over[asked] - whole[asked]).abs().max()) <= (1e-4 if single else 1e-9) * float(size)
        if not single and found.share <= 1:  # no more roundings
            assert bool((over[asked] >= whole[asked] - 1e-13 * size).all())


def excess(seed: int, kind: str = "chain") -> float:
    net, _ = NETS[kind](seed)
    return sampled(net.logits(), net.random).excess


@pytest.mark.parametrize("seed", range(20, 26))
@pytest.mark.parametrize("kind", NETS)
def test_no_runtime_leaves_what_windows_enclose(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    assert excess(seed, kind) <= 0


def without_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = windows._Part.backward
    monkeypatch.setattr(
        windows._Part, "backward", lambda self, rows, descent: backward(replace(self, mask=None), rows, descent)
    )


def one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Window.of
    monkeypatch.setattr(Window, "of", lambda self, values, *rest: of(self, values.roll(1, -1), *rest))


def at_the_corner(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = windows._Part.backward
    monkeypatch.setattr(
        windows._Part, "backward", lambda self, rows, descent: backward(replace(self, before=(0, 0)), rows, descent)
    )


def without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Window, "padded", lambda self, begins: self)


def other_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = windows.Windows.lines
    monkeypatch.setattr(
        windows.Windows,
        "lines",
        lambda self, values: {
            name: tuple(line.roll(1, -1) for line in found) for name, found in lines(self, values).items()
        },
    )


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (without_mask, "chain"),
        (one_off, "chain"),
        (other_lines, "chain"),
        (without_padding, "chain"),
        (at_the_corner, "residual"),
    ],
)
def test_a_fault_in_windows_is_seen(
    fault: Callable[[pytest.MonkeyPatch], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    fault(monkeypatch)

    def is_seen(seed: int) -> bool:
        try:
            return excess(seed, kind) > 0
        except AssertionError:  # ends that cross leave no finite bounds
            return True

    assert any(map(is_seen, range(20, 32)))


def test_what_is_scaled_unevenly_has_no_windows() -> None:
    net = Net(np.random.default_rng(0), SHAPE)
    net.add("Conv", net.last, net.floats(2, 2, 3, 3))
    net.add("Relu")
    net.add("Mul", net.last, net.floats(2, 12, 11))
    behind = net.add("Conv", net.last, net.floats(2, 2, 3, 3))
    net.add("Relu")
    proof = proof_of(net)
    assert windows_of(proof.tightening._before[behind], behind, "x", proof.shapes) is None


@pytest.mark.parametrize(
    ("pads", "number"), [((0, 0, 1, 1, 0, 0, 1, 1), 1.0), ((0, 1, 0, 0, 0, 1, 0, 0), 0.0), ((0, 0, -1, 0) * 2, 0.0)]
)
def test_what_is_padded_by_more_than_zeros_around_has_no_windows(pads: tuple[int, ...], number: float) -> None:
    net = Net(np.random.default_rng(0), SHAPE)
    net.add("Conv", net.last, net.floats(2, 2, 3, 3))
    net.add("Relu")
    net.add("Pad", net.last, net.whole(*pads), net.constant(number, np.float32))
    behind = net.add("Conv", net.last, net.floats(2, 2 + pads[1] + pads[5], 3, 3))
    net.add("Relu")
    proof = proof_of(net)
    assert windows_of(proof.tightening._before[behind], behind, "x", proof.shapes) is None


def test_what_is_read_at_two_distances_has_no_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_WORTH", 100.0)
    net = Net(np.random.default_rng(0), SHAPE)
    thinned = net.add("Conv", "x", net.floats(2, 2, 1, 1), strides=[13, 12])
    dense = net.add("Conv", "x", net.floats(2, 2, 13, 12))
    behind = net.add("Add", dense, thinned)
    net.add("Relu")
    proof = proof_of(net)
    assert windows_of(proof.tightening._before[behind], behind, "x", proof.shapes) is None
    assert windows_of(proof.tightening._before[dense], dense, "x", proof.shapes) is not None


def test_few_entries_at_many_places_are_bounded_over_whole_images() -> None:
    net = Net(np.random.default_rng(0), SHAPE)
    net.add("Conv", net.last, net.floats(8, 2, 1, 1))
    net.add("Relu")
    behind = net.add("Conv", net.last, net.floats(8, 8, 6, 6))
    net.add("Relu")
    proof = proof_of(net)
    center = torch.zeros((1, *SHAPE))
    values = proof.intervals(center - 0.05, center + 0.05)
    found = windows_of(proof.tightening._before[behind], behind, "x", proof.shapes)
    assert found is not None
    is_open = torch.zeros(values[behind].lower.shape, dtype=torch.bool)
    is_open[0, 0] = is_open[0, :, 0, 0] = True
    assert tightening._by_windows(found, values, is_open, float("inf")) is None
    is_open[0, 1:, 0, 0] = False
    assert tightening._by_windows(found, values, is_open, float("inf")) is not None


def test_windows_that_hold_most_of_an_image_are_not_used() -> None:
    net = Net(np.random.default_rng(0), SHAPE)
    for side in (9, 5):
        net.add("Conv", net.last, net.floats(2, 2, side, side))
        net.add("Relu")
    proof = proof_of(net)
    behind = net.nodes[2].output[0]
    assert windows_of(proof.tightening._before[behind], behind, "x", proof.shapes) is None
