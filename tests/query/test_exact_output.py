"""Exact outputs against a plain evaluation in rationals, and answers of queries about real numbers that need them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from query_texts import box_texts, query_text
from small_nets import Net

from abscert_plugin.query.exact import exact_output
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import parse
from abscert_plugin.query.solve import QueryVerdict, solve


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]))
def test_outputs_are_exact(tmp_path_factory: pytest.TempPathFactory, seed: int, rank: int) -> None:
    chance = np.random.default_rng(seed)
    net = Net.drawn(chance, [2, 3, 2])
    query = parse(query_text([*box_texts(1), "(<= Y_0 0.0)"], 1))
    network = open_network(net.write(tmp_path_factory.mktemp("net") / "net.onnx", rank), query)
    point = chance.standard_normal(2).astype(np.float32)
    found = exact_output(network.graph, point.reshape(network.input_shape))
    assert found == net.exact([Fraction(float(value)) for value in point])


def test_a_limit_that_is_just_met_by_real_numbers_is_met(tmp_path: Path) -> None:
    """No enclosure shows that 3 x - 1 reaches 2 at x = 1; rationals do."""
    net = Net([(np.array([[3.0]], np.float32), np.array([-1.0], np.float32))])
    pytest.importorskip("vnnlib")
    query = parse(query_text([*box_texts(2, inputs=1), "(>= Y[0,0] 2.0)"], 2, "real", 1, 1))
    network = open_network(net.write(tmp_path / "net.onnx"), query)
    assert solve(query, network, 5.0).verdict is QueryVerdict.SAT
