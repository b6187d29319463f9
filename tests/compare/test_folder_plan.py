"""A plan on a folder of images: the runner streams, trains, exports and verifies at 224 x 224."""

import json
from pathlib import Path

import pytest
from command_line import abscert
from image_folder import GROUNDS, write_image_folder

from abscert_plugin.records import read_records
from compare.results import RUNS

PLAN = """
title = "a folder"
protocol = "{protocol}"
[[grid]]
data = ["folder"]
network = ["inception-v1"]
method = ["abstrain"]
radius = ["1/1000"]
radius_scale = "training"
cells = [4]
epochs = 1
batch_size = 8
image_size = 224
claims = ["cell", "ball"]
ball_limit = 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["sound", "paper"])
def test_a_plan_on_a_folder_is_trained_and_verified(tmp_path: Path, protocol: str) -> None:
    images = write_image_folder(tmp_path / "images", train=2, val=1)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(protocol=protocol))
    results = tmp_path / "results"
    facts = abscert("compare", "run", plan, "--data-dir", images, "--out", results, "--json").json
    assert (facts["states"], facts["failures"]) == ({"done": 1}, {})
    (run,) = (results / RUNS).iterdir()
    trained = json.loads((run / "training" / "run.json").read_text())
    assert trained["configuration"]["image_shape"] == [3, 224, 224]
    # the paper trains on all images of train/, and chooses its epoch on those of val/
    count = 2 * len(GROUNDS)
    assert trained["data"]["images"] == (count if protocol == "paper" else count - 1)
    assert trained["configuration"].get("chosen_on") == ("test" if protocol == "paper" else None)
    cells = read_records(run / "verify-cell" / "records.jsonl")
    balls = read_records(run / "verify-ball-1_1000" / "records.jsonl")
    assert [(row.index, row.claim) for row in cells] == [(0, "cell"), (1, "cell"), (2, "cell")]
    assert [row.claim for row in balls] == ["ball", "ball"]
    # the radius is 1/2000 in pixels: no level of 255 is as near to an edge of 4 cells
    assert [row.verdict for row in balls] == [row.verdict for row in cells[:2]]
