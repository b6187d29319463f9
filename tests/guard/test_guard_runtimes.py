"""What a guard certifies in one runtime holds in all; benchmarks/guard_runtimes.py says so of trained networks."""

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import engines
import numpy as np
import pytest
import torch
from engines import Engine
from guard_runtimes import FAULTS, Guards, compared
from tiny_networks import CLASSES, SHAPE, export_tiny, tiny_network
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.guards.guarded import CERTIFIED, MARGIN, NOTHING_KNOWN
from abscert_plugin.guards.write import write_guard
from abscert_plugin.networks import Activation, NetworkConfig

BALL = Ball(Radius.parse("0.1"), Inputs.FLOAT)


def cells(folder: Path) -> Path:
    return export_tiny(tiny_network(3), 3, folder).deploy


def pixels(folder: Path) -> Path:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 1, generator=generator)
    config = NetworkConfig("cnn-2layer", Activation.TANH, SHAPE, CLASSES)
    return export_plain(network, config, "none", np.zeros((1, *SHAPE), dtype=np.float32), folder).deploy


FILES: dict[str, Callable[[Path], Path]] = {"cells": cells, "pixels": pixels}


def openvino() -> Engine:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    return engines.openvino(sys.executable)


def web() -> Engine:
    folder = Path(os.environ.get("ABSCERT_TEST_WEB", "."))
    if not engines.has_web(folder):
        pytest.skip("no node, or $ABSCERT_TEST_WEB names no folder with onnxruntime-web")
    return engines.web(folder)


OTHERS: dict[str, Callable[[], Engine]] = {"reference": lambda: engines.by_reference, "openvino": openvino, "web": web}


@cache
def opened(file: str) -> tuple[Artifact, Path]:
    folder = Path(mkdtemp())
    artifact = Artifact.open(FILES[file](folder), Provider.CPU)
    write_guard(artifact, [BALL], folder / "guard.onnx")
    return artifact, folder / "guard.onnx"


def guards(file: str, ball: Ball = BALL) -> Guards:
    """Return a file, its guard, and random images with corners of these balls."""
    images = np.random.default_rng(0).random((120, *SHAPE), dtype=np.float32)
    return Guards.of(*opened(file), ball, images)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("runtime", OTHERS)
def test_what_a_guard_certifies_anywhere_holds_everywhere(file: str, runtime: str) -> None:
    rows = compared(guards(file), {"onnxruntime": engines.by_onnxruntime, "other": OTHERS[runtime]()})
    assert [row["runs"] for row in rows] == [12, 2, 2]
    for row in rows:
        assert {fault: row[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert 10 < int(str(rows[0]["certified_by_any"])) < 110


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("runtime", ["onnxruntime", *OTHERS])
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
def test_nothing_is_told_of_an_image_outside_the_pixel_range(file: str, runtime: str) -> None:
    engine, (_, guard) = (OTHERS | {"onnxruntime": lambda: engines.by_onnxruntime})[runtime](), opened(file)
    above = np.nextafter(np.float32(1), np.float32(2))
    images = np.full((8, *SHAPE), 0.5, dtype=np.float32)
    images[:7, 0, 1, 1] = [np.nan, 1e38, -1e38, 1e20, -1e-7, above, -1]
    for run in engine(guard, [CERTIFIED, MARGIN]):
        found = run(images)
        assert not found[CERTIFIED][:7].any()
        assert (found[MARGIN][:7] == NOTHING_KNOWN).all()
        assert found[MARGIN][7] > NOTHING_KNOWN


@pytest.mark.parametrize("file", FILES)
def test_a_guard_of_too_small_a_ball_is_seen(file: str) -> None:
    wide = guards(file, Ball(Radius.parse("0.5"), Inputs.FLOAT))
    row, _ = compared(wide, {"onnxruntime": engines.by_onnxruntime})
    assert row["labels_lost"]
    assert row["margins_broken"]


def test_a_guard_of_another_file_is_seen(tmp_path: Path) -> None:
    other = Artifact.open(export_tiny(tiny_network(4), 3, tmp_path).deploy, Provider.CPU)
    given = guards("cells")
    mixed = Guards(other, given.guard, given.own, given.moved)
    row, _ = compared(mixed, {"onnxruntime": engines.by_onnxruntime})
    assert all(row[fault] for fault in ("outside", "labels_lost", "other_logits"))
