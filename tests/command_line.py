"""The `abscert` command inside this process, since starting one takes seconds, and what it is run on."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.main import get_command

from abscert_plugin.cli import app, main, progress

FAST = ("--network", "fc-3", "--epochs", "1", "--batch-size", "512", "--device", "cpu")
TEST_IMAGES = 359
_BUILD = app.build_app


@dataclass(frozen=True)
class Result:
    """What a command leaves: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def run(*arguments: object) -> Result:
    """Run the command as the installed script does, with the encodings that stdout and stderr have in a terminal."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["abscert", *map(str, arguments)])
        patch.setattr(app, "build_app", lambda asked: _command())
        patch.setattr(progress, "FIRST_SECONDS", 3600.0)  # a busy machine writes no lines that a quiet one does not
        with pytest.raises(SystemExit) as caught:
            main()
    return Result(int(caught.value.code or 0), _text(out), _text(err))


@cache
def _command() -> Callable[..., object]:
    """Return what `main` calls; to build it takes longer than many a command does."""
    return get_command(_BUILD())


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def abscert(*arguments: object, status: int = 0) -> Result:
    """Run the command and check its exit status."""
    result = run(*arguments)
    assert result.status == status, result
    return result


def refused(*arguments: object) -> str:
    """Run a command on bad input and return its one line on stderr, without the word in front."""
    result = abscert(*arguments, status=2)
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line.removeprefix("error: ")


def train(folder: Path, *arguments: object) -> Path:
    """Train a small network on digits for one epoch, and return its folder."""
    abscert("train", "--data", "digits", *FAST, "--out", folder, *arguments)
    return folder


def linear_model(path: Path, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> Path:
    """Write an ONNX classifier of one layer that this project did not make."""
    weights = np.random.default_rng(0).standard_normal((int(np.prod(shape)), classes)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    ports = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes]),
    )
    graph = helper.make_graph(nodes, "linear", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """Let every write fail that would make a file larger than `size` bytes, by the operating system's own limit."""
    resource = pytest.importorskip("resource", reason="this system has no limit on a file's size")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
