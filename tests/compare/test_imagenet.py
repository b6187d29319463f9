"""Table 5 end to end on a small ImageNet: trained by SGD, exported, verified at 224 x 224, and put in its table."""

import csv
import io
from pathlib import Path

import pytest
from command_line import abscert
from image_folder import write_image_folder

from abscert_plugin.files import read_json
from abscert_plugin.records import read_records
from compare.results.stored_run import RUNS

PLAN = """
title = "a small table 5"
protocol = "paper"
[[grid]]
data = ["imagenet"]
network = ["alexnet"]  # auto_LiRPA cannot open it
method = ["abstrain"]
radius = ["2/255"]
radius_scale = "training"
cells = [4]
epochs = 1
certify = ["1/1000"]
claims = ["cell", "ball"]
ball_limit = 2
timeout = 500  # seconds, of which two images take few
"""


@pytest.mark.slow
def test_a_plan_on_imagenet_fills_table_5(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data" / "imagenet", train=2, val=1)
    plan, results = tmp_path / "plan.toml", tmp_path / "results"
    plan.write_text(PLAN)
    facts = abscert("compare", "run", plan, "--data-dir", tmp_path / "data", "--out", results, "--json").json
    assert (facts["states"], facts["failures"]) == ({"done": 1}, {})
    (run,) = (results / RUNS).iterdir()
    trained = read_json(run / "training" / "run.json")["configuration"]
    assert trained["image_shape"] == [3, 224, 224]
    assert (trained["training"]["optimiser"], trained["training"]["weight_decay"]) == ("sgd", 5e-4)
    verified = read_json(run / "verify-ball-1_1000" / "run.json")["configuration"]
    assert (verified["white_box"], verified["batch_size"]) == (False, 2)  # a row is to come every quarter of an hour
    cells = read_records(run / "verify-cell" / "records.jsonl")
    balls = read_records(run / "verify-ball-1_1000" / "records.jsonl")
    assert (len(cells), len(balls)) == (3, 2)
    assert {str(row.verdict) for row in (*cells, *balls)} <= {"certified", "falsified"}
    error = 100 * sum(row.verdict != "certified" for row in cells) / len(cells)
    table = abscert("compare", "tables", "--out", results, "--table", 5, "--format", "csv").out
    rows = csv.DictReader(io.StringIO(table))  # those of the claim ball follow
    ours = [row for row in rows if "claim cell" in row["table"] and row["line"] == "ours"]
    assert [float(row["epsilon"]) for row in ours] == [2 / 255, 4 / 255, 8 / 255]
    assert {float(row["AlexNet, Error (cell)"]) for row in ours} == {round(error, 2)}
