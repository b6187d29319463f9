"""Certified error against radius: what the points are, what is averaged, and that a drawing says what its data say."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from command_line import abscert, refused
from stored_records import RUN, store

from abscert_plugin.claim import Arithmetic
from abscert_plugin.errors import RecordError
from abscert_plugin.records import read_records, write_records
from compare.page.curve_plot import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plots
from compare.page.curves import Curve, CurveChart, Level, Point, curve_charts
from compare.plans.naming import names, setting, variant
from compare.plans.planned_run import Run
from compare.results.verified_run import verified_runs

COUNT = 200
MISLABELLED = 4
IBP = msgspec.structs.replace(RUN, method="ibp", cells=None, certify=("0.05", "0.1"), radius="0.1", claims=("ball",))
SVG = "{http://www.w3.org/2000/svg}"


def verify(results: Path, run: Run, found: Mapping[str, tuple[int, int]], version: str = "0.1.0") -> None:
    """Store a run that is verified at the radii of `found`, with so many images falsified and so many left open."""
    run = msgspec.structs.replace(run, certify=tuple(found))
    folder = store(results, run, {"ball": 0}, COUNT, version)
    for name, (falsified, unknown) in zip(run.questions, found.values(), strict=True):
        path = folder / name / "records.jsonl"
        verdicts = ["falsified"] * falsified + ["unknown"] * unknown + ["certified"] * (COUNT - falsified - unknown)
        write_records(
            path,
            [
                msgspec.structs.replace(
                    row,
                    prediction=1 if row.index < MISLABELLED else 0,
                    verdict=verdict,
                    method="forward",
                    counterexample="itself" if verdict == "falsified" else None,
                )
                for row, verdict in zip(read_records(path), verdicts, strict=True)
            ],
        )


def charts_of(results: Path) -> tuple[CurveChart, ...]:
    return curve_charts(verified_runs(results)[0])


def test_a_point_lies_between_what_is_falsified_and_what_is_not_certified(tmp_path: Path) -> None:
    verify(tmp_path, IBP, {"0.1": (20, 30), "0.05": (10, 0)})
    (chart,) = charts_of(tmp_path)
    (curve,) = chart.curves
    assert curve.name == "ibp"
    assert [(point.radius, point.low, point.high) for point in curve.points] == [
        (0.0, 0.02, 0.02),  # a ball of radius 0 is the image itself: 4 of 200 are mislabelled
        (0.05, 0.05, 0.05),
        (0.1, 0.1, 0.25),
    ]
    assert all(point.interval[0] < point.high < point.interval[1] for point in curve.points)
    assert chart.levels == ()
    assert "0.1 (0.2)" in chart.caption


def test_claims_are_apart_and_a_cell_has_no_radius(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"cell": 3, "ball": 50})
    (chart,) = charts_of(tmp_path)
    assert chart.levels == (Level("abstrain, 6 cells", 3 / COUNT),)
    assert [point.high for point in chart.curves[0].points] == [25 / COUNT, 50 / COUNT]


def test_cells_alone_make_no_chart(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"cell": 3})
    assert charts_of(tmp_path) == ()


def test_networks_that_were_each_trained_for_their_radius_make_one_curve(tmp_path: Path) -> None:
    for radius, failed in (("0.1", 20), ("0.05", 10), ("0.3", 90)):
        store(tmp_path, msgspec.structs.replace(IBP, radius=radius, certify=(radius,)), {"ball": failed})
    (chart,) = charts_of(tmp_path)
    assert [[(point.radius, point.high) for point in curve.points] for curve in chart.curves] == [
        [(0.05, 0.05), (0.1, 0.1), (0.3, 0.45)]
    ]
    assert chart.caption.startswith("Each network")
    # one that is verified elsewhere too has a curve of its own, and the names tell them apart
    verify(tmp_path, msgspec.structs.replace(IBP, radius="0.2"), {"0.1": (50, 0)})
    (chart,) = charts_of(tmp_path)
    assert sorted(len(curve.points) for curve in chart.curves) == [2, 3]
    assert len({curve.name for curve in chart.curves}) == 2


def test_seeds_are_averaged_and_other_ways_to_train_are_not(tmp_path: Path) -> None:
    for seed, failed in ((0, 20), (1, 40)):
        verify(tmp_path, msgspec.structs.replace(IBP, seed=seed), {"0.1": (failed, 0)})
    verify(tmp_path, msgspec.structs.replace(IBP, epochs=3), {"0.1": (100, 0)})
    (chart,) = charts_of(tmp_path)
    found = {curve.name: curve.points[-1] for curve in chart.curves}
    assert {name: point.high for name, point in found.items()} == {"ibp": pytest.approx(0.15), "ibp, 3 epochs": 0.5}
    assert (found["ibp"].seeds, found["ibp"].interval) == (2, (0.1, 0.2))


def test_a_radius_that_two_plans_verified_counts_once(tmp_path: Path) -> None:
    for certify in (("0.05",), ("0.05", "0.1")):
        verify(tmp_path, IBP, dict.fromkeys(certify, (20, 0)))
    (chart,) = charts_of(tmp_path)
    assert [(point.radius, point.seeds) for point in chart.curves[0].points] == [(0.0, 1), (0.05, 1), (0.1, 1)]


def test_records_of_two_versions_are_not_averaged(tmp_path: Path) -> None:
    for seed, version in ((0, "0.1.0"), (1, "0.2.0")):
        verify(tmp_path, msgspec.structs.replace(IBP, seed=seed), {"0.1": (20, 0)}, version)
    with pytest.raises(RecordError, match=r"versions 0\.1\.0, 0\.2\.0"):
        charts_of(tmp_path)


def test_settings_have_charts_of_their_own(tmp_path: Path) -> None:
    others: tuple[dict[str, Any], ...] = (
        {},
        {"network": "dm-large"},
        {"data": "digits"},
        {"activation": "tanh"},
        {"protocol": "paper"},
        {"image_size": 64},
    )
    for other in others:
        store(tmp_path, msgspec.structs.replace(IBP, **other), {"ball": 20})
    assert len({chart.title for chart in charts_of(tmp_path)}) == len(others)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("radius", "0.2", "trained for 0.2"),
        ("epochs", 3, "3 epochs"),
        ("batch_size", 64, "batch 64"),
        ("learning_rate", 0.01, "rate 0.01"),
        ("timeout", 2.0, "2 s an image"),
        ("limit", 1000, "first 1,000 images"),
        ("ball_limit", 10, "first 10 images"),
        ("arithmetic", Arithmetic.THIS_RUNTIME, "for this-runtime"),
        ("cells", 2, "2 cells"),
        ("options", {"fast": "false"}, "fast=false"),
        ("method", "sabr", "sabr"),
    ],
)
def test_names_tell_ways_to_train_apart_and_say_no_more(field: str, value: object, said: str) -> None:
    other = msgspec.structs.replace(IBP, **{field: value})
    assert names([IBP]) == {variant(IBP): "ibp"}
    found = names([IBP, other])
    assert len(set(found.values())) == 2
    assert said in found[variant(other)]


def test_seed_and_what_is_verified_make_no_other_way_to_train() -> None:
    other = msgspec.structs.replace(IBP, seed=3, certify=("0.3",), claims=("cell",))
    assert variant(other) == variant(IBP)
    known = {"method", "cells", "options", "radius", "epochs", "batch_size", "learning_rate", "timeout", "limit"}
    known |= {
        "arithmetic",
        "ball_limit",
        "seed",
        "certify",
        "claims",
        "data",
        "network",
        "activation",
        "protocol",
        "radius_scale",
        "image_size",
        "solver",
    }
    assert set(Run.__struct_fields__) == known, "a new field of a run: does its name say it, or its setting?"
    assert all(word in setting(IBP) for word in (IBP.data, IBP.network, IBP.protocol))


# --- the drawing -----------------------------------------------------------------------------------------------------


def curve(name: str, *points: tuple[float, float, float]) -> Curve:
    return Curve(name, tuple(Point(r, low, high, (high / 2, min(1.0, 2 * high)), 100, 1) for r, low, high in points))


def test_places_are_those_of_the_data() -> None:
    drawn = curve("ibp", (0.0, 0.1, 0.1), (0.1, 0.2, 0.3))
    (plot,) = plots([CurveChart("here", "", (drawn,), (Level("ibp", 0.15),))])
    bottom, top = HEIGHT - BOTTOM, TOP
    assert plot.ys[0].at == bottom  # the error axis begins at 0
    assert plot.ys[0].text == "0 %"
    rise = {tick.text: (bottom - tick.at) / (bottom - top) for tick in plot.ys}
    end = float(plot.ys[-1].text.split()[0]) / 100 / rise[plot.ys[-1].text]
    (line,) = plot.lines
    for mark, point in zip(line.marks, drawn.points, strict=True):
        assert (bottom - mark.y) / (bottom - top) * end == pytest.approx(point.high, abs=1e-4)
    assert (bottom - plot.flats[0].y) / (bottom - top) * end == pytest.approx(0.15, abs=1e-4)
    scale = (line.marks[1].x - line.marks[0].x) / 0.1
    for tick in plot.xs:
        assert (tick.at - LEFT) / scale == pytest.approx(float(tick.text), abs=1e-4)
        assert float(tick.beside) == pytest.approx(2 * float(tick.text))
    assert line.band  # there is something between falsified and not certified
    assert not plots([CurveChart("here", "", (curve("ibp", (0.1, 0.3, 0.3)),), ())])[0].lines[0].band


@pytest.mark.parametrize("radius", [0.0, 1e-3, 1 / 255, 8 / 255, 0.3, 1.0])
@pytest.mark.parametrize("error", [0.0, 0.004, 0.33, 1.0])
def test_everything_lies_in_the_field(radius: float, error: float) -> None:
    (plot,) = plots([CurveChart("here", "", (curve("ibp", (0.0, 0.0, 0.0), (radius, error / 2, error)),), ())])
    numbers = re.findall(r"[ML]([\d.]+) ([\d.]+)", plot.lines[0].path + plot.lines[0].band)
    assert all(LEFT <= float(x) <= WIDTH - RIGHT and TOP <= float(y) <= HEIGHT - BOTTOM for x, y in numbers)
    assert 2 <= len(plot.xs) <= 7
    assert 2 <= len(plot.ys) <= 7
    assert len({tick.text for tick in plot.xs}) == len(plot.xs)


def test_ways_to_train_are_told_apart_without_colour() -> None:
    many = [curve(f"method {place:02}", (0.1, 0.1, 0.1)) for place in range(24)]
    (plot,) = plots([CurveChart("here", "", tuple(many), ())])
    assert len({(line.style.mark, line.style.dash) for line in plot.lines}) == 24
    first, second = plots([CurveChart("a", "", tuple(many), ()), CurveChart("b", "", (many[5],), ())])
    assert second.lines[0].style == first.lines[5].style  # one name, one style on the whole page


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_lines_stand_out_from_a_light_and_a_dark_page() -> None:
    for colour in COLOURS:
        for tone, page in zip(colour, ("#ffffff", "#14171a"), strict=True):
            dark, light = sorted((luminance(tone), luminance(page)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (tone, page)


def test_the_command_writes_a_picture_that_stands_alone(tmp_path: Path) -> None:
    verify(tmp_path, msgspec.structs.replace(IBP, network="<b>&", options={"x": "<i>"}), {"0.1": (20, 30)})
    into = tmp_path / "curves.svg"
    abscert("compare", "curves", "--out", tmp_path, "--into", into)
    root = ElementTree.parse(into).getroot()
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert "ibp x=<i>" in texts
    assert any("<b>&" in text for text in texts)
    assert len([element for element in root.iter(f"{SVG}path") if element.get("class") == "mark"]) == 2 + 1
    text = into.read_text()
    assert "var(" not in text  # what is not a browser draws it too
    assert not re.search(r"href|<script|url\(", text)


def test_the_command_refuses_what_cannot_be(tmp_path: Path) -> None:
    store(tmp_path, RUN, {"cell": 3})
    assert "verified under the claim ball" in refused("compare", "curves", "--out", tmp_path)
    assert "ends in .svg" in refused("compare", "curves", "--out", tmp_path, "--into", tmp_path / "curves.png")
    assert "expected runs in" in refused("compare", "curves", "--out", tmp_path / "none")
    assert "or a plan: one of" in refused("compare", "curves", "--out", tmp_path, "--plan", "no-such")


def test_curves_are_made_without_torch(tmp_path: Path) -> None:
    verify(tmp_path, IBP, {"0.1": (20, 30)})
    code = "import sys; from pathlib import Path; "
    code += "from compare.page.comparison_page import ComparisonContent, render_curves; "
    code += "from compare.page.curves import curve_charts; from compare.page.curve_plot import plots; "
    code += f"render_curves(plots(curve_charts(ComparisonContent.read(Path({str(tmp_path)!r})).found))); "
    code += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
