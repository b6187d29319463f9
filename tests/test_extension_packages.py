"""The packages of examples/plugins, installed by pip into a fresh environment: the real command uses what they add."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import pytest
from scripts import ONE_AFTER_THE_OTHER

from abscert_plugin.records import read_records

pytestmark = pytest.mark.slow
ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples" / "plugins"
PACKAGES: Final = ("method", "network", "data", "command", "solver")
FAST: Final = ("--epochs", 1, "--batch-size", 512, "--device", "cpu")


@dataclass(frozen=True)
class Environment:
    """A fresh environment that sees the libraries of this one, and this checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def install(self, packages: Sequence[Path]) -> None:
        """Install packages as a user does, but from what is here: without the network."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-index")
        run(*pip, "--no-deps", "--no-build-isolation", "--disable-pip-version-check", *packages)

    def abscert(self, *commands: Sequence[object]) -> list[dict[str, Any]]:
        """Run commands, one after the other in one process, since that takes seconds to start; return their objects."""
        lines = [["abscert", *map(str, words), "--json"] for words in commands]
        told = run(self.python, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)).stdout.split("\0")[:-1]
        return [json.loads(text) for text in told]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=variables, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    return done


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with all of the packages; they are copied, since a build leaves files beside them."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    made = Environment(folder / "venv")
    (own,) = (folder / "venv").rglob("site-packages")
    (own / "libraries.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen()))
    copies = [Path(shutil.copytree(EXAMPLES / name, folder / name)) for name in PACKAGES]
    made.install(copies)
    return made


def seen() -> list[str]:
    return [path for path in site.getsitepackages() if Path(path).is_dir()]


@dataclass(frozen=True)
class Found:
    """What the commands of the packages wrote and told."""

    folder: Path
    described: dict[str, Any]
    by_solver: dict[str, Any]
    by_data: dict[str, Any]


@pytest.fixture(scope="module")
def found(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Run the commands; of the package's network one epoch would leave the bounds below 0."""
    out = tmp_path_factory.mktemp("found")
    deploy = out / "network" / "deploy.onnx"
    network = ("--network", "cnn-1layer", "--cells", 3, "--epochs", 5, "--batch-size", 64, "--device", "cpu")
    noise = ("--method", "noise", "--set", "sigma=0.2", "--network", "fc-3-code", "--data", "digits", *FAST)
    ball = ("--claim", "ball", "--radius", "0.05", "--data", "digits", "--limit", 20, "--solver", "intervals")
    squares = ("--data", "squares", "--network", "fc-3-code", *FAST)
    told = environment.abscert(
        ("train", *noise, "--out", out / "noise"),
        ("train", "--data", "digits", *network, "--out", out / "network"),
        ("metadata", deploy),
        ("verify", deploy, *ball, "--out", out / "balls"),
        ("train", *squares, "--out", out / "squares"),
        ("verify", out / "squares" / "deploy.onnx", "--data", "squares", "--limit", 20),
    )
    return Found(out, told[2], told[3], told[5])


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) == sorted(PACKAGES)


def test_a_method_trains(found: Found) -> None:
    run_facts = json.loads((found.folder / "noise" / "run.json").read_text())
    assert run_facts["configuration"]["method_options"] == {"sigma": 0.2}
    properties = {
        item.key: item.value for item in onnx.load_model(found.folder / "noise" / "deploy.onnx").metadata_props
    }
    assert "method=noise;claim=clean" in properties["abscert.training"]


def test_a_network_is_trained_and_a_command_prints_what_its_file_says(found: Found) -> None:
    assert (found.described["abscert.network"], found.described["abscert.cells"]) == ("cnn-1layer-relu", "3")


def test_a_solver_decides(found: Found) -> None:
    assert (found.by_solver["claim"], found.by_solver["images"]) == ("ball", 20)
    rows = read_records(found.folder / "balls" / "records.jsonl")
    assert {row.method for row in rows} <= {"forward", "intervals"}
    assert any((row.verdict, row.method) == ("certified", "intervals") for row in rows)
    assert json.loads((found.folder / "balls" / "run.json").read_text())["configuration"]["solver"] == "intervals"


def test_a_data_set_is_trained_on_and_verified(found: Found) -> None:
    told = found.by_data
    assert (told["claim"], told["images"], told["data"]["name"]) == ("cell", 20, "squares")
