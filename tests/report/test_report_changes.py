"""What a counterexample changed, pixel by pixel; damaged files; which step decided; what the page says of the ball."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Element, parse_page
from report_rows import cells_of, picture_data, random_rows, row, run_info
from test_report_gallery import decoded

from abscert_plugin.errors import RecordError
from abscert_plugin.files import write_array
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.report.changes import COLOURS, FAINT, Flips, draw_difference, draw_flips
from abscert_plugin.report.counterexamples import read_counterexample
from abscert_plugin.report.page import MAX_REASONS, PageContent, render_page
from abscert_plugin.report.terminal import NamedRecords, run_table, step_table, summary_table

NAME = "counterexamples/00000005.npy"
IMAGE = np.full((1, 4, 4), 0.5, dtype=np.float32)


def falsified(**changes: object) -> Record:
    return row(5, "falsified", claim="ball", **{"inputs": "float", "counterexample": NAME, **changes})


def page_of(rows: list[Record], **options: Any) -> Element:
    return parse_page(render_page(PageContent(options.pop("run", None) or run_info(), rows, **options)))


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_the_difference_is_signed_and_scaled_to_the_radius(channels: int, radius: float) -> None:
    random = np.random.default_rng(channels)
    image, other = random.random((2, channels, 5, 6), dtype=np.float32)
    drawn = decoded(draw_difference(image, other, radius).uri)
    for y, x in np.ndindex(5, 6):
        change = max((float(other[c, y, x]) - float(image[c, y, x]) for c in range(channels)), key=abs)
        share = min(1, abs(change) / radius)
        end = COLOURS["up" if change > 0 else "down"]
        expected = [none + share * (full - none) for none, full in zip(COLOURS["none"], end, strict=True)]
        assert drawn[:, y, x] == pytest.approx(expected, abs=0.5 + 1e-6)  # 8 bits
    assert len(np.unique(decoded(draw_difference(image, image, 0.0).uri))) == 1


def test_flipped_cells_are_coloured_by_their_way_and_counted() -> None:
    random = np.random.default_rng(0)
    before, after = random.integers(0, 2, (2, 3, 6, 7)).astype(np.uint8)
    image = random.random((3, 6, 7), dtype=np.float32)
    flips = Flips.between(before, after)
    drawn = decoded(draw_flips(image, flips).uri)
    counts = {"up": 0, "down": 0, "both": 0, "none": 0}
    for y, x in np.ndindex(6, 7):
        moves = {int(b) - int(a) for a, b in zip(before[:, y, x], after[:, y, x], strict=True)} - {0}
        name = {(): "none", (1,): "up", (-1,): "down", (-1, 1): "both"}[tuple(sorted(moves))]
        counts[name] += 1
        if name == "none":
            grey = FAINT + (255 - FAINT) * float(image[:, y, x].astype(np.float64).mean())
            assert drawn[:, y, x] == pytest.approx([grey] * 3, abs=0.5 + 1e-6)
        else:
            assert tuple(drawn[:, y, x].tolist()) == COLOURS[name]
    assert min(counts.values()) > 0
    moved, up, down = 42 - counts["none"], counts["up"] + counts["both"], counts["down"] + counts["both"]
    assert flips.text == f"{moved} of 42 pixels changed cell: {up} up, {down} down"


# --- files ------------------------------------------------------------------------------------------------------------


def test_only_images_of_the_ball_are_taken(tmp_path: Path) -> None:
    for shift, fits in ((0.0999, True), (-0.0999, True), (0.1001, False)):
        write_array(tmp_path / NAME, IMAGE + np.float32(shift))
        if fits:
            assert np.array_equal(read_counterexample(tmp_path, falsified(), IMAGE), IMAGE + np.float32(shift))
            continue
        with pytest.raises(RecordError, match="not an image of the ball"):
            read_counterexample(tmp_path, falsified(), IMAGE)
    write_array(tmp_path / NAME, IMAGE + np.float32(0.09))  # no multiple of 1/255
    with pytest.raises(RecordError, match="not an image of the ball"):
        read_counterexample(tmp_path, falsified(inputs="uint8"), IMAGE)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 16])
def test_a_row_that_rounds_its_radius_takes_all_images_of_the_ball(tmp_path: Path, steps: int) -> None:
    """The float nearest to 5/255 is less than 5/255; the exact radius stands in run.json alone."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    center = np.full(IMAGE.shape, levels[100])
    for moved, fits in ((steps, True), (steps + 1, False)):
        write_array(tmp_path / NAME, np.full(IMAGE.shape, levels[100 + moved]))
        record = falsified(inputs="uint8", radius=steps / 255)
        if fits:
            assert read_counterexample(tmp_path, record, center).max() == levels[100 + steps]
            continue
        with pytest.raises(RecordError, match="not an image of the ball"):
            read_counterexample(tmp_path, record, center)


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


DAMAGED = {
    "empty": b"",
    "no array": b"not an array",
    "cut short": header("(1, 4, 4)") + bytes(63),
    "larger than memory": header("(1, 4, 4000000000000)"),
    "larger than a number": header(f"(1, {10**30})"),
    "negative": header("(-1, 4, 4)"),
    "no header": b"\x93NUMPY\x01\x00\x04\x00((((",
    "an object": b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 4, 4)}".ljust(70),
    "too large": header("(1, 4, 4)") + bytes(10_000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_and_the_page_shows_the_image_with_a_note(tmp_path: Path, name: str) -> None:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(DAMAGED[name])
    with pytest.raises(RecordError):
        read_counterexample(tmp_path, falsified(), IMAGE)
    data = picture_data((1, 4, 4), 1)
    root = page_of([falsified(margin=-1.0)], data=data, grid=Grid(2), folder=tmp_path, run=run_info(data={}))
    (item,) = root.by_id("gallery").all("li")
    assert len(item.all("img")) == 2
    assert "The stored counterexample cannot be shown: " in item.text


def leave_by_link(folder: Path) -> None:
    write_array(folder.parent / "outside.npy", IMAGE)
    (folder / NAME).symlink_to(folder.parent / "outside.npy")


def wait_in_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / NAME)


def go_in_circles(folder: Path) -> None:
    (folder / NAME).symlink_to(folder / NAME)


@pytest.mark.parametrize("make", [leave_by_link, wait_in_a_pipe, go_in_circles])
def test_links_out_of_the_folder_and_pipes_are_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "run"
    (folder / NAME).parent.mkdir(parents=True)
    make(folder)
    with pytest.raises(RecordError, match=r"out of the run's folder|missing|not that of a file"):
        read_counterexample(folder, falsified(), IMAGE)


@pytest.mark.parametrize(
    "changes", [{"radius": -0.1}, {"radius": 7.0}, {"radius_scale": "<b>"}, {"radius_scale": None}, {"inputs": "int4"}]
)
def test_a_ball_without_a_meaning_holds_no_counterexample(tmp_path: Path, changes: dict[str, object]) -> None:
    write_array(tmp_path / NAME, IMAGE)
    with pytest.raises(RecordError, match="expected a radius with its scale"):
        read_counterexample(tmp_path, falsified(**changes), IMAGE)


# --- what the page and the tables say ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_chart_of_steps_equals_counting(seed: int) -> None:
    random = np.random.default_rng(seed + 100)  # or methods and verdicts would be one draw
    plain = random_rows(300, seed, claim="ball")
    rows = [
        row(one.index, one.verdict, claim="ball", method=str(method), seconds=float(seconds))
        for one, method, seconds in zip(
            plain, random.choice(["ibp", "<b>x</b>", "crown"], 300), random.random(300), strict=True
        )
    ]
    steps = page_of(rows).by_id("steps")
    counted = {}
    for method in {one.method for one in rows}:
        own = [one for one in rows if one.method == method]
        verdicts = [sum(one.verdict == name for one in own) for name in ("certified", "falsified", "unknown")]
        seconds, total = sum(one.seconds for one in own), sum(one.seconds for one in rows)
        shares = [f"{100 * len(own) / 300:.2f}", f"{100 * seconds / total:.2f}"]
        counted[method] = [str(len(own)), shares[0], *map(str, verdicts), f"{seconds:.1f}", shares[1]]
    assert {line[0]: line[2:] for line in steps.table()[1:]} == counted
    in_terminal = {line[0]: line[1:] for line in cells_of(step_table(rows))[1:]}
    assert in_terminal == {name: [line[0], line[1], line[5], line[6]] for name, line in counted.items()}
    for bar, line in zip(steps.all("td", kind="track wide"), steps.table()[1:], strict=True):
        styles = [span.attributes["style"] for span in bar.all("span")]
        expected = [100 * int(count) / 300 for count in line[4:7]]
        assert styles[:3] == [f"width: {share:.3f}%" for share in expected]
        assert float(styles[3][7:-1]) == pytest.approx(float(line[8]), abs=0.006)


def test_rare_methods_are_left_to_a_line_and_endless_times_do_not_stop_the_page() -> None:
    rows = [row(index, claim="ball", method=f"m{index}", seconds=1.5e308) for index in range(MAX_REASONS + 3)]
    root = page_of(rows)
    assert len(root.by_id("steps").table()) == 1 + MAX_REASONS
    assert "And 3 rarer methods." in root.text


def test_the_ball_is_named_with_both_scales_its_inputs_and_the_floor() -> None:
    run = run_info(configuration={"floor": 2.0**-18, "bound_floor": 2.0**-17})
    for inputs, words in (("float", "all images"), ("uint8", "8-bit images only")):
        root = page_of([row(0, claim="ball", inputs=inputs)], run=run)
        text = root.all("dl", kind="facts")[0].text
        assert "Claim ball Radius 0.1 pixel (0.2 training)" in text
        assert f"Inputs {words} Certified for this-runtime Floor of the margin 3.81e-06; of bounds 7.63e-06" in text
        assert ("8-bit images only" in root.all("p", kind="scope")[0].text) == (inputs == "uint8")
        assert ("8-bit images only" in root.all("title")[0].text) == (inputs == "uint8")


def test_the_terminal_names_the_inputs_where_they_are_not_all() -> None:
    for inputs, named in (("float", False), ("uint8", True)):
        run = NamedRecords("one", [row(0, claim="ball", inputs=inputs)])
        lines = cells_of(run_table(run))
        assert ["radius", "0.1 pixel, 0.2 training"] in lines
        assert (["inputs", "8-bit images only"] in lines) == named
        radius = "0.1 pixel\n0.2 training" + ("\n8-bit images only" if named else "")
        assert cells_of(summary_table([run]))[1][2] == radius


def test_an_undecided_image_says_how_many_combinations_it_reaches() -> None:
    root = page_of([row(5, "unknown", claim="ball", reachable_log2=26.584, reason="time-out of 10 s")])
    assert "reaches 2 26.58 combinations of cells" in root.by_id("gallery").text
    assert "time-out of 10 s" in root.by_id("gallery").text


def test_uneven_cells_are_told_by_their_edges_and_drawn_at_their_middles() -> None:
    data, grid = picture_data((1, 4, 4), 1), Grid.from_inner_edges([0.25, 0.875])
    root = page_of([falsified()], data=data, grid=grid, run=run_info(data={}))
    assert "3, with edges at 0.25, 0.875 (pixel scale)" in root.all("dl", kind="facts")[0].text
    image, middles = (decoded(one.attributes["src"]) for one in root.by_id("gallery").all("img"))
    ideal = np.select([image < 0.25 * 255, image < 0.875 * 255], [0.125 * 255, 0.5625 * 255], 0.9375 * 255)
    assert np.abs(middles - ideal).max() <= 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_the_legend_has_the_colours_of_the_pictures(tmp_path: Path, channels: int) -> None:
    data = picture_data((channels, 4, 4), 1)
    image = data.pixels(data.take(np.array([0])).images)[0]
    write_array(tmp_path / NAME, image)
    options = {"data": data, "grid": Grid(2), "run": run_info(data={})}
    legend = page_of([falsified()], folder=tmp_path, **options).by_id("legend")
    ramp, *chips = (span.attributes["style"] for span in legend.all("span") if "style" in span.attributes)
    down, none, up, both = (f"#{bytes(COLOURS[name]).hex()}" for name in ("down", "none", "up", "both"))
    assert ramp == f"background: linear-gradient(to right, {down}, {none}, {up})"
    assert chips == [f"background: {colour}" for colour in ([up, down, both] if channels == 3 else [up, down])]
    assert "+radius, 0.1 pixel (0.2 training)" in legend.text
    bare = page_of([falsified()], **options)
    assert not [element for element in bare.walk() if element.attributes.get("id") == "legend"]


def test_a_counterexample_that_keeps_the_label_is_told(tmp_path: Path) -> None:
    data = picture_data((1, 4, 4), 1)
    write_array(tmp_path / NAME, data.pixels(data.take(np.array([0])).images)[0])
    options = {"data": data, "grid": Grid(2), "run": run_info(data={}), "folder": tmp_path}
    for label, told in ((0, True), (1, False)):
        root = page_of([falsified()], replay=lambda images, label=label: [label] * len(images), **options)
        assert ("the image's own label" in root.by_id("gallery").text) == told
        assert f"the counterexample is predicted {data.classes[label]}" in root.by_id("gallery").text
