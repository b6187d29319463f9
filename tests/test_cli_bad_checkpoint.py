"""A checkpoint that says another network than it holds: one line, exit status 2, and no memory for what it says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, train

from abscert_plugin.networks import NetworkConfig


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("cli") / "run", "--cells", 4)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def described(run: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((run / "checkpoint.json").read_text())["description"]
    return description


def describe(run: Path, description: dict[str, Any]) -> None:
    path = run / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "description": description}))


@pytest.mark.parametrize("key", ["training", "method_options", "method", "claim", "data", "cells", "image_shape"])
def test_one_that_does_not_say_what_it_holds_is_not_exported(run: Path, key: str) -> None:
    said = described(run)
    damages: tuple[dict[str, Any], ...] = (
        {**said, key: ["1", 2**40, 2**40]},
        {name: value for name, value in said.items() if name != key},
        {key: [{}]},
    )
    for damaged in damages:
        describe(run, damaged)
        assert "does not say which network it holds" in refused("export", run)


@pytest.mark.parametrize("change", [{"classes": 10**9}, {"image_shape": [1, 10**5, 10**5]}], ids=str)
def test_a_network_of_another_size_is_refused_before_it_is_built(
    run: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(config: NetworkConfig, seed: int) -> None:
        raise AssertionError("memory was taken for what a file says")

    monkeypatch.setattr(NetworkConfig, "build", built)
    describe(run, {**described(run), **change})
    assert "do not fit the network" in refused("export", run)
