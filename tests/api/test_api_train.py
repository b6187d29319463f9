"""`abscert.train`: own networks, arrays and losses; stopped and gone on with; what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn
from torch.nn import functional

import abscert_plugin as abscert
from abscert_plugin.errors import AbscertError, CheckpointError, ConfigError, DataError, GridError
from abscert_plugin.training.abstrain import AbstrainMethod


def build(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    data = abscert.load_data("digits", "train", limit=300)
    return data.pixels(data.take(np.arange(300)).images), data.labels


def plain(network: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    assert radius == pytest.approx(0.1)  # 0.05 of pixels, on the scale of the images
    assert float(images.min()) == -1
    return functional.cross_entropy(network(images), labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"),
    [
        (build, {"cells": 3}),
        (build(2), {"cells": 3, "method": AbstrainMethod()}),
        (build, {"method": "reachable", "radius": 0.05, "cells": 2, "share": 0.5}),
        (build(1), {"method": plain, "radius": 0.05}),
        ("fc-3", {"method": "ibp", "radius": 0.05, "fast": False}),
    ],
)
def test_a_network_is_trained_on_arrays_verified_and_guarded(
    arrays: tuple[np.ndarray, np.ndarray], network: Any, options: dict[str, Any]
) -> None:
    before = [one.clone() for one in network.parameters()] if isinstance(network, nn.Module) else []
    trained = abscert.train(network, arrays, epochs=2, **options)
    images, labels = arrays[0][:20], arrays[1][:20]
    verdicts = trained.verify(images, labels, radius=0.02, timeout=1)
    assert len(verdicts) == 20
    answers = trained.guard([0.01, 0.02])(images)
    assert answers.certified.shape == (20, 2)
    assert not (answers.certified[:, 1] & (answers.label == labels) & verdicts.falsified).any()
    assert len(trained.history) == 2
    if isinstance(network, nn.Module):  # the caller's own stays as it is
        assert all((one == former).all() for one, former in zip(network.parameters(), before, strict=True))


def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    def fail(epoch: abscert.Epoch) -> None:
        raise RuntimeError(f"after {epoch.epoch}")

    ways: dict[str, Callable[[abscert.Epoch], object]] = {
        "whole": lambda _: None,
        "stopped": lambda _: True,
        "failed": fail,
    }
    weights = []
    for name, tell in ways.items():
        told: list[abscert.Epoch] = []
        folder = tmp_path / name
        if name == "failed":
            with pytest.raises(RuntimeError, match="after 1"):
                abscert.train(build, arrays, cells=3, epochs=3, out=folder, progress=tell)
        else:
            first = abscert.train(build, arrays, cells=3, epochs=3, out=folder, progress=tell)
            assert first.finished == (name == "whole")
            assert len(first.history) == (3 if name == "whole" else 1)
        if name != "whole":
            with pytest.raises(CheckpointError, match="add resume=True to go on with it"):
                abscert.train(build, arrays, cells=3, epochs=3, out=folder)
            abscert.train(build, arrays, cells=3, epochs=3, out=folder, resume=True, progress=told.append)
            assert [epoch.epoch for epoch in told] == [2, 3]
            assert told[-1].seconds_left == 0
        last = abscert.train(build, arrays, cells=3, epochs=3, out=folder, resume=True)
        assert last.finished
        weights.append([one.detach().numpy().tobytes() for one in last.network.parameters()])
    assert weights[0] == weights[1] == weights[2]
    with pytest.raises(AbscertError, match="a network that is in no table"):
        abscert.export(tmp_path / "whole")
    assert last.export(tmp_path / "again").largest_difference < 1e-4


DATA = (np.zeros((30, 1, 8, 8), dtype=np.uint8), np.arange(30) % 10)
WRONG: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (build(1), DATA, {"cells": 3}, ConfigError, "on cells a network reads 2 x 1 channels"),
    (build(2), DATA, {"method": "plain"}, ConfigError, r"does not take images of shape \(1, 8, 8\)"),
    (lambda _: nn.Flatten(), DATA, {"cells": 3}, ConfigError, "expected lambda to return logits"),
    (lambda _: 3, DATA, {"cells": 3}, ConfigError, "torch module, got int"),
    ("fc-3", DATA, {"cells": 0}, GridError, "from 1 to 65,535, got 0"),
    ("fc-33", DATA, {}, ConfigError, "did you mean fc-3"),
    ("fc-3", DATA, {"epoch": 3}, ConfigError, r"no argument 'epoch' .*did you mean epochs\?"),
    ("fc-3", DATA, {"method": "ibp"}, ConfigError, "expected a radius with method ibp"),
    ("fc-3", DATA, {"method": plain}, ConfigError, "expected a radius: plain has a parameter"),
    ("fc-3", DATA, {"method": lambda *_: 1.0}, ConfigError, "expected the loss lambda to return one number"),
    ("fc-3", (DATA[0], DATA[1][:3]), {}, DataError, "3 labels and 30 images"),
    ("fc-3", (DATA[0], DATA[1] * 0), {}, ConfigError, "at least 2 classes"),
    ("fc-3", abscert.load_data("digits"), {}, DataError, "the test split of digits"),
    ("fc-3", DATA, {"method": "plain", "cells": 3}, ConfigError, "expected no cells"),
]


@pytest.mark.parametrize(("network", "data", "options", "error", "words"), WRONG)
def test_what_cannot_be_trained_is_refused_in_one_line(
    network: Any, data: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as found:
        abscert.train(network, data, **{"epochs": 1, **options})
    assert "\n" not in str(found.value)
    assert "--" not in str(found.value)


def test_a_method_for_no_ball_leaves_a_radius_aside() -> None:
    methods = [abscert.train("fc-3", DATA, method=name, radius=0.05, epochs=1).method for name in ("plain", "ibp")]
    assert methods == ["plain", "ibp"]
