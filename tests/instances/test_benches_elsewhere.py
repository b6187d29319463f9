"""Instances that an engine's workers run: the rows of one machine, whoever dies, and nothing that outlives a worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from command_line import abscert, refused
from small_nets import relu_file
from stand_in import COMMAND, write_list

from abscert_plugin.cli import bench as command
from abscert_plugin.engines.job import Answers, Job, Task, TaskAnswer, answered
from abscert_plugin.errors import ConfigError
from abscert_plugin.instances import running
from abscert_plugin.instances.bench import Bench
from abscert_plugin.instances.elsewhere import BenchQuestion, decided_elsewhere, own_versions
from abscert_plugin.instances.listing import read_lists
from abscert_plugin.instances.rows import Result, Row, read_results
from abscert_plugin.records import RECORDS

QUERIES = ["sat", "unsat", "unknown", "refuses", "dies", "babbles"]


@dataclass
class Here:
    """An engine whose only worker is this process, which answers the last task first, and dies of some.

    Args:
        deadly: part of the names of tasks of which every worker dies.
        change: what becomes of a job's shared part on its way.
    """

    deadly: str = "\0"
    change: Callable[[bytes], bytes] = bytes
    cpus: int = 1

    def check(self) -> None:
        """Everything is there."""

    def __str__(self) -> str:
        return "this process"

    def hand_out(self, job: Job, tasks: Iterable[Task], on_look: Callable[[], object]) -> Answers:
        """Yield answers."""
        for task in [*tasks][::-1]:
            if self.deadly in task.name:
                yield TaskAnswer(task.place, loss="its worker died 3 times: why")
            else:
                yield answered(lambda: Job(job.opens, self.change(job.shared)).opened(), task)
            on_look()


def ignore(row: Row, was_there: bool) -> None:
    """Take no note of a row."""


def timeless(rows: Iterable[Row]) -> list[Row]:
    return [msgspec.structs.replace(row, seconds=0.0, cpu_seconds=None) for row in rows]


def test_rows_and_files_are_those_of_one_machine(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    asked = read_lists([write_list(folder, QUERIES)])
    one, _ = Bench(asked, command=COMMAND).run(tmp_path / "one", ignore)
    many, info = Bench(asked, command=COMMAND, engine=Here()).run(tmp_path / "many", ignore)
    assert timeless(many) == timeless(one)
    name = Path("tiny/net_sat.counterexample")
    assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert info.device.endswith("; this process, threads each: 1")


def test_an_instance_of_which_workers_die_is_an_error_and_costs_no_other(tmp_path: Path) -> None:
    asked, told = read_lists([write_list(tmp_path / "tiny", QUERIES)]), []
    bench = Bench(asked, command=COMMAND, engine=Here(deadly="_unsat"))

    def stop(row: Row, was_there: bool) -> None:
        told.append(row.query)
        if row.query == "unsat.vnnlib" and not was_there:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(tmp_path / "out", stop)
    stored = read_results(tmp_path / "out" / RECORDS)
    assert [(row.result, row.reason) for row in stored][-1] == (Result.ERROR, "its worker died 3 times: why")
    rows, _ = Bench(asked, command=COMMAND).run(tmp_path / "out", ignore)  # gone on with by this process
    assert len(read_results(tmp_path / "out" / RECORDS)) == len(rows) == len(QUERIES)
    assert [row.result for row in rows][:3] == [Result.SAT, Result.ERROR, Result.UNKNOWN]


def test_a_network_comes_with_its_tensors_and_what_is_said_of_files_names_those_of_the_list(tmp_path: Path) -> None:
    relu_file(tmp_path / "net.onnx", 2)
    model = onnx.load_model(str(tmp_path / "net.onnx"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "unused"))
    onnx.save_model(
        model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="net.data", size_threshold=0
    )
    (tmp_path / "q.vnnlib").touch()
    (tmp_path / "instances.csv").write_text("net.onnx,q.vnnlib,9\n")
    listing = "import os,sys; sys.exit('error: '+sys.argv[-3].split('=',1)[1]+' '+' '.join(sorted(os.listdir({}))))"
    source = listing.format("os.path.dirname(sys.argv[-3].split('=',1)[1])")
    asked = BenchQuestion(own_versions(), None, (sys.executable, "-c", source))
    ((_, ran),) = decided_elsewhere(Here(), asked, read_lists([tmp_path]))
    assert ran.row.reason == f"{tmp_path / 'net.onnx'} net.data net.onnx"


def test_a_worker_with_other_versions_is_refused(tmp_path: Path) -> None:
    own = own_versions()["numpy"].encode()
    engine = Here(change=lambda shared: shared.replace(own, b"9" * len(own)))
    asked = read_lists([write_list(tmp_path / "tiny", QUERIES)])
    with pytest.raises(ConfigError, match=r"is not as the one that sends instances \(versions.numpy"):
        Bench(asked, command=COMMAND, engine=engine).run(tmp_path / "out", ignore)
    assert not read_results(tmp_path / "out" / RECORDS)


def test_the_command_hands_out_and_refuses_options_without_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Bench", partial(Bench, command=COMMAND))
    write_list(tmp_path / "tiny", QUERIES)
    asked = ("bench", tmp_path / "tiny", "--out", tmp_path / "out")
    assert "expected --workers of at least 1" in refused(*asked, "--engine", "processes", "--workers", 0)
    assert "no Ray cluster at 127.0.0.1:9" in refused(*asked, "--engine", "ray", "--address", "127.0.0.1:9")
    assert not (tmp_path / "out").exists()
    facts = abscert(*asked, "--engine", "processes", "--workers", 2, "--json").json
    assert facts["results"] == {"sat": 1, "unsat": 1, "unknown": 1, "timeout": 0, "error": 3}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_what_a_worker_has_started_ends_with_it(tmp_path: Path) -> None:
    told, head = tmp_path / "pid", running.COMMAND[-1].split(";", maxsplit=2)[:2]
    source = ";".join([*head, f" import time; open({str(told)!r}, 'w').write('x'); time.sleep(60)"])
    listed = write_list(tmp_path / "tiny", ["unsat"])
    words = f"""
from pathlib import Path
from abscert_plugin.instances.listing import read_lists
from abscert_plugin.instances.running import run_instance
run_instance(*read_lists([Path({str(listed)!r})]), command=({sys.executable!r}, "-c", {source!r}))
"""
    with subprocess.Popen([sys.executable, "-c", words]) as runner:
        until = time.monotonic() + 60
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.02)
        (child,) = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == runner.pid]
        os.kill(runner.pid, signal.SIGKILL)
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.02)


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
