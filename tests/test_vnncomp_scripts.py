"""The competition's scripts: `vnncomp/`, run on two tiny instances as its harness runs them."""

import gzip
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Final

import pytest
from query_texts import box_texts, query_text
from small_nets import relu_file

ROOT: Final = Path(__file__).resolve().parents[1]
SCRIPTS: Final = ROOT / "vnncomp"
pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("gzip") is None, reason="needs bash and gzip"
)


def script(name: str, *words: object, command: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a script with a command in place of the `abscert` that install_tool.sh installs."""
    done = subprocess.run(
        ["bash", SCRIPTS / f"{name}.sh", *map(str, words)],
        env={**os.environ, "ABSCERT": command},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done
    return done


@pytest.fixture
def abscert(tmp_path: Path) -> str:
    """Return a command that runs the `abscert` of this tree."""
    path = tmp_path / "abscert"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'from abscert_plugin.cli import main; main()' \"$@\"\n")
    path.chmod(0o755)
    return str(path)


def instance(folder: Path, limit: str) -> tuple[Path, Path]:
    """Write a network, x -> max(x, 0) on [-1, 1]^2, and the query whether its first output is at least a limit."""
    query = folder / f"least_{limit}.vnnlib"
    query.write_text(query_text([*box_texts(1), f"(>= Y_0 {limit})"], 1))
    return relu_file(folder / "net.onnx", 2), query


@pytest.mark.slow
def test_a_packed_instance_is_unpacked_and_sat(tmp_path: Path, abscert: str) -> None:
    files = instance(tmp_path, "0.5")
    for file in files:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    script("prepare_instance", "v1", "tiny", files[0], f"{files[1]}.gz")
    assert all(file.is_file() for file in files)
    script("run_instance", "v1", "tiny", files[0], files[1], tmp_path / "out.txt", 60, command=abscert)
    verdict, *lines = (tmp_path / "out.txt").read_text().splitlines()
    assert verdict == "sat"
    text = "".join(lines)
    assert text.startswith("((X_0 ")
    assert text.endswith("))")
    values = dict(pair.split() for pair in text.strip("()").replace(") (", ",").split(","))
    assert list(values) == ["X_0", "X_1", "Y_0", "Y_1"]
    assert 1 >= Fraction(values["X_0"]) == Fraction(values["Y_0"]) >= Fraction(1, 2)
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.slow
def test_what_cannot_be_unpacked_is_read_packed(tmp_path: Path, abscert: str) -> None:
    network, query = instance(tmp_path, "1.5")
    query.with_name(f"{query.name}.gz").write_bytes(gzip.compress(query.read_bytes()))
    query.unlink()
    script("run_instance", "v1", "tiny", network, query, tmp_path / "out.txt", 60.0, command=abscert)
    assert (tmp_path / "out.txt").read_text() == "unsat\n"


@pytest.mark.parametrize(
    ("says", "result"),
    [
        ("echo timed-out", "timeout\n"),
        ("echo unknown", "unknown\n"),
        ("echo sat; exit 2", "error\n"),
        ("kill -9 $$", "error\n"),
        ('printf "sat\\n((X_0 1.0)\\n (Y_0 2.0))\\n"', "sat\n((X_0 1.0)\n (Y_0 2.0))\n"),
    ],
)
def test_the_results_file_has_the_words_of_the_competition(tmp_path: Path, says: str, result: str) -> None:
    network, query = instance(tmp_path, "1.5")
    command = tmp_path / "abscert"
    command.write_text(f"#!/bin/sh\n{says}\n")
    command.chmod(0o755)
    script("run_instance", "v1", "tiny", network, query, tmp_path / "out.txt", 5, command=str(command))
    assert (tmp_path / "out.txt").read_text() == result


def test_a_call_of_another_version_is_refused(tmp_path: Path) -> None:
    network, query = instance(tmp_path, "1.5")
    assert "expected v1" in script("prepare_instance", "v2", "tiny", network, query, status=1).stderr
    assert "expected v1" in script("run_instance", "v2", "tiny", network, query, tmp_path / "o", 5, status=1).stderr
    assert "expected v1" in script("install_tool", status=1).stderr
    gone = tmp_path / "gone.vnnlib"
    assert f"there is no file {gone}" in script("prepare_instance", "v1", "tiny", network, gone, status=1).stderr
    (tmp_path / "broken.vnnlib.gz").write_bytes(b"\x1f\x8b broken")
    script("prepare_instance", "v1", "tiny", network, tmp_path / "broken.vnnlib.gz")  # read packed, it says what it is
    assert not list(tmp_path.glob("broken.vnnlib.part*"))


def test_an_abscert_that_is_installed_is_taken(tmp_path: Path) -> None:
    command = tmp_path / "abscert"
    command.write_text('#!/bin/sh\necho "said $*"\n')
    command.chmod(0o755)
    assert script("install_tool", "v1", command=str(command)).stdout == "said --version\n"
