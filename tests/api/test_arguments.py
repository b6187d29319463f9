"""Arguments of a kind that a parameter does not take: one clear line, and nothing else is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

import abscert_plugin as abscert
from abscert_plugin.api.arguments import check_arguments, parameter_kinds
from abscert_plugin.errors import ConfigError

X: Final = np.zeros((2, 1, 2, 2), np.float32)
Y: Final = np.zeros(2, np.int64)
NET: Final = torch.nn.Linear(4, 2)
REFUSED: Final[tuple[tuple[Callable[..., Any], dict[str, Any], str], ...]] = (
    (abscert.verify, {"timeout": "x"}, "expected timeout as a number, got 'x'"),
    (abscert.verify, {"claim": 3}, "expected claim as a str or None, got 3"),
    (abscert.verify, {"batch_size": 1.5}, "expected batch_size as a whole number or None, got 1.5"),
    (abscert.verify, {"black_box": "no"}, "expected black_box as True or False, got 'no'"),
    (abscert.verify, {"out": 3}, "expected out as a str or a path or None, got 3"),
    (abscert.verify, {"engine": 3}, r"expected engine as an engine, such as Processes\(2\) or None, got 3"),
    (abscert.verify, {"layout": 3}, "expected layout: one of nchw, nhwc, flat; got 3"),
    (abscert.verify, {"constants": 3}, "expected constants as a number for each name, got 3"),
    (abscert.train, {"epochs": [1]}, r"expected epochs as a whole number or None, got \[1\]"),
    (abscert.train, {"learning_rate": "x"}, "expected learning_rate as a number or None, got 'x'"),
    (abscert.train, {"progress": 3}, "expected progress as a function or None, got 3"),
    (abscert.wrap, {"represent": 3}, "expected represent as a data set or None, got 3"),
    (abscert.guard, {"progress": 3}, "expected progress as a function, got 3"),
    (abscert.advise, {"image_size": "x"}, "expected image_size as a whole number or None, got 'x'"),
    (abscert.load_data, {"name": 3}, "expected name as a str, got 3"),
)
NEEDED: Final = {
    abscert.verify: {"model": NET, "images": X, "labels": Y, "radius": 0.1},
    abscert.train: {"network": NET, "data": (X, Y)},
    abscert.wrap: {"model": NET, "out": "wrapped", "cells": 2},
    abscert.guard: {"model": NET, "out": "guarded.onnx", "radius": 0.1},
    abscert.advise: {"data": (X, Y), "radius": 0.1},
}


@pytest.mark.parametrize(("function", "given", "said"), REFUSED, ids=lambda of: "")
def test_another_kind_is_refused_in_one_line(
    function: Callable[..., Any], given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{said}$"):
        function(**{**NEEDED.get(function, {}), **given})
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    kinds = parameter_kinds(abscert.verify)
    for number in (3, np.int64(3), np.uint8(3), torch.tensor(3)):
        check_arguments(kinds, {"batch_size": number, "timeout": number})
    for part in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        check_arguments(kinds, {"timeout": part})
    check_arguments(kinds, {"black_box": np.bool_(True), "progress": print, "radius": object()})


def test_what_python_refuses_is_said_by_python() -> None:
    with pytest.raises(TypeError, match=r"load_data\(\) got an unexpected keyword argument 'nmae'"):
        abscert.load_data(nmae="digits")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"load_data\(\) missing 1 required positional argument: 'name'"):
        abscert.load_data()  # type: ignore[call-arg]
