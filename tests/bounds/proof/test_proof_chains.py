"""Operators in a row, which onnxruntime folds into one another: every value stays within its enclosure."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from sampled_graphs import Net, sampled

from abscert_plugin.bounds.proof.descent import Descent
from abscert_plugin.errors import UnsupportedModelError

CHANNELS = 4


def _pad(net: Net) -> None:
    value = [net.constant(net.pick(0.0, 1.5, -3.0), np.float32)] if net.integer(0, 1) else []
    net.add("Pad", net.last, net.whole(0, 0, *net.integers(2, 0, 1), 0, 0, *net.integers(2, 0, 2)), *value)


def _convolution(net: Net) -> None:
    net.add("Conv", net.last, net.floats(4, 4, 2, 2), net.floats(4), pads=net.integers(4, 0, 1))


def _average(net: Net) -> None:
    net.add("AveragePool", kernel_shape=[2, 2], pads=net.integers(4, 0, 1), count_include_pad=net.integer(0, 1))


def _normalisation(net: Net) -> None:
    variance = net.constant(net.random.uniform(0.1, 2, 4), np.float32)
    net.add("BatchNormalization", net.last, *(net.floats(4) for _ in range(3)), variance)


def _clip(net: Net) -> None:
    net.add("Clip", net.last, net.constant(-0.3, np.float32), net.constant(0.8, np.float32))


def _slice(net: Net) -> None:
    net.add("Slice", net.last, net.whole(1), net.whole(9), net.whole(net.pick(2, 3)))


def _resize(net: Net) -> None:
    scales, mode = net.constant([1, 1, 2, 2], np.float32), net.pick("nearest", "linear")
    net.add("Resize", net.last, "", scales, mode=mode, coordinate_transformation_mode="half_pixel")


def _residual(net: Net) -> None:
    net.add("Add", net.last, net.add("Relu", net.last))


def _joined(net: Net) -> None:
    net.add("Conv", net.add("Concat", net.last, net.last, axis=1), net.floats(4, 8, 1, 1))


def _swapped(net: Net) -> None:
    first = net.add("Split", net.last, net.whole(1, 3), outputs=2, axis=1)
    net.add("Concat", first[:-1] + "1", first, axis=1)


def _centred(net: Net) -> None:
    net.add("Sub", net.last, net.add("ReduceMean", net.last, net.whole(2, 3), keepdims=1))


def _quantised(net: Net) -> None:
    scale, zero = net.constant(net.random.uniform(0.005, 0.05), np.float32), net.constant(net.integer(0, 255), np.uint8)
    net.add("DequantizeLinear", net.add("QuantizeLinear", net.last, scale, zero), scale, zero)


LINKS: Mapping[str, Callable[[Net], object]] = {
    "Add": lambda net: net.add("Add", net.last, net.floats(1, 4, 1, 1)),
    "AveragePool": _average,
    "BatchNormalization": _normalisation,
    "Clip": _clip,
    "Concat": _joined,
    "Conv": _convolution,
    "ConvTranspose": lambda net: net.add(
        "ConvTranspose", net.last, net.floats(4, 4, 2, 2), strides=[net.pick(1, 2)] * 2
    ),
    "LeakyRelu": lambda net: net.add("LeakyRelu", alpha=0.1),
    "MaxPool": lambda net: net.add("MaxPool", kernel_shape=[2, 2], pads=net.integers(4, 0, 1)),
    "Mul": lambda net: net.add("Mul", net.last, net.floats(4, 1, 1)),
    "Pad": _pad,
    "QuantizeLinear": _quantised,
    "ReduceMean": _centred,
    "Relu": lambda net: net.add("Relu"),
    "Resize": _resize,
    "Round": lambda net: net.add("Round"),
    "Slice": _slice,
    "Split": _swapped,
    "Transpose": lambda net: net.add("Transpose", perm=[0, 1, 3, 2]),
    "residual": _residual,
}
JOINED = ("expected no Pad before it", "quantised by another scale")  # which onnxruntime computes in other ways


def check(seed: int) -> None:
    random = np.random.default_rng(seed)
    net = Net(random, (CHANNELS, 5, 6))
    for place in random.integers(0, len(LINKS), random.integers(2, 6)):
        LINKS[list(LINKS)[place]](net)
    try:
        seen = sampled(net.logits(), random)
    except UnsupportedModelError as error:
        if not any(words in str(error) for words in JOINED):
            raise
        return
    assert seen.excess <= 0


@pytest.mark.parametrize("seed", range(12))
def test_no_runtime_leaves_the_enclosures_of_a_chain(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 20))
def test_no_runtime_leaves_the_enclosures_of_more_chains(seed: int) -> None:
    check(seed)


def excess_of_two_that_read_one_value() -> float:
    net = Net(np.random.default_rng(0), (CHANNELS, 5, 6))
    read = net.add("Conv", net.last, net.floats(4, 4, 2, 2))
    net.add("Sub", net.add("Tanh", read), net.add("Relu", read))
    net.add("Conv", net.last, net.floats(4, 4, 2, 2))
    net.add("Sigmoid")
    return sampled(net.logits(), net.random).excess


def test_activations_that_read_one_value_have_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert excess_of_two_that_read_one_value() <= 0
    lines = Descent.lines
    monkeypatch.setattr(Descent, "lines", lambda self, _, name, *given: lines(self, name, name, *given))
    with pytest.raises(AssertionError):  # ends that cross leave no finite bounds
        assert excess_of_two_that_read_one_value() <= 0
