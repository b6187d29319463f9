"""The programs of examples/deploy print what the guard answers: in Python, C++ and JavaScript."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_networks import run_onnx
from torch import nn

from abscert_plugin.artifact.export import export
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.grid import Grid
from abscert_plugin.guards.write import write_guard
from abscert_plugin.networks import Activation, NetworkConfig

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "deploy"
SHAPES = ((1, 2, 3), (3, 2, 3))  # channels, height, width
RADII = ("0.1", "0.01")
Command = list[str]


def python() -> Command:
    return [sys.executable, str(EXAMPLES / "guard.py")]


@cache
def cpp() -> Command:
    """Compile the program, with the library of a release or with that of the Python package."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    roots = [Path(os.environ.get("ABSCERT_TEST_ORT", ".")), Path("/usr/local"), Path("/usr")]
    include = [root / place for root in roots for place in ("include", "include/onnxruntime")]
    headers = [folder for folder in include if (folder / "onnxruntime_cxx_api.h").exists()]
    package = Path(onnxruntime.__file__).parent / "capi"
    libraries = [one for folder in (roots[0] / "lib", package) for one in folder.glob("libonnxruntime.so*")]
    if compiler is None or not headers or not libraries:
        pytest.skip("no C++ compiler, or $ABSCERT_TEST_ORT names no folder with include/onnxruntime_cxx_api.h")
    folder = Path(mkdtemp())
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0].resolve())
    program = folder / "guard"
    places = [f"-I{headers[0]}", f"-L{folder}", f"-Wl,-rpath,{folder}"]
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, str(EXAMPLES / "guard.cpp"), *places, "-lonnxruntime", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [str(program)]


@cache
def javascript() -> Command:
    folder = Path(os.environ.get("ABSCERT_TEST_WEB", ".")).resolve()
    if shutil.which("node") is None or not (folder / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no node, or $ABSCERT_TEST_WEB names no folder with onnxruntime-web")
    (folder / "guard.mjs").write_text((EXAMPLES / "guard.mjs").read_text())  # node finds packages beside a script
    return ["node", str(folder / "guard.mjs")]


PROGRAMS: dict[str, Callable[[], Command]] = {"python": python, "c++": cpp, "javascript": javascript}


@cache
def guard(shape: tuple[int, int, int]) -> Path:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * int(np.prod(shape)), 8), nn.Tanh(), nn.Linear(8, 3))
    generator, folder = torch.Generator().manual_seed(5), Path(mkdtemp())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 1, generator=generator)
    config = NetworkConfig("fc-3", Activation.TANH, shape, 3)
    deploy = export(network, config, Grid(3), "none", np.zeros((1, *shape), dtype=np.float32), folder).deploy
    balls = [Ball(Radius.parse(radius), Inputs.FLOAT) for radius in RADII]
    write_guard(Artifact.open(deploy, Provider.CPU), balls, folder / "guard.onnx")
    return folder / "guard.onnx"


def run(command: Command, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False, timeout=100)


def picture(levels: np.ndarray) -> bytes:
    """Return the PGM or PPM of an image of 8 bits, [channels, height, width]."""
    channels, height, width = levels.shape
    return f"P{6 if channels == 3 else 5}\n{width} {height}\n255\n".encode() + levels.transpose(1, 2, 0).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_prints_what_the_guard_answers(program: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    command, seen = PROGRAMS[program](), set()
    levels = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    levels[:, 0, 0, 0] = [ord("\n"), ord(" "), 255]  # what stands behind the head is no white space
    pixels = levels.astype(np.float32) / np.float32(255)
    answers = run_onnx(guard(shape), pixels, ["label", "certified", "margin"])
    for image, label, certified, margins in zip(levels, *answers, strict=True):
        path = tmp_path / "image.pnm"
        path.write_bytes(picture(image))
        done = run(command, guard(shape), path)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == len(RADII)
        for line, is_certified, margin in zip(lines, certified, margins, strict=True):
            told, _, number = line.rpartition(" ")
            assert told == f"label {label}, certified {'yes' if is_certified else 'no'}, margin"
            assert float(number) == pytest.approx(margin, abs=1e-3)  # 4 digits, and sums in another order
            seen.add((label, is_certified))
    assert all(len(set(values)) == 2 for values in zip(*seen, strict=True))


@pytest.mark.parametrize("content", [b"P2\n2 2\n255\n1 2 3 4", b"P5\n3 2\n65535\n" + bytes(12), b"\x89PNG\r\n", b""])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_refuses_what_it_cannot_read(program: str, content: bytes, tmp_path: Path) -> None:
    command, path = PROGRAMS[program](), tmp_path / "image.pgm"
    path.write_bytes(content)
    done = run(command, guard(SHAPES[0]), path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "expected a binary PGM or PPM of 8 bits, without comments" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_program_in_python_has_ten_lines() -> None:
    text = (EXAMPLES / "guard.py").read_text()
    assert len(text[text.index("\ncontent =") :].strip().splitlines()) == 10


def test_every_program_says_how_it_is_run() -> None:
    for path in EXAMPLES.glob("guard.*"):
        assert "guard.onnx image.pgm" in path.read_text()
