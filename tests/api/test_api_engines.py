"""Images decided by an engine's workers: the rows of one machine, in their order, whoever dies on the way."""

import os
import random
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from command_line import abscert as command
from command_line import contents, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import abscert_plugin as abscert
from abscert_plugin.artifact.export import export
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.engines.job import Answers, Job, Task, TaskAnswer, answered
from abscert_plugin.errors import VerifierError
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.records import read_records
from abscert_plugin.verification.elsewhere import SentBatch

COUNT, BATCH = 12, 2
ASKED: dict[str, Any] = {"radius": 0.03, "timeout": 60, "batch_size": BATCH}


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = NetworkConfig("fc-3-code", Activation.RELU, (1, 8, 8), 10)
    probes = np.zeros((1, 1, 8, 8), dtype=np.float32)
    return export(config.build(3), config, abscert.Grid(3), "none", probes, tmp_path_factory.mktemp("deploy")).deploy


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data("digits", Split.TEST).first(COUNT)


@pytest.fixture(scope="module")
def alone(deploy: Path, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    abscert.verify(deploy, data, out=folder, **ASKED)
    return folder


@dataclass
class Here:
    """An engine whose workers are this process; they answer in any order, and some of them die.

    Args:
        order: seed of the order of answers.
        killed_by: places in the data set of images of which every worker dies.
        change: what becomes of a job's shared part on its way.
    """

    order: int = 0
    killed_by: frozenset[int] = frozenset()
    change: Callable[[bytes], bytes] = bytes
    cpus: int = 1
    sent: list[tuple[int, ...]] = field(default_factory=list)

    def check(self) -> None:
        """Everything is there."""

    def __str__(self) -> str:
        return "this process"

    def hand_out(self, job: Job, tasks: Iterable[Task], on_look: Callable[[], object]) -> Answers:
        """Yield answers."""
        waiting = list(tasks)
        random.Random(self.order).shuffle(waiting)
        opened: list[Any] = []

        def open_once() -> Any:
            if not opened:
                opened.append(Job(job.opens, self.change(job.shared)).opened())
            return opened[0]

        for task in waiting:
            index = msgspec.msgpack.decode(task.content, type=SentBatch).index
            self.sent.append(index)
            is_lost = bool(self.killed_by & set(index))
            yield TaskAnswer(task.place, loss="its worker died") if is_lost else answered(open_once, task)
            on_look()


def rows(folder: Path) -> list[Any]:
    """Return a run's rows, without times."""
    return [msgspec.structs.replace(row, seconds=0.0) for row in read_records(folder / "records.jsonl")]


def files(folder: Path) -> dict[str, bytes]:
    """Return what a run has written besides its rows."""
    return {name: content for name, content in contents(folder).items() if name not in ("records.jsonl", "run.json")}


@pytest.mark.parametrize("asked", [ASKED, {"claim": "cell", "batch_size": BATCH}, {**ASKED, "bound": "ibp"}])
def test_rows_and_files_are_those_of_one_machine(
    asked: dict[str, Any], deploy: Path, data: DataSet, tmp_path: Path
) -> None:
    one = abscert.verify(deploy, data, out=tmp_path / "one", **asked)
    many = abscert.verify(deploy, data, out=tmp_path / "many", engine=Here(1), **asked)
    assert [row.verdict for row in many] == [row.verdict for row in one]
    assert rows(tmp_path / "many") == rows(tmp_path / "one")
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert many.run.device == f"{one.run.device}; this process"
    assert many.run.configuration == {**one.run.configuration, "threads": 1}


@pytest.mark.slow
@settings(max_examples=8)
@given(order=st.integers(0, 99), killed_by=st.frozensets(st.integers(0, COUNT - 1)))
def test_an_image_of_which_workers_die_is_unknown_and_costs_no_other(
    order: int, killed_by: frozenset[int], deploy: Path, data: DataSet, alone: Path
) -> None:
    engine = Here(order, frozenset(int(data.index[place]) for place in killed_by))
    found = abscert.verify(deploy, data, engine=engine, **ASKED)
    expected = {row.index: row for row in rows(alone)}
    assert [row.index for row in found.records] == data.index.tolist()
    for row in found.records:
        if row.index in engine.killed_by:
            assert (row.verdict, row.reason, row.prediction) == ("unknown", "its worker died", -1)
            assert (row.claim, row.radius, row.radius_scale) == ("ball", 0.03, "pixel")
        elif not any(row.index in index and engine.killed_by & set(index) for index in engine.sent):
            assert msgspec.structs.replace(row, seconds=0.0) == expected[row.index]
        else:  # decided alone, where the last bits of sums may be others
            assert (row.verdict, row.method) == (expected[row.index].verdict, expected[row.index].method)


def test_what_is_done_is_not_sent_again_whoever_goes_on(
    deploy: Path, data: DataSet, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    engine, done = Here(2), 0

    def stop(decided: int, _: int) -> None:
        nonlocal done
        done = decided
        if decided >= 3 * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        abscert.verify(deploy, data, out=tmp_path, engine=engine, progress=stop, **ASKED)
    kept = {row.index for row in rows(tmp_path)}
    assert len(kept) == done == 3 * BATCH
    with pytest.raises(KeyboardInterrupt):
        abscert.verify(deploy, data, out=tmp_path, progress=lambda decided, _: stop(decided - BATCH, 0), **ASKED)
    kept = {row.index for row in rows(tmp_path)}
    engine = Here(3)
    abscert.verify(deploy, data, out=tmp_path, engine=engine, **ASKED)
    assert not kept & {index for batch in engine.sent for index in batch}
    assert rows(tmp_path) == rows(alone)


def test_a_worker_that_would_give_other_rows_is_refused(deploy: Path, data: DataSet, tmp_path: Path) -> None:
    other = Here(change=lambda shared: shared.replace(np.__version__.encode(), b"9" * len(np.__version__)))
    with pytest.raises(VerifierError, match=r"is not as the one that sends images \(versions.numpy: there '9"):
        abscert.verify(deploy, data, out=tmp_path, engine=other, **ASKED)
    assert rows(tmp_path) == []


def _workers() -> list[int]:
    """Return the numbers of the engine's processes that this one has started."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"engines.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_a_process_that_is_killed_costs_nothing(
    deploy: Path, data: DataSet, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killed: list[int] = []

    def kill(*_: int) -> None:
        if not killed:
            killed.extend(_workers())
            for number in killed:
                os.kill(number, signal.SIGKILL)

    abscert.verify(deploy, data, out=tmp_path, engine=abscert.Processes(2), progress=kill, **ASKED)
    assert killed
    assert not _workers()
    assert rows(tmp_path) == rows(alone)
    assert files(tmp_path) == files(alone)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "rya"), "expected --engine: one of local, processes, ray; got 'rya'; did you mean ray?"),
        (("--engine", "processes", "--workers", 0), "expected --workers of at least 1, got 0"),
        (("--engine", "processes", "--address", "a:1"), "expected --address with --engine ray alone"),
        (("--engine", "ray", "--workers", 2), "expected --workers with --engine processes alone"),
        (("--cpus", 2), "expected --cpus with --engine processes or ray alone"),
        (("--engine", "ray", "--address", "127.0.0.1:9"), "no Ray cluster at 127.0.0.1:9"),
    ],
)
def test_options_without_meaning_are_refused_before_anything_is_renamed(
    arguments: tuple[object, ...], words: str, deploy: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    asked = ("verify", deploy, "--data", "digits", "--limit", 2, "--out", tmp_path / "out", "--fresh")
    assert words in refused(*asked, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_ray_the_message_says_how_to_install_it(
    deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused("verify", deploy, "--data", "digits", "--limit", 2, "--out", tmp_path, "--engine", "ray")
    assert "pip install 'abscert-plugin[ray]'" in line


def test_few_batches_are_told(deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.cli.verify.engine_of", lambda *_: Here())
    asked = ("verify", deploy, "--data", "digits", "--limit", 6, "--claim", "cell", "--json")
    assert "a worker takes 250 images at a time, so only 1 has work" in command(*asked, "--out", tmp_path / "a").err
    assert "at a time" not in command(*asked, "--out", tmp_path / "b", "--batch-size", 1).err
