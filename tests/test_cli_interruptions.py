"""Kills, Ctrl-C and full disks: what was written stays whole, and the same command goes on with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, TEST_IMAGES, abscert, contents, disk_with_room_for, refused, train

from abscert_plugin.blackbox import BlackBox
from abscert_plugin.data import Split, load_data
from abscert_plugin.records import read_records

pytestmark = pytest.mark.slow  # the file as a whole

BATCH = 20
# a process that is killed by signal 9 in its n-th forward pass, counted from the first batch of images
KILLED = f"""
import os, signal, sys
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.cli import main
left, run = int(sys.argv.pop(1)), BlackBox.run
def dying(box, inputs):
    global left
    left -= len(inputs) == {BATCH}
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(box, inputs)
BlackBox.run = dying
main()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("cli") / "run", "--cells", 4)


def verify_arguments(trained: Path, out: Path) -> list[object]:
    asked = ("--data", "digits", "--claim", "cell", "--batch-size", BATCH)
    return ["verify", trained / "deploy.onnx", *asked, "--out", out]


def assert_complete(trained: Path, out: Path) -> None:
    """Assert that the same command ends with every image once, in order, and the verdicts of an undisturbed run."""
    facts = abscert(*verify_arguments(trained, out), "--json").json
    rows = read_records(out / "records.jsonl")
    assert [row.index for row in rows] == load_data("digits", Split.TEST).index.tolist()
    assert facts["images"] == len(rows) == TEST_IMAGES
    whole = out.with_name("undisturbed")
    abscert(*verify_arguments(trained, whole))
    assert [(row.index, row.verdict, row.margin) for row in rows] == [
        (row.index, row.verdict, row.margin) for row in read_records(whole / "records.jsonl")
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no signal 9")
@pytest.mark.parametrize("batch", [1, 7])
def test_a_killed_verification_is_completed_by_the_same_command(trained: Path, tmp_path: Path, batch: int) -> None:
    arguments = list(map(str, verify_arguments(trained, tmp_path / "out")))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(batch), *arguments], capture_output=True, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == (batch - 1) * BATCH
    assert_complete(trained, tmp_path / "out")


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Heed Ctrl-C as a program in a terminal does: one that was started in the background leaves it alone."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_say_how_to_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    calls = 0
    before = signal.getsignal(number)
    run = BlackBox.run

    def interrupted(box: BlackBox, inputs: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 5:
            assert signal.getsignal(number) is not signal.SIG_DFL  # which would end the tests
            signal.raise_signal(number)
        return run(box, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(BlackBox, "run", interrupted)
        result = abscert(*verify_arguments(trained, tmp_path / "out"), "--json", status=status)
    assert signal.getsignal(number) is before
    assert result.out == ""
    assert result.err == "stopped; the same command goes on with it\n"
    assert 0 < len(read_records(tmp_path / "out" / "records.jsonl")) < TEST_IMAGES
    assert_complete(trained, tmp_path / "out")


def test_a_full_disk_ends_a_verification_in_one_line_and_loses_nothing(trained: Path, tmp_path: Path) -> None:
    with disk_with_room_for(20_000):
        line = refused(*verify_arguments(trained, tmp_path / "out"))
    assert line.startswith(f"cannot write {tmp_path / 'out' / 'records.jsonl'}")
    assert 0 < len(read_records(tmp_path / "out" / "records.jsonl")) < TEST_IMAGES
    assert_complete(trained, tmp_path / "out")


def test_a_full_disk_ends_a_training_in_one_line_and_it_can_be_resumed(trained: Path, tmp_path: Path) -> None:
    arguments = ["train", *FAST, "--cells", 4, "--out", tmp_path / "out"]
    with disk_with_room_for(20_000):
        result = abscert(*arguments, status=2)
    (line,) = [line for line in result.err.splitlines() if not line.startswith("epoch ")]
    assert line.startswith(f"error: cannot write {tmp_path / 'out'}")
    assert contents(tmp_path / "out") == {}
    abscert(*arguments, "--resume")
    assert (tmp_path / "out" / "deploy.onnx").read_bytes() == (trained / "deploy.onnx").read_bytes()


def test_a_full_disk_leaves_an_earlier_export_and_an_earlier_page_whole(trained: Path, tmp_path: Path) -> None:
    abscert("verify", trained / "deploy.onnx", "--out", tmp_path / "run")
    abscert("export", trained, "--out", tmp_path / "onnx")
    abscert("show", tmp_path / "run", "--html", tmp_path / "page.html")
    before = contents(tmp_path)
    with disk_with_room_for(5_000):
        assert "File too large" in refused("export", trained, "--out", tmp_path / "onnx")
        result = abscert("show", tmp_path / "run", "--html", tmp_path / "page.html", status=2)
    assert result.err.startswith(f"error: cannot write {tmp_path / 'page.html'}")
    assert len(result.err.splitlines()) == 1
    assert contents(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_is_one_line_too() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", "from abscert_plugin.cli import main; main()", "data", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert result.returncode == 2
    assert result.stderr == (
        "error: No space left on device; free some where it writes, and run it again: what was written stays\n"
    )
