"""Interleaved timings: what is timed is the real thing, rounds are whole, and ratios are of one round."""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import abscert, disk_with_room_for, refused

from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import RecordError
from compare.plans.plan import read_plan
from compare.plans.planned_run import Run
from compare.results.stored_run import RUNS
from compare.timing import workload
from compare.timing.rounds import Amounts, RoundLog, order_of, timings
from compare.timing.time_records import ROWS, SETTING, TIMES, Kind, Setting, TimedBlock, read_times

PLAN = """
title = "small"
[[grid]]
data = ["digits"]
network = ["fc-3-code"]
method = ["ibp", "crown-ibp", "abstrain", "plain"]
radius = ["0.05"]
cells = [2]
batch_size = 64
epochs = 1
timeout = 0.1
limit = 20
"""
SMALL = ("--rounds", 3, "--steps", 2, "--images", 30)
COMMAND = "from abscert_plugin.cli import main; main()"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def timed(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("timed")
    abscert("compare", "times", plan, "--out", results, *SMALL, "--json")
    return results


def folder_of(results: Path) -> Path:
    (folder,) = (results / TIMES).iterdir()
    return folder


def rows_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder_of(results) / ROWS).read_text().splitlines()]


def run_of(method: str, **options: Any) -> Run:
    cells = 2 if method in ("abstrain", "reachable") else None
    return Run(data="digits", network="fc-3-code", method=method, radius="0.05", cells=cells, batch_size=64, **options)


def setting_of(*methods: str, **options: Any) -> Setting:
    subjects = tuple(workload.subject_of(run_of(method)) for method in methods)
    facts: dict[str, Any] = {
        "seed": 0,
        "steps": 4,
        "images": 10,
        "search_images": 0,
        "training_images": 640,
        "test_images": 100,
    }
    facts |= options
    return Setting(data="digits", network="fc-3-code", subjects=subjects, device="here", versions={}, schema=1, **facts)


def block(number: int, method: str, kind: Kind, seconds: float, count: int) -> TimedBlock:
    return TimedBlock(
        round=number, place=0, method=method, kind=kind, count=count, seconds=seconds, load=None, schema=1
    )


def kept(results: Path, setting: Setting, rows: list[TimedBlock]) -> Path:
    log = RoundLog(results / TIMES / setting.key, setting)
    log.append(rows)
    return results / TIMES / setting.key / ROWS


# --- rounds and rows --------------------------------------------------------------------------------------------------


def test_every_round_has_every_block_once(timed: Path) -> None:
    rows = rows_of(timed)
    wanted = {(method, "training") for method in ("ibp", "crown-ibp", "abstrain", "plain")}
    wanted |= {(method, "verification") for method in ("ibp", "crown-ibp", "abstrain")}  # plain has no bound
    for number in range(3):
        blocks = Counter((row["method"], row["kind"]) for row in rows if row["round"] == number)
        assert blocks == Counter(wanted)
    assert len(rows) == 3 * len(wanted)
    assert all(row["seconds"] > 0 and row["count"] == {"training": 2, "verification": 30}[row["kind"]] for row in rows)


def test_methods_take_turns_in_the_order_of_the_seed(timed: Path) -> None:
    setting = msgspec.convert(json.loads((folder_of(timed) / SETTING).read_text()), Setting)
    names = [subject.run.method_title for subject in setting.subjects]
    rows = rows_of(timed)
    for number in range(3):
        turns = list(dict.fromkeys(row["method"] for row in rows if row["round"] == number))
        assert turns == [names[which] for which in order_of(setting, number)]
    orders = {order_of(setting, number) for number in range(20)}
    assert len(orders) > 5
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    other = msgspec.structs.replace(setting, seed=1)
    assert [order_of(setting, number) for number in range(20)] != [order_of(other, number) for number in range(20)]


def test_rounds_that_are_there_stay_and_more_are_added(plan: Path, timed: Path) -> None:
    before = (folder_of(timed) / ROWS).read_bytes()
    facts = abscert("compare", "times", plan, "--out", timed, *SMALL, "--json").json
    assert (folder_of(timed) / ROWS).read_bytes() == before
    assert {row["rounds"] for row in facts["times"]} == {3}
    assert facts["times"] == json.loads(msgspec.json.encode(read_times(timed)))


def test_another_configuration_is_kept_apart(plan: Path, tmp_path: Path) -> None:
    amounts = (Amounts(1, 2, 30, 0), Amounts(9, 2, 30, 0), Amounts(1, 3, 30, 0), Amounts(1, 2, 31, 0))
    found = [timings(read_plan(str(plan)).runs(), some, tmp_path, None)[0].folder.name for some in amounts]
    assert found[0] == found[1]  # more rounds of the same
    assert len(set(found)) == 3


def test_an_epoch_has_the_images_of_its_protocol(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_text('protocol = "paper"' + PLAN)
    sizes = {split: len(load_data("digits", split)) for split in (Split.TRAIN, Split.VALIDATION)}
    images = []
    for which in (plan, path):
        (found,) = timings(read_plan(str(which)).runs(), Amounts(1, 1, 1, 0), tmp_path, None)
        images.append(found.setting.training_images)
    assert images == [sizes[Split.TRAIN], sizes[Split.TRAIN] + sizes[Split.VALIDATION]]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_row_twice(tmp_path: Path) -> None:
    draw = random.Random(5)
    options = ["--out", str(tmp_path), "--rounds", "8", "--steps", "2", "--images", "10"]
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace('"crown-ibp", ', ""))
    command = [sys.executable, "-c", COMMAND, "compare", "times", str(path), *options]
    for _ in range(2):
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        there = sum(path.stat().st_size for path in tmp_path.glob(f"{TIMES}/*/{ROWS}"))
        while worker.poll() is None:
            if sum(path.stat().st_size for path in tmp_path.glob(f"{TIMES}/*/{ROWS}")) > there:
                time.sleep(draw.random() / 10)
                os.kill(worker.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        worker.wait()
    whole = rows_of(tmp_path)
    with (folder_of(tmp_path) / ROWS).open("ab") as file:
        file.write(b'{"round":7,"place":0,"meth')  # what the kill of a slow disk leaves
    assert {row.rounds for row in read_times(tmp_path)} == {len({row["round"] for row in whole})}
    abscert("compare", "times", path, *options)
    rows = rows_of(tmp_path)
    assert rows[: len(whole)] == whole
    assert {path.name for path in folder_of(tmp_path).iterdir()} == {ROWS, SETTING}  # no scratch is left
    assert Counter(row["round"] for row in rows) == Counter(dict.fromkeys(range(8), 5))
    assert max(Counter((row["round"], row["method"], row["kind"]) for row in rows).values()) == 1


def test_a_round_that_is_not_whole_counts_for_nothing_and_is_dropped(tmp_path: Path) -> None:
    setting = setting_of("abstrain", "plain")
    rows = [
        block(0, "abstrain", Kind.TRAINING, 1.0, 4),
        block(0, "abstrain", Kind.VERIFICATION, 1.0, 10),
        block(0, "plain", Kind.TRAINING, 2.0, 4),
        block(1, "plain", Kind.TRAINING, 5.0, 4),
    ]
    path = kept(tmp_path, setting, rows)
    assert {row.rounds for row in read_times(tmp_path)} == {1}
    assert RoundLog(path.parent, setting).rounds == {0}
    assert len(path.read_bytes().splitlines()) == 3


# --- what they come to ------------------------------------------------------------------------------------------------


def test_ratios_are_of_one_round_and_seconds_of_an_epoch_and_the_test_set(tmp_path: Path) -> None:
    setting = setting_of("abstrain", "ibp")
    own = [(1.0, 0.5), (10.0, 5.0), (2.0, 1.0), (4.0, 0.1), (3.0, 0.2)]  # training and verification, round by round
    others = [(4.0, 5.0), (20.0, 10.0), (10.0, 10.0), (12.0, 1.0), (3.0, 8.0)]
    rows = []
    for number, (first, second) in enumerate(zip(own, others, strict=True)):
        for method, (training, verification) in (("ibp", second), ("abstrain", first)):
            rows.append(block(number, method, Kind.TRAINING, training, 4))
            rows.append(block(number, method, Kind.VERIFICATION, verification, 10))
    kept(tmp_path, setting, rows)
    found = {(row.method, row.kind): row for row in read_times(tmp_path)}
    assert set(found) == {(name, kind) for name in ("abstrain", "ibp") for kind in Kind if kind is not Kind.SEARCH}

    epochs = [seconds / 4 * 10 for seconds, _ in others]  # 640 images in batches of 64
    passes = [seconds / 10 * 100 for _, seconds in others]
    assert found["ibp", Kind.TRAINING].seconds == pytest.approx(statistics.median(epochs))
    assert found["ibp", Kind.VERIFICATION].seconds == pytest.approx(statistics.median(passes))
    sums = [epoch + one for epoch, one in zip(epochs, passes, strict=True)]
    assert found["ibp", Kind.TOTAL].seconds == pytest.approx(statistics.median(sums))
    ratios = sorted(b / a for (a, _), (b, _) in zip(own, others, strict=True))  # 1, 2, 3, 4, 5
    trained = found["ibp", Kind.TRAINING]
    assert (trained.ratio_low, trained.ratio, trained.ratio_high) == pytest.approx((ratios[1], ratios[2], ratios[3]))
    assert trained.ratio != pytest.approx(statistics.median(epochs) / found["abstrain", Kind.TRAINING].seconds)
    totals = [(2.5 * b + 10 * d) / (2.5 * a + 10 * c) for (a, c), (b, d) in zip(own, others, strict=True)]
    assert found["ibp", Kind.TOTAL].ratio == pytest.approx(statistics.median(totals))
    assert found["abstrain", Kind.TRAINING].ratio == 1
    claims = {(row.method, row.kind): row.claim for row in found.values()}
    assert claims["ibp", Kind.TRAINING] is None
    assert claims["ibp", Kind.VERIFICATION] == "ball"
    assert claims["abstrain", Kind.VERIFICATION] == "cell"
    assert {row.rounds for row in found.values()} == {5}


def test_without_abstrain_there_are_no_ratios_and_a_line_says_so(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace('"ibp", "crown-ibp", "abstrain", "plain"', '"ibp", "plain"'))
    result = abscert("compare", "times", path, "--out", tmp_path / "results", "--rounds", 1, "--steps", 1)
    assert "no abstrain" in result.err
    assert {row.ratio for row in read_times(tmp_path / "results")} == {None}


def test_a_folder_without_timings_has_none(tmp_path: Path) -> None:
    assert read_times(tmp_path) == ()
    setting = setting_of("ibp")
    RoundLog(tmp_path / TIMES / setting.key, setting)  # killed before its first round
    assert read_times(tmp_path) == ()


def test_reading_takes_no_torch(timed: Path) -> None:
    code = """
import sys
from pathlib import Path
from compare.timing.time_records import read_times
assert len(read_times(Path(sys.argv[1]))) == 10
assert not {"torch", "auto_LiRPA", "onnxruntime"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(timed)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- searches, on trained networks alone ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_takes_the_networks_of_the_plan_and_no_others(small_results: Path, tmp_path: Path) -> None:
    plan = small_results / "plan.toml"
    search = ("--rounds", 1, "--steps", 1, "--images", 5, "--search-images", 3)
    assert "run the plan there first" in refused("compare", "times", plan, "--out", tmp_path, *search)
    shutil.copytree(small_results / "results", tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in (tmp_path / RUNS).rglob("*") if path.is_file()}
    abscert("compare", "times", plan, "--out", tmp_path, *search)
    found = [row for row in read_times(tmp_path) if row.kind is Kind.SEARCH]
    assert {row.method for row in found} == {"ibp", "abstrain"}
    assert {row.claim for row in found} == {"ball"}
    assert before == {path: path.read_bytes() for path in (tmp_path / RUNS).rglob("*") if path.is_file()}


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rounds", 0), "--rounds of at least 1, got 0"),
        (("--images", 0), "--images of at least 1, got 0"),
        (("--steps", -1), "--steps of at least 1, got -1"),
        (("--search-images", -1), "--search-images of at least 0, got -1"),
    ],
)
def test_amounts_without_meaning_are_refused(
    plan: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    assert message in refused("compare", "times", plan, "--out", tmp_path / "results", *options)
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_timed_is_refused(plan: Path, tmp_path: Path) -> None:
    assert "paper-table3" in refused("compare", "times", "nothing", "--out", tmp_path)
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace("[2]", "[2, 3]"))
    assert "got abstrain 2 times" in refused("compare", "times", path, "--out", tmp_path)
    (tmp_path / "file").write_text("kept")
    assert "cannot write" in refused("compare", "times", plan, "--out", tmp_path / "file", *SMALL)


def test_records_of_another_schema_are_refused(tmp_path: Path) -> None:
    setting = setting_of("plain")
    path = kept(tmp_path, setting, [block(0, "plain", Kind.TRAINING, 1.0, 4)])
    good, content = path.read_bytes(), (path.parent / SETTING).read_text()
    for bad in (good.replace(b'"schema":1', b'"schema":2'), b"{}\n", b"\xff\n", good.replace(b'"load"', b'"lode"')):
        path.write_bytes(bad)
        with pytest.raises(RecordError, match="line 1: expected a timing of schema 1"):
            read_times(tmp_path)
        with pytest.raises(RecordError, match="line 1"):
            RoundLog(path.parent, setting)
        assert path.read_bytes() == bad  # nothing is lost
    path.write_bytes(good)
    (path.parent / SETTING).write_text(content.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RecordError, match=r"not a times.json of schema 1"):
        read_times(tmp_path)


def test_a_full_disk_loses_no_round_that_is_there(tmp_path: Path) -> None:
    setting = setting_of("plain")
    path = kept(tmp_path, setting, [block(0, "plain", Kind.TRAINING, 1.0, 4)])
    before = path.read_bytes()
    log = RoundLog(path.parent, setting)
    with disk_with_room_for(len(before) + 20), pytest.raises(RecordError, match="the rounds before are kept"):
        log.append([block(1, "plain", Kind.TRAINING, 1.0, 4)])
    assert read_times(tmp_path)[0].rounds == 1
    assert RoundLog(path.parent, setting).rounds == {0}
    assert path.read_bytes() == before


def test_the_shipped_plan_has_the_settings_of_the_paper() -> None:
    runs = read_plan("paper-table3").runs()
    assert Counter((run.data, run.network) for run in runs) == {
        ("mnist", "dm-small"): 4,
        ("mnist", "dm-medium"): 4,
        ("mnist", "dm-large"): 4,
        ("cifar10", "dm-small"): 3,
        ("cifar10", "dm-medium"): 3,
        ("cifar10", "dm-large"): 3,
    }
