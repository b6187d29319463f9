"""What is expected of a run before it is carried out: told by the entries of its data set and network, or unknown."""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import msgspec
import pytest
import torch
from command_line import abscert

from abscert_plugin.data import DATA_SETS, DataSetEntry, Split, load_data
from abscert_plugin.data import table as data_table
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import InputShape
from abscert_plugin.plugins import Registry
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.methods import METHODS
from compare.plans import expected_time, pace
from compare.plans.expected_time import expected_seconds
from compare.plans.feasibility import check_run
from compare.plans.plan import read_plan, shipped_plans
from compare.plans.planned_run import Run
from compare.results.stored_run import StoredRun, stored_runs

RECORDS = Path(__file__).parents[3] / "benchmarks" / "records"
RUN = Run(data="digits", network="fc-3", method="ibp", radius="0.1", certify=("0.1",))
TINY = DataSetEntry("tiny", "a data set of another package", (), DATA_SETS["digits"].load, (1, 8, 8), 100, 20)
SECRET = replace(TINY, name="secret", shape=None, training_images=None, test_images=None)
PLAN = 'title = "new"\n[[grid]]\ndata = ["NAME"]\nnetwork = ["fc-3"]\nmethod = ["ibp"]\nradius = ["0.1"]\n'


def register(monkeypatch: pytest.MonkeyPatch, *entries: DataSetEntry) -> None:
    """Put entries into the table of data sets, as another package does."""
    table: Mapping[str, DataSetEntry] = MappingProxyType({**DATA_SETS, **{entry.name: entry for entry in entries}})
    monkeypatch.setattr(data_table, "DATA_SETS", table)


def made_up(network: str, shape: InputShape, takes_intervals: bool) -> float:
    """Return a pace that hangs on no clock."""
    del takes_intervals
    return {"cnn-2layer": 1e-4}.get(network, 1e-3) * math.prod(shape) / 784


@pytest.mark.parametrize("name", shipped_plans())
def test_shipped_plans_have_runs_and_an_expected_time(name: str) -> None:
    plan = read_plan(name)
    assert plan.title
    runs = plan.runs()
    assert runs
    assert all(0 < (expected_seconds(run, made_up, plan.folders) or 0) < 1e9 for run in runs)


def test_more_epochs_and_larger_networks_are_expected_to_take_longer() -> None:
    times = [
        expected_seconds(msgspec.structs.replace(RUN, data="mnist", network=network, epochs=epochs), made_up) or 0
        for network, epochs in (("cnn-2layer", 2), ("cnn-2layer", 20), ("dm-large", 20))
    ]
    assert times == sorted(times)
    assert times[0] < times[1] < times[2]


def test_epochs_that_a_plan_leaves_out_are_the_data_set_s_own() -> None:
    run = msgspec.structs.replace(RUN, data="cifar10", network="dm-small", epochs=None)
    assert expected_seconds(run, made_up) == expected_seconds(msgspec.structs.replace(run, epochs=30), made_up)


def test_a_new_data_set_is_judged_by_its_own_shape_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, TINY)
    run = msgspec.structs.replace(RUN, data="tiny", epochs=100, claims=())
    check_run(run)
    whole = expected_seconds(msgspec.structs.replace(run, data="digits"), made_up)
    own = expected_seconds(run, made_up)
    assert own is not None
    assert whole is not None
    assert (own - 10) / (whole - 10) == pytest.approx(100 / 1295, rel=1e-6)  # the same network, by images
    with pytest.raises(ConfigError, match="at least 63x63 pixels"):  # 224 x 224 would do
        check_run(msgspec.structs.replace(run, network="alexnet"))
    check_run(msgspec.structs.replace(run, network="alexnet", method="plain", image_size=64))


@pytest.mark.parametrize("data", ["secret", "folder"])
def test_where_nothing_is_told_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    register(monkeypatch, SECRET)
    for network in ("fc-3", "alexnet", "resnet18"):
        run = msgspec.structs.replace(RUN, data=data, network=network)
        check_run(run)
        assert expected_seconds(run) is None
    with pytest.raises(ConfigError, match="expected a network: one of"):
        check_run(msgspec.structs.replace(RUN, data=data, network="fc-33"))
    with pytest.raises(ConfigError, match="expected an activation: one of"):
        check_run(msgspec.structs.replace(RUN, data=data, activation="rleu"))


def test_the_command_says_that_the_time_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace("NAME", "folder"))
    done = abscert("compare", "plan", path, "--out", tmp_path / "out")
    assert "unknown" in done.out
    assert "and 1 runs of data whose size is not known before" in done.out
    told = abscert("compare", "plan", path, "--out", tmp_path / "out", "--json")
    assert told.json["estimated_seconds_left"] is None


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_what_an_entry_tells_is_what_is_loaded(name: str, request: pytest.FixtureRequest) -> None:
    folder = None if name == "digits" else request.getfixturevalue("mnist_dir")
    train, test = (load_data(name, split, folder) for split in (Split.TRAIN, Split.TEST))
    entry = DATA_SETS[name]
    assert (entry.shape, entry.training_images, entry.test_images) == (train.shape, len(train), len(test))
    assert test.shape == entry.shape


def test_an_image_size_is_that_of_the_shape() -> None:
    assert DATA_SETS["imagenet"].image_shape(None) == (3, 224, 224)
    assert DATA_SETS["imagenet"].image_shape(64) == (3, 64, 64)
    assert DATA_SETS["folder"].image_shape(64) is None  # of how many channels is not known


def test_a_method_that_is_registered_tells_what_its_steps_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [replace(METHODS["ibp"], name=f"times-{cost}", step_cost=cost) for cost in (2.0, 20.0, 40.0)]
    monkeypatch.setattr(expected_time, "METHODS", Registry(MethodEntry, entries, (), "method"))
    runs = [msgspec.structs.replace(RUN, data="mnist", method=entry.name) for entry in entries]
    first, second, third = (expected_seconds(run, made_up) or 0 for run in runs)
    assert third - second == pytest.approx((second - first) * 20 / 18)


def test_a_method_that_does_not_tell_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(METHODS["ibp"], name="silent", step_cost=None)
    table = Registry(MethodEntry, [entry], (), "method")
    for module in (expected_time, pace):
        monkeypatch.setattr(module, "METHODS", table)
    run = msgspec.structs.replace(RUN, method="silent", epochs=10**6, claims=())
    assert (expected_seconds(run, lambda *_: 0.0) or 0) > 100  # a million epochs take more than nothing
    assert pace.method_pace("silent", (), "fc-3", (1, 8, 8), None, run.trained_for) is not None


@pytest.mark.parametrize(("several", "one"), [(3.0, 1.0), (1.0, 1.5)])
def test_threads_that_wait_for_a_core_are_left_out(monkeypatch: pytest.MonkeyPatch, several: float, one: float) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0]))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    network = torch.nn.Linear(1, 1)

    def loss(count: int, _: float) -> torch.Tensor:
        clock[0] += count * 1e-4 * (several if torch.get_num_threads() > 1 else one)
        return network(torch.ones(1, 1)).sum()

    try:
        assert pace._pace(network, loss) == pytest.approx(1e-4 * min(several, one))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_whole_search_of_a_small_network_is_not_taken_for_its_timeout() -> None:
    run = msgspec.structs.replace(RUN, method="plain", timeout=1000.0)
    assert (expected_seconds(run, lambda *_: 1e-6) or 0) < 60


def test_estimates_are_those_of_the_records() -> None:
    """With the pace of the records' own plain trainings; not all others ran on that machine, or undisturbed."""
    epochs = 10
    found = [
        stored for stored in stored_runs(RECORDS) if (stored.run.network, stored.run.epochs) == ("cnn-2layer", epochs)
    ]
    trainings: dict[str, list[tuple[Run, float]]] = {}  # those that differ in their seed alone
    for stored in found:
        if stored.run.protocol == "sound":
            key = msgspec.structs.replace(stored.run, seed=0).key
            trainings.setdefault(key, []).append((stored.run, statistics.fmean(_epoch_seconds(stored))))
    known = [min(some, key=lambda pair: pair[1]) for some in trainings.values()]  # the one that was disturbed least
    pace_then = statistics.median(seconds for run, seconds in known if run.method == "plain") / 55_000
    off = []
    for run, seconds in known:
        expected = expected_seconds(msgspec.structs.replace(run, claims=()), lambda *_: pace_then) or 0
        off.append(math.log2((expected - 10) / epochs / seconds))
    assert len(off) >= 22
    assert statistics.median(map(abs, off)) < 0.5
    assert sum(abs(one) <= 1 for one in off) >= 0.9 * len(off)  # within a factor of two


def _epoch_seconds(stored: StoredRun) -> list[float]:
    rows = (stored.folder / "training" / "history.jsonl").read_text().splitlines()
    return [float(json.loads(row)["seconds"]) for row in rows]
