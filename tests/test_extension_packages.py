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

from abscert_plugin.records import read_records

pytestmark = pytest.mark.slow
ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples" / "plugins"
PACKAGES: Final = ("method", "network", "data", "command", "solver")
FAST: Final = ("--epochs", 1, "--batch-size", 512, "--device", "cpu", "--json")


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

    def abscert(self, *arguments: object) -> dict[str, Any]:
        """Run the command in a process of its own and return its JSON object."""
        start = "from abscert_plugin.cli import main; main()"
        return json.loads(run(self.python, "-c", start, *arguments).stdout)


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


@pytest.fixture(scope="module")
def deploy(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the package's network, trained on digits: one epoch leaves its bounds below 0."""
    out = tmp_path_factory.mktemp("network")
    chosen = ("--network", "cnn-1layer", "--cells", 3, "--epochs", 5, "--batch-size", 64, "--device", "cpu")
    environment.abscert("train", "--data", "digits", *chosen, "--json", "--out", out)
    return out / "deploy.onnx"


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) == sorted(PACKAGES)


def test_a_method_trains(environment: Environment, tmp_path: Path) -> None:
    chosen = ("--method", "noise", "--set", "sigma=0.2", "--network", "fc-3-code", "--data", "digits")
    environment.abscert("train", *chosen, *FAST, "--out", tmp_path / "run")
    run_facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run_facts["configuration"]["method_options"] == {"sigma": 0.2}
    properties = {item.key: item.value for item in onnx.load_model(tmp_path / "run" / "deploy.onnx").metadata_props}
    assert "method=noise;claim=clean" in properties["abscert.training"]


def test_a_network_is_trained_and_a_command_prints_what_its_file_says(environment: Environment, deploy: Path) -> None:
    described = environment.abscert("metadata", deploy, "--json")
    assert (described["abscert.network"], described["abscert.cells"]) == ("cnn-1layer-relu", "3")


def test_a_solver_decides(environment: Environment, deploy: Path, tmp_path: Path) -> None:
    ball = ("--claim", "ball", "--radius", "0.05", "--data", "digits", "--limit", 20, "--json")
    found = environment.abscert("verify", deploy, *ball, "--solver", "intervals", "--out", tmp_path / "run")
    assert (found["claim"], found["images"]) == ("ball", 20)
    rows = read_records(tmp_path / "run" / "records.jsonl")
    assert {row.method for row in rows} <= {"forward", "intervals"}
    assert any((row.verdict, row.method) == ("certified", "intervals") for row in rows)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]["solver"] == "intervals"


def test_a_data_set_is_trained_on_and_verified(environment: Environment, tmp_path: Path) -> None:
    environment.abscert("train", "--data", "squares", "--network", "fc-3-code", *FAST, "--out", tmp_path / "run")
    model = tmp_path / "run" / "deploy.onnx"
    found = environment.abscert("verify", model, "--data", "squares", "--limit", 20, "--json")
    assert (found["claim"], found["images"], found["data"]["name"]) == ("cell", 20, "squares")
