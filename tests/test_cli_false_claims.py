"""What `verify` and `check` say is no more than was shown: of other arithmetics, other images and former files."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import abscert, linear_model, refused, train
from forged import Edit, detail, edited, failed
from torch import nn

from abscert_plugin.artifact.export import export
from abscert_plugin.claim import Claim
from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.verification.certificate import FLOATING_POINT
from abscert_plugin.verification.evidence import PROVEN

pytestmark = pytest.mark.slow  # the file as a whole

ON = ("--data", "digits")
BALL = ("--claim", "ball", "--radius", "1/10")
ANEW = "certified images, proven again"
MARGINS = "margins of certified images"
ROWS = "rows agree with the claim"
HUGE = 2.0**25


def summing(folder: Path, weights: Mapping[int, float]) -> Path:
    """Write a file that onnxruntime gives the label 0 of images, and other orders of the same sums do not.

    Two huge terms of the score of class 0 undo each other: what is added between them is lost, and what comes after
    them is not.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(128, 10))
    layer = network[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[0], layer.bias[1] = 0.25, 0.125
        for place, weight in weights.items():
            layer.weight[0, place] = weight
    config = NetworkConfig("fc-3", Activation.RELU, (1, 8, 8), 10)
    return export(network, config, Grid(2), "none", np.zeros((1, 1, 8, 8), np.float32), folder).deploy


def certified(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in value["rows"] if row["record"]["verdict"] == "certified"]


def upgrade(method: str) -> Edit:
    """Return an edit by which rows that a run certified here are said to be proven for any order of the sums."""

    def edit(value: dict[str, Any]) -> None:
        for row in certified(value):
            assert row["record"]["arithmetic"] == "this-runtime"
            row["record"].update(method=method, arithmetic="any-order")
            row["evidence"] = None

    return edit


@pytest.mark.parametrize(
    ("claim", "weights", "method", "faults"),
    [
        (("--claim", "cell"), {0: HUGE, 8: -HUGE}, "ibp", {ROWS, ANEW}),
        (("--claim", "cell"), {0: HUGE, 8: -HUGE}, "optimised", {ROWS, ANEW}),
        (("--claim", "ball", "--radius", "1/100"), {0: -HUGE, 8: HUGE, 64: HUGE, 72: -HUGE}, "optimised", {ANEW}),
        (("--claim", "ball", "--radius", "1/100"), {0: -HUGE, 8: HUGE, 64: HUGE, 72: -HUGE}, "crown", {ANEW}),
    ],
)
def test_what_this_runtime_showed_is_not_said_of_any_order(
    tmp_path: Path, claim: tuple[str, ...], weights: Mapping[int, float], method: str, faults: set[str]
) -> None:
    model, source = summing(tmp_path / "model", weights), tmp_path / "c.json"
    asked = (model, *ON, *claim, "--limit", 30, "--timeout", 5)
    abscert("verify", *asked, "--arithmetic", "this-runtime", "--out", tmp_path / "a", "--certificate", source)
    value = json.loads(source.read_text())
    assert len(certified(value)) > 0
    assert abscert("check", source, model, *ON, "--all", "--json").json["holds"]
    honest = abscert("verify", *asked, "--arithmetic", "any-order", "--out", tmp_path / "b", "--json").json
    assert honest["certified"] == 0  # so what follows is false
    forged = edited(source, tmp_path / "forged.json", upgrade(method))
    result = abscert("check", forged, model, *ON, "--all", "--json", "--timeout", 5, status=1).json
    assert faults <= set(failed(result)) <= {*faults, MARGINS}


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("false") / "run", "--cells", 2) / "deploy.onnx"


@pytest.fixture(scope="module")
def ball(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    out = ("--limit", 20, "--exhaustive", 1, "--out", folder / "run", "--certificate", folder / "c.json")
    abscert("verify", deploy, *ON, *BALL, *out)
    return folder / "c.json"


def test_a_proof_of_any_order_stands_in_a_certificate_of_this_runtime(deploy: Path, tmp_path: Path) -> None:
    """Searched for again, it is proven for any order again: its row says so."""
    source, asked = tmp_path / "c.json", ("--limit", 20, "--arithmetic", "this-runtime", "--out", tmp_path / "out")
    # no combination is run, so that proofs decide
    abscert("verify", deploy, *ON, *BALL, *asked, "--exhaustive", 1, "--certificate", source)
    proven = [row for row in certified(json.loads(source.read_text())) if row["record"]["arithmetic"] == "any-order"]
    assert proven
    names = {row["record"]["index"] for row in proven}

    def forget(value: dict[str, Any]) -> None:
        for row in certified(value):
            if row["record"]["index"] in names:
                row["record"].update(method="optimised")
                row["evidence"] = None

    for path in (source, edited(source, tmp_path / "forgetful.json", forget)):
        result = abscert("check", path, deploy, *ON, "--all", "--json").json
        assert "any-order" in result["arithmetic"]
    assert "by a new search" in detail(result, ANEW)


def test_a_margin_that_a_new_search_does_not_show_is_told_and_is_no_fault(
    deploy: Path, ball: Path, tmp_path: Path
) -> None:
    """A search of another machine and time need not find the proof of the first one."""
    cells = ("--claim", "cell", "--limit", 20, "--out", tmp_path / "cells")
    abscert("verify", deploy, *ON, *cells)
    rows = [json.loads(line) for line in (tmp_path / "cells" / "records.jsonl").read_text().splitlines()]
    own = {row["index"]: row["margin"] for row in rows}  # of the images themselves: no row may name more

    def overstate(value: dict[str, Any]) -> None:
        rows = [row for row in certified(value) if row["record"]["method"] in PROVEN]
        assert rows
        for row in rows:
            row["record"].update(method="branch and bound", margin=own[row["record"]["index"]])
            row["evidence"] = None

    path = edited(ball, tmp_path / "c.json", overstate)
    result = abscert("check", path, deploy, *ON, "--all", "--json").json
    (margins,) = [check for check in result["checks"] if check["name"] == MARGINS]
    assert margins["holds"] is None
    assert margins["detail"].startswith("not checked: ")
    assert "larger than a new search showed" in margins["detail"]
    assert "by a new search" in detail(result, ANEW)
    assert f"-       {MARGINS}: not checked" in abscert("check", path, deploy, *ON, "--all").out


def test_a_former_schema_turns_no_check_off_in_silence(deploy: Path, ball: Path, tmp_path: Path) -> None:
    def former(value: dict[str, Any]) -> None:
        value.update(schema=1, floating_point=FLOATING_POINT[1][Claim.BALL])
        for row in value["rows"]:
            row["record"].pop("arithmetic", None)

    def forget_pixels(value: dict[str, Any]) -> None:
        former(value)
        del value["data"]["pixels_sha256"]

    def other_pixels(value: dict[str, Any]) -> None:
        former(value)
        value["data"]["pixels_sha256"] = "0" * 64

    kept = abscert("check", edited(ball, tmp_path / "a.json", former), deploy, *ON, "--json").json
    assert detail(kept, "pixels") == "the same, row by row"
    path = edited(ball, tmp_path / "b.json", forget_pixels)
    result = abscert("check", path, deploy, *ON, "--json").json
    unseen = {check["name"]: check["detail"] for check in result["checks"] if check["holds"] is None}
    assert unseen.keys() == {"pixels", MARGINS}
    assert unseen["pixels"] == "not checked: certificates of schema 1 keep no checksum of them"
    assert "in float32 of an earlier version, which nothing proves" in unseen[MARGINS]
    assert "unproven" in result["arithmetic"]
    lines = abscert("check", path, deploy, *ON).out.splitlines()
    assert not [line for line in lines if line.startswith("ok      pixels")]
    path = edited(ball, tmp_path / "c.json", other_pixels)
    assert failed(abscert("check", path, deploy, *ON, "--json", status=1).json) == ["pixels"]


def test_facts_of_the_network_that_are_left_out_are_not_said_to_agree(deploy: Path, ball: Path, tmp_path: Path) -> None:
    path = edited(ball, tmp_path / "c.json", lambda value: value["model"].pop("training"))
    told = detail(abscert("check", path, deploy, *ON, "--json").json, "network")
    assert told == "not checked: the certificate does not tell its training"


def test_a_radius_is_not_rounded_up(deploy: Path, tmp_path: Path) -> None:
    source, asked = tmp_path / "c.json", (*BALL[:2], "--radius", "0.06249999", "--limit", 5, "--out", tmp_path / "out")
    abscert("verify", deploy, *ON, *asked, "--certificate", source)
    assert "claim ball, radius 0.06249999 (pixel scale), " in abscert("check", source, deploy, *ON).out


def test_a_sample_is_said_to_be_one(deploy: Path, ball: Path) -> None:
    count = len(certified(json.loads(ball.read_text())))
    result = abscert("check", ball, deploy, *ON, "--sample", 1, "--json").json
    assert detail(result, ANEW) == detail(result, MARGINS) == f"1 of {count}; {count - 1} not proven"
    assert (result["decided_anew"], result["not_proven"]) == (1, count - 1)


# --- images -----------------------------------------------------------------------------------------------------------


def images(path: Path, stored: int, **told: Any) -> Path:
    """Write twenty digits as a file of the user's own, as whole numbers up to some."""
    digits = load_data("digits", Split.TEST)
    batch = digits.take(np.arange(20))
    pixels = digits.pixels(batch.images)[:, 0]
    np.savez(path, x_test=np.rint(pixels * stored).astype(np.uint8), y_test=batch.labels, **told)
    return path


def test_rows_about_other_pixels_are_not_gone_on_with(deploy: Path, tmp_path: Path) -> None:
    path = images(tmp_path / "own.npz", 16, levels=16)
    asked = ("verify", deploy, "--data", path, "--claim", "cell", "--out", tmp_path / "out")
    abscert(*asked)
    rows = (tmp_path / "out" / "records.jsonl").read_bytes()
    images(path, 16, levels=32)
    assert "holds another run (data.sha256" in refused(*asked)
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == rows
    images(path, 16, levels=16)
    abscert(*asked)


def test_a_claim_about_8_bit_images_is_said_to_be_one(deploy: Path, tmp_path: Path) -> None:
    path, source, out = images(tmp_path / "eight.npz", 255), tmp_path / "c.json", tmp_path / "out"
    asked = ("verify", deploy, "--data", path, *BALL[:2], "--radius", "1/255", "--inputs", "uint8", "--out", out)
    for text in (abscert(*asked, "--certificate", source).out, json.loads(source.read_text())["says"]):
        assert "every 8-bit image within the radius" in " ".join(text.split())
        assert "every image" not in " ".join(text.split())
    on = ("--data", path)
    printed = " ".join(abscert("check", source, deploy, *on).out.split())
    assert "radius 1/255 (pixel scale), 8-bit images only, arithmetic any-order: " in printed
    assert "every 8-bit image within the radius" in printed
    assert "every image" not in printed
    told = abscert("check", source, deploy, *on, "--json").json
    assert (told["inputs"], told["arithmetic"]) == ("uint8", "any-order")
    former = json.loads((Path(__file__).parent / "fixtures" / "verified" / "ball-plain.json").read_text())["says"]
    older = edited(source, tmp_path / "older.json", lambda value: value.update(says=former))
    result = abscert("check", older, deploy, *on, "--json").json
    assert detail(result, ROWS) == "all 20; of 8-bit images alone, which its older sentence leaves out"


def test_a_card_says_which_images_its_balls_hold(deploy: Path, tmp_path: Path) -> None:
    run = shutil.copytree(deploy.parent, tmp_path / "run")
    path = images(tmp_path / "eight.npz", 255)
    asked = ("verify", run / "deploy.onnx", "--data", path, *BALL[:2], "--radius", "1/255")
    abscert(*asked, "--inputs", "uint8", "--out", run / "narrow")
    abscert("card", run)
    (told,) = [line for line in (run / "README.md").read_text().splitlines() if line.startswith("Claim `ball`")]
    assert "every 8-bit image within the radius" in told


def test_images_of_the_users_own_may_lie_elsewhere(deploy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "eight.npz", 255)
    source = tmp_path / "c.json"
    abscert("verify", deploy, "--data", "eight.npz", "--claim", "cell", "--out", "out", "--certificate", source)
    assert abscert("check", source, deploy, "--data", "./eight.npz", "--json").json["holds"]
    images(tmp_path / "eight.npz", 254)
    assert "data" in failed(abscert("check", source, deploy, "--data", "./eight.npz", "--json", status=1).json)


# --- what has no meaning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [5, True, [], {}])
def test_a_name_of_data_that_is_none_is_one_line(deploy: Path, ball: Path, tmp_path: Path, name: object) -> None:
    path = edited(ball, tmp_path / "c.json", lambda value: value["data"].update(name=name))
    assert "expected the name of a data set as text" in refused("check", path, deploy)


@pytest.mark.parametrize("name", ["**x.onnx", "**", "[", "*"])
def test_a_name_of_a_model_is_no_pattern(ball: Path, tmp_path: Path, name: str) -> None:
    path = edited(ball, tmp_path / "c.json", lambda value: value["model"].update(path=name))
    assert "name it after the certificate" in refused("check", path, *ON)


@pytest.mark.parametrize(
    ("key", "value"),
    [("constants", {"x": 10**400}), ("input_range", [0, 10**400]), ("mean", [10**400]), ("image_shape", [10**400, 8])],
)
def test_numbers_that_are_too_large_are_one_line(tmp_path: Path, key: str, value: object) -> None:
    model, source = linear_model(tmp_path / "m.onnx"), tmp_path / "c.json"
    asked = ("verify", model, *ON, *BALL, "--limit", 3, "--timeout", 1, "--out", tmp_path / "out")
    abscert(*asked, "--certificate", source)

    def edit(stored: dict[str, Any]) -> None:
        stored["model"]["preprocessing"][key] = value

    assert refused("check", edited(source, tmp_path / "forged.json", edit), model, *ON).startswith("expected ")


@pytest.mark.parametrize("index", [10**6, 2**70])
def test_a_row_of_no_image_is_one_line(deploy: Path, tmp_path: Path, index: int) -> None:
    asked = ("verify", deploy, *ON, "--claim", "cell", "--limit", 5, "--out", tmp_path / "out")
    abscert(*asked)
    rows = tmp_path / "out" / "records.jsonl"
    first, *others = rows.read_text().splitlines()
    rows.write_text("\n".join([json.dumps({**json.loads(first), "index": index}), *others]) + "\n")
    said = refused(*asked, "--certificate", tmp_path / "c.json")
    assert f"has a row of image {index}, which is not one of the 5; use --fresh or another --out" in said
