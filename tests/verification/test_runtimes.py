"""Logits of other runtimes lie within the enclosures of a proof; benchmarks/runtimes.py says so of real images."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import engines
import numpy as np
import pytest
from ball_oracle import tiny_case
from engines import Run
from plain_oracle import plain_case
from runtimes import Enclosed

from abscert_plugin.artifact.metadata import LOGITS
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.bounds.proof import arithmetic

FILES: dict[str, Callable[[], Artifact]] = {
    "cells": lambda: tiny_case(3).artifact,
    "pixels": lambda: plain_case(1).artifact,
}


def openvino(artifact: Artifact) -> Iterator[Run]:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    return engines.openvino(sys.executable)(artifact.path, [LOGITS])


def web(artifact: Artifact) -> Iterator[Run]:
    folder = Path(os.environ.get("ABSCERT_TEST_WEB", "."))
    if not engines.has_web(folder):
        pytest.skip("no node, or $ABSCERT_TEST_WEB names no folder with onnxruntime-web")
    return engines.web(folder)(artifact.path, [LOGITS])


RUNTIMES: dict[str, Callable[[Artifact], Iterator[Run]]] = {
    "onnxruntime": lambda artifact: engines.by_onnxruntime(artifact.path, [LOGITS]),
    "reference": lambda artifact: engines.by_reference(artifact.path, [LOGITS]),
    "torch": engines.by_torch,
    "openvino": openvino,
    "web": web,
}


@cache
def enclosed(name: str) -> Enclosed:
    artifact = FILES[name]()
    images = np.random.default_rng(0).random((120, *artifact.metadata.image_shape), dtype=np.float32)
    return Enclosed.of(artifact, images)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtimes_logits_lie_within_their_enclosures(file: str, runtime: str) -> None:
    found = enclosed(file).compared(RUNTIMES[runtime](FILES[file]()))
    assert found["runs"] >= 2
    assert (found["outside"], found["labels_that_differ"]) == (0, 0)
    assert 0 < found["share"] <= 1
    assert enclosed(file).is_proven.mean() > 0.9


def test_a_proof_without_the_files_rounding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "gamma", lambda roundings: 0.0)
    monkeypatch.setattr(arithmetic, "single_gamma", lambda roundings: 0.0)
    monkeypatch.setattr("abscert_plugin.verification.proving.Prover._need_agreement", lambda self, artifact: None)
    artifact = FILES["cells"]()
    assert Enclosed.of(artifact, enclosed("cells").images).compared(RUNTIMES["onnxruntime"](artifact))["outside"] > 0
