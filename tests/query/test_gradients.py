"""Gradients by slopes of proofs: those of torch's module where there is one, and what is found by them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from query_texts import box_texts, query_text
from small_nets import Net

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.query.attack import Attack
from abscert_plugin.query.gradients import gradients
from abscert_plugin.query.network import Network, open_network
from abscert_plugin.query.query import Query
from abscert_plugin.query.reading import parse


def asked(folder: Path) -> tuple[Query, Network]:
    """Return whether an output is reached that no point drawn at random reaches."""
    chance = np.random.default_rng(4)
    net = Net.drawn(chance, [2, 12, 12, 2])
    points = chance.uniform(-1, 1, (2000, 2)).astype(np.float32)
    network = open_network(net.write(folder / "net.onnx"), parse(query_text([*box_texts(1), "(<= Y_0 0)"], 1)))
    best = max(float(network.run(point)[0]) for point in points)
    query = parse(query_text([*box_texts(1), f"(>= Y_0 {best - 0.01:.6f})"], 1))
    return query, network


def penalty(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    return (inputs[:, 0] * 2 - outputs[:, 0] * outputs[:, 1]).clamp(min=0)


def test_slopes_of_proofs_are_the_gradients_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = asked(tmp_path)
    by_module = gradients(network)
    monkeypatch.setattr(Network, "module", None)
    by_proof = gradients(network)
    assert by_module is not None
    assert by_proof is not None
    points = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (40, 2)).astype(np.float32))
    for one, other in zip(by_module(points, penalty), by_proof(points, penalty), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)  # float32 against float64


def refused(_: Network) -> None:
    raise UnsupportedModelError("no proof")


@pytest.mark.parametrize("way", ["module", "proof", "none"])
def test_gradients_are_followed_to_an_answer(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query, network = asked(tmp_path)
    if way != "module":
        monkeypatch.setattr(Network, "module", None)
    if way == "none":
        monkeypatch.setattr(Network, "proof", property(refused))
    found = Attack(network, query).descend(query.cases[0], float("inf"))
    assert (found is None) == (way == "none")
