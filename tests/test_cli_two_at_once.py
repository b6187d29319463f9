"""Two commands at work in one folder: the second is refused in one line, and what a killed one held is taken over."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import FAST, TEST_IMAGES, abscert, contents, refused, train

from abscert_plugin.files import LOCK
from abscert_plugin.records import read_records

SLOW = """
import time
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.cli import main
from abscert_plugin.training import loop
run, step = BlackBox.run, loop._Loop._step
BlackBox.run = lambda box, inputs: (time.sleep(0.3), run(box, inputs))[1]
loop._Loop._step = lambda *arguments: (time.sleep(0.3), step(*arguments))[1]
main()
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is held without flock")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("cli") / "run", "--cells", 4)


@contextmanager
def started(lock: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a slow command in a process of its own that holds its folder when the block begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not lock.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_second_verification_of_a_folder_is_refused_and_the_first_one_is_whole(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["verify", trained / "deploy.onnx", "--data", "digits", "--batch-size", 60, "--out", out]
    with started(out / LOCK, *arguments) as first:
        for extra in ([], ["--fresh"]):
            line = refused(*arguments, *extra)
            assert f"another process is at work in {out}" in line
            assert f"held by process {first.pid} of " in line
        assert first.wait(60) == 0
    assert len({row.index for row in read_records(out / "records.jsonl")}) == TEST_IMAGES
    assert set(contents(tmp_path)) == {"out/records.jsonl", "out/run.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "more"), [("train", ["--cells", 4]), ("tune", ["--radius", "0.2", "--steps", 1])], ids=["train", "tune"]
)
def test_a_second_training_of_a_folder_is_refused_and_a_killed_one_is_gone_on_with(
    tmp_path: Path, command: str, more: list[object]
) -> None:
    out = tmp_path / "out"
    arguments = [command, *FAST, *more, "--out", out]
    with started(out / LOCK, *arguments) as first:
        assert f"held by process {first.pid} of " in refused(*arguments)
        assert first.poll() is None  # the block's end kills it
    abscert(*arguments, "--resume")
    assert LOCK not in {path.name for path in out.rglob("*")}


def test_a_former_run_stays_where_it_is_if_the_options_of_a_fresh_one_are_bad(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["verify", trained / "deploy.onnx", "--data", "digits", "--out", out]
    abscert(*arguments)
    before = contents(tmp_path)
    ball = ["--claim", "ball", "--radius", "0.1"]
    for bad in (
        ["--checkpoint", trained],
        ["--bound", "crown"],
        ["--batch-size", 0],
        [*ball, "--inputs", "int4"],
        [*ball, "--inputs", "uint8"],
        [*ball, "--bound", "tight"],
        [*ball, "--timeout", "-1"],
        [*ball, "--black-box", "--checkpoint", trained],
        [*ball, "--checkpoint", tmp_path],
    ):
        refused(*arguments, *bad, "--fresh")
        assert contents(tmp_path) == before, bad
