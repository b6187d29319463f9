"""The engine `ray` on a real cluster whose nodes are killed, and in front of clusters that are not there."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from command_line import abscert, refused
from msgspec.structs import replace
from ray_cluster import Cluster, ray_cluster
from small_plan import PLAN, outcome

import abscert_plugin
from abscert_plugin.artifact.export import export
from abscert_plugin.data import Split, load_data
from abscert_plugin.engines import ray_cluster as ray_cluster_engine
from abscert_plugin.grid import Grid
from abscert_plugin.instances.bench import Bench
from abscert_plugin.instances.listing import read_lists
from abscert_plugin.instances.rows import read_results
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.records import read_records
from compare.plans.plan import read_plan
from compare.results.stored_run import DONE, FAILURE, RUNS, stored_runs_of
from compare.running import engines
from compare.running.worker import LOCK, AskedRun, abscert_command, carrying_out, packed

CHECKPOINT = "training/checkpoint.json"
HISTORY = "training/history.jsonl"
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a plan of two runs that are long enough to be killed in the middle."""
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    path.write_text(PLAN.replace("epochs = 3", "epochs = 30"))
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as found:
        yield found


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start `abscert compare run`, and kill it on leaving."""
    command = abscert_command("run", *map(str, arguments), "--engine", "ray", "--json")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a job in the background of a shell, as tests may be, ignores Ctrl-C, and so would what it starts
    with subprocess.Popen(command, **pipes, preexec_fn=_heed_interrupts) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    until = time.monotonic() + 180
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it did not happen within three minutes"
        time.sleep(0.02)


def told(err: str) -> list[str]:
    """Return the lines on stderr but those that tell how far it is, of which a busy machine writes more."""
    return [line for line in err.splitlines() if not line.startswith(("runs:", " "))]


def is_trained(folder: Path | None) -> bool:
    """Return whether a run has trained for an epoch."""
    return folder is not None and (folder / CHECKPOINT).exists()


def history(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / CHECKPOINT).read_text())["history"]
    return rows


@pytest.mark.slow
@needs_ray
@needs_proc
def test_ctrl_c_stops_every_run_in_one_line(plan: Path, cluster: Cluster, tmp_path: Path) -> None:
    with running(plan, "--out", tmp_path, "--address", cluster.address) as stopped:
        wait_for(lambda: list((tmp_path / RUNS).glob(f"*/{LOCK}")), stopped)
        stopped.send_signal(signal.SIGINT)
        out, err = stopped.communicate(timeout=30)
    assert (stopped.returncode, out) == (130, "")
    assert told(err) == ["stopped; the same command goes on with the plan"]
    wait_for(lambda: not any(node.run_folder() for node in cluster.nodes))
    assert not list((tmp_path / RUNS).glob(f"*/{FAILURE}"))


@pytest.mark.slow
@needs_ray
@needs_proc
def test_images_of_a_node_that_dies_are_decided_elsewhere_and_rows_are_those_of_one_machine(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it for a task with one CPU
    config = NetworkConfig("fc-3-code", Activation.RELU, (1, 8, 8), 10)
    probes = np.zeros((1, 1, 8, 8), dtype=np.float32)
    deploy = export(config.build(3), config, Grid(3), "none", probes, tmp_path / "training").deploy
    data = load_data("digits", Split.TEST).first(30)
    asked: dict[str, Any] = {"radius": 0.03, "timeout": 60, "batch_size": 3}
    _, other = cluster.both()
    killed: list[str] = []

    def kill_at_work() -> None:
        while not killed:
            killed.extend(line for line in other.processes().values() if line.startswith("ray::images"))
        other.kill()

    killer = Thread(target=kill_at_work)
    killer.start()
    engine = ray_cluster_engine.Cluster(cluster.address)
    abscert_plugin.verify(deploy, data, engine=engine, out=tmp_path / "many", **asked)
    killer.join()
    abscert_plugin.verify(deploy, data, out=tmp_path / "one", **asked)
    many, one = (
        [replace(row, seconds=0.0) for row in read_records(tmp_path / name / "records.jsonl")]
        for name in ("many", "one")
    )
    assert [row.index for row in many] == data.index.tolist()
    assert many == one
    assert {row.verdict for row in many} >= {"certified", "falsified"}


@pytest.mark.slow
@needs_ray
@needs_proc
def test_instances_of_a_node_that_dies_are_decided_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    names = [f"q{place}" for place in range(8)]
    for name in ("net.onnx", *(f"{name}.vnnlib" for name in names)):
        (tmp_path / name).touch()
    (tmp_path / "instances.csv").write_text("".join(f"net.onnx,{name}.vnnlib,60\n" for name in names))
    instances = read_lists([tmp_path])
    command = (sys.executable, "-c", "import time; time.sleep(0.5); print('unsat')")
    _, other = cluster.both()
    killed: list[str] = []

    def kill_at_work() -> None:
        while not killed:
            killed.extend(line for line in other.processes().values() if line.startswith("ray::net_q"))
        other.kill()

    killer = Thread(target=kill_at_work)
    killer.start()
    engine = ray_cluster_engine.Cluster(cluster.address)
    rows, info = Bench(instances, command=command, engine=engine).run(tmp_path / "out", lambda *_: None)
    killer.join()
    assert [(row.query, row.result) for row in rows] == [(f"{name}.vnnlib", "unsat") for name in names]
    assert len(read_results(tmp_path / "out" / "records.jsonl")) == len(names)
    assert info.device.endswith("; a Ray cluster, threads each: 1")


@pytest.mark.slow
@needs_ray
@needs_proc
def test_nothing_is_lost_or_done_twice_when_a_node_and_a_process_are_killed(
    plan: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    head, other = cluster.both()
    with running(plan, "--out", results, "--address", cluster.address) as disturbed:
        wait_for(lambda: is_trained(other.run_folder()), disturbed)
        folder, process = other.run()
        before = history(folder)
        other.kill(spare=" compare work ")  # the node is dead, and what the run's process does is its own affair
        wait_for(lambda: not Path(f"/proc/{process}").exists())
        assert not (folder / DONE).exists()
        wait_for(lambda: head.run_folder() == folder, disturbed)  # it goes on there,
        os.kill(head.run()[1], signal.SIGKILL)  # and is killed once more
        out, err = disturbed.communicate(timeout=120)
    assert disturbed.returncode == 0, err
    assert json.loads(out)["states"] == {"done": 2}
    assert [line.split(":")[0] for line in told(err)] == ["done", "done"]  # nothing of what Ray has to say
    after = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    assert after[: len(before)] == before  # with the times: no epoch before the kill was trained again

    for records in (results / RUNS).glob("*/verify-*/records.jsonl"):
        indices = [row.index for row in read_records(records)]
        assert len(indices) == len(set(indices)) == 30
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it for a task with one CPU
    abscert("compare", "run", plan, "--out", tmp_path / "local")
    assert outcome(results) == outcome(tmp_path / "local")


@pytest.mark.slow
@needs_ray
@needs_proc
def test_a_run_that_fails_on_a_node_is_recorded_with_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    plan = tmp_path / "failing.toml"
    plan.write_text(
        PLAN.replace('["ibp", "abstrain"]', '["plain"]').replace("[[grid]]", "[[grid]]\nlearning_rate = 1e30")
    )
    arguments = ("compare", "run", plan, "--out", tmp_path, "--engine", "ray", "--address", cluster.address, "--json")
    result = abscert(*arguments, status=1)
    ((key, reason),) = result.json["failures"].items()
    assert "lower --learning-rate" in reason
    assert json.loads((tmp_path / RUNS / key / FAILURE).read_text())["reason"] == reason
    (line,) = result.err.splitlines()
    assert line.startswith("failed: digits fc-3-code plain")


def refusal(plan: Path, out: Path, *arguments: object) -> str:
    return refused("compare", "run", plan, "--out", out, "--engine", "ray", *arguments)


def test_without_ray_the_message_says_how_to_install_it(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'abscert-plugin[ray]'" in refusal(plan, tmp_path)


@needs_ray
def test_an_address_where_nothing_is_is_refused_at_once(plan: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    began = time.monotonic()
    assert f"no Ray cluster at {address}" in refusal(plan, tmp_path, "--address", address)
    assert time.monotonic() - began < 5


@pytest.mark.slow
@needs_ray
def test_what_listens_and_is_no_ray_is_refused_in_the_end(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster_engine, "_ANSWERS_WITHIN", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert f"no Ray cluster answers at {address}" in refusal(plan, tmp_path, "--address", address)


@pytest.mark.slow
@needs_ray
def test_auto_without_a_cluster_is_refused_in_one_line(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"nonsense-{port}")  # what Ray takes for `auto`: other clusters may be here
    told = refusal(plan, tmp_path)
    # a machine that is busy may not have Ray's own words in time
    assert "Ray cannot connect this machine to the cluster auto" in told or "no Ray cluster answers at auto" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "cloud"), "expected --engine: one of local, processes, ray; got 'cloud'"),
        (("--engine", "local", "--cpus", 2), "expected --cpus with --engine processes or ray alone"),
        (("--address", "ray://host:10001"), "expected --address auto or HOST:PORT"),
        (("--address", "local"), "expected --address auto or HOST:PORT"),
        (("--address", "host:99999"), "expected --address auto or HOST:PORT"),
        (("--cpus", 0), "expected --cpus of at least 1"),
        (("--gpus", 1.5), "expected --gpus from 0 to 1, or a whole number"),
        (("--gpus", -1), "expected --gpus from 0 to 1, or a whole number"),
        (("--gpus", "nan"), "expected --gpus from 0 to 1, or a whole number"),
    ],
)
def test_options_without_meaning_are_refused(
    plan: Path, tmp_path: Path, arguments: tuple[object, ...], words: str
) -> None:
    assert words in refusal(plan, tmp_path, *arguments)


@pytest.mark.slow
@needs_ray
def test_a_node_that_does_not_see_the_results_folder_says_so(plan: Path, tmp_path: Path) -> None:
    run = read_plan(str(plan)).runs()[0]
    reason = carrying_out(b"")(packed(AskedRun(run, str(tmp_path / "none" / run.key), None))).decode()
    assert "every node has to see the results folder" in reason
    assert not (tmp_path / "none").exists()


def test_a_run_that_its_node_wrote_elsewhere_is_no_run_that_is_done(plan: Path, tmp_path: Path) -> None:
    place = stored_runs_of(read_plan(str(plan)).runs(), tmp_path)[0]
    assert "as the same folder" in engines._why_not_seen(place, 0.0)
    place.folder.mkdir(parents=True)
    (place.folder / DONE).write_text("{}")
    assert engines._why_not_seen(place, 0.0) == ""
