"""The page that runs a guard, in a real browser: it is served, drawn on, and gives what the file gives elsewhere."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import BROWSER, CONTRASTS, Browser, browser
from command_line import abscert

from abscert_plugin.artifact.export import export
from abscert_plugin.blackbox import Runner
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import DataError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.report.try_page import TryContent, render_try_page
from abscert_plugin.report.web_runtime import put_runtime

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

SIDE = 8
# Pixels are k / 16: at the least radii those of most images keep their cells, and 15 / 16 lies on an edge.
GRID = Grid.from_inner_edges([0.2, 0.4, 0.6, 15 / 16])
RADII = ("0.001", "0.01", "0.05", "0.1", "0.2")
SCREENS = pytest.mark.parametrize(("width", "dark"), [(1300, False), (1300, True), (390, False), (390, True)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as `abscert demo` leaves it, of a small network that was never trained."""
    home = tmp_path_factory.mktemp("try")
    try:
        put_runtime(home / "web")
    except DataError as error:
        pytest.skip(f"no onnxruntime-web here: {error}")
    config = NetworkConfig("fc-3", Activation.RELU, (1, SIDE, SIDE), 10)
    probes = np.zeros((1, 1, SIDE, SIDE), dtype=np.float32)
    export(config.build(0), config, GRID, "none", probes, home / "run")
    radii = [part for radius in RADII for part in ("--radius", radius)]
    abscert("guard", home / "run" / "deploy.onnx", *radii, "--largest", "--out", home / "guard.onnx")
    write_page(home)
    return home


def write_page(home: Path) -> None:
    radii = [Radius.parse(radius) for radius in RADII]
    content = TryContent(home / "guard.onnx", radii, GRID, load_data("digits", Split.TEST))
    (home / "try.html").write_text(render_try_page(content), encoding="utf-8")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Yield the page's address, as the command prints it; Ctrl-C ends the command without a word."""
    # tests that run in the background of a shell have Ctrl-C ignored, and so would what they start
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from abscert_plugin.cli import main; main()"
    command = [sys.executable, "-c", code, "show", str(folder), "--serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert said == f"serving {folder} to this machine; Ctrl-C ends it\n"
    assert process.returncode == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium: Browser, address: str) -> Browser:
    """Return the page with its first image, whose file has answered."""
    chromium.complaints.clear()
    chromium.resize(1300, 1000)
    if chromium.run("location.href") != address:
        chromium.visit(address)
    chromium.await_that("document.getElementById('try').dataset.state === 'ready'")
    chromium.run("document.querySelector('#samples button').click()")
    chromium.run("document.querySelector('[value=draw]').click()")
    return chromium


def shown(page: Browser) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels on the page, and what it says of them."""
    data = page.await_that("(({pixels, result}) => result && [pixels, result])(document.getElementById('try').dataset)")
    pixels, result = map(json.loads, data)
    return np.array(pixels, dtype=np.float32).reshape(1, 1, SIDE, SIDE), result


def expected(folder: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    runner = Runner(folder / "guard.onnx")
    return {name: value[0] for name, value in runner.run(pixels).items()}


def check(page: Browser, folder: Path) -> dict[str, Any]:
    """Hold what the page says against the same file in this process, and the text against the data."""
    pixels, result = shown(page)
    found = expected(folder, pixels)
    assert result["label"] == found["label"]
    assert result["certified"] == found["certified"].tolist()
    assert result["radius"] == float(found["radius"])
    # other kernels, other order of float32 sums
    np.testing.assert_allclose(result["logits"], found["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result["margin"], found["margin"], rtol=1e-4, atol=1e-5)
    assert page.run("document.getElementById('label').textContent") == str(result["label"])
    lines = page.run("[...document.querySelectorAll('#verdicts tbody tr')].map((row) => row.innerText.split('\\t'))")
    assert [line[0] for line in lines] == list(RADII)
    assert [line[1] == "certified" for line in lines] == result["certified"]
    for line, margin in zip(lines, result["margin"], strict=True):
        told = 0.0 if line[2] == "above 0" else float(line[2].replace("\N{MINUS SIGN}", "-"))
        assert margin - 0.001 <= told <= margin
    cells = json.loads(page.run("document.getElementById('try').dataset.cells"))
    assert cells == GRID.cell(pixels).ravel().tolist()
    return result


def on_board(page: Browser, *places: tuple[float, float]) -> Sequence[tuple[float, float]]:
    """Return points of the window, from columns and rows of the image."""
    script = (
        "(({x, y, width, height}) => [x, y, width, height])(document.getElementById('board').getBoundingClientRect())"
    )
    left, top, width, height = page.run(script)
    return [(left + width * column / SIDE, top + height * row / SIDE) for column, row in places]


def press_button(page: Browser, name: str) -> None:
    page.run(f"document.getElementById('{name}').click()")


@SCREENS
def test_it_is_whole_and_readable_and_asks_this_machine_alone(
    page: Browser, folder: Path, address: str, width: int, dark: bool
) -> None:
    page.resize(width, 900, dark)
    check(page, folder)
    assert page.run("document.documentElement.scrollWidth") <= width
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 60
    assert [found for found in contrasts if found[0] < 4.5] == []
    assert (page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") is not dark
    home = address.removesuffix("try.html")
    assert [one for one in page.requests if not one.startswith((home, "data:"))] == []
    files = ("guard.onnx", "web/ort.wasm.bundle.min.mjs", "web/ort-wasm-simd-threaded.wasm")
    assert {home + name for name in files} <= set(page.requests)
    assert page.complaints == []


def test_test_images_get_the_verdicts_that_the_file_gives_elsewhere(page: Browser, folder: Path) -> None:
    data = load_data("digits", Split.TEST)
    verdicts = []
    for place in range(10):
        button = f"document.querySelectorAll('#samples button')[{place}]"
        page.run(f"{button}.click()")
        number = int(page.run(f"{button}.dataset.place"))
        assert np.array_equal(shown(page)[0], data.pixels(data.take(np.array([number])).images))
        assert data.labels[number] == place
        verdicts += check(page, folder)["certified"]
    assert {True, False} == set(verdicts)
    first = page.run("document.querySelector('#samples button').dataset.place")
    press_button(page, "others")
    assert page.run("document.querySelector('#samples button').dataset.place") != first


@pytest.mark.parametrize("width", [1300, 390])
def test_a_digit_is_drawn_and_erased_by_mouse_and_by_finger(page: Browser, folder: Path, width: int) -> None:
    page.resize(width, 1000)
    press_button(page, "clear")
    assert not shown(page)[0].any()
    way = on_board(page, (2, 1), (5.5, 1), (3.5, 7))
    (page.mouse if width > 1000 else page.finger)(*way)
    drawn, _ = shown(page)
    assert drawn[0, 0, 0, 3] > 0
    assert drawn[0, 0, 6, 3] > 0.5
    assert drawn[0, 0, 5:, 6:].sum() == 0
    assert np.array_equal(drawn * 16, np.rint(drawn * 16))
    assert "it is no test image" in page.run("document.getElementById('source').textContent")
    check(page, folder)
    (page.mouse if width > 1000 else page.finger)(*way)
    assert np.array_equal(shown(page)[0], drawn)  # ink on ink adds nothing
    page.run("document.querySelector('[value=erase]').click()")
    (page.mouse if width > 1000 else page.finger)(*way)
    assert not shown(page)[0].any()  # the same way back takes all of it
    check(page, folder)
    assert page.complaints == []


def test_keys_and_the_slider_change_one_pixel(page: Browser, folder: Path) -> None:
    before, _ = shown(page)
    page.run("document.getElementById('board').focus()")
    page.press("ArrowDown", "ArrowDown", "ArrowRight", "Delete", "+", "+", "+", "-")
    wanted = before.copy()
    wanted[0, 0, 2, 1] = 2 / 16
    assert np.array_equal(shown(page)[0], wanted)
    assert "1 pixel differs" in page.run("document.getElementById('source').textContent")
    assert not page.run("document.getElementById('cursor').hidden")
    check(page, folder)
    page.press("ArrowUp", "ArrowUp", "ArrowUp", *4 * ["ArrowRight"])  # no further than the edge
    page.run("(({level}) => { level.value = 15; level.dispatchEvent(new Event('input')); })(window)")
    wanted[0, 0, 0, 5] = 15 / 16
    assert np.array_equal(shown(page)[0], wanted)
    assert (
        page.run("document.getElementById('pixel').textContent") == "row 1, column 6: 0.9375, in the cell [0.9375, 1]"
    )
    check(page, folder)
    press_button(page, "undo")
    assert np.array_equal(shown(page)[0], before)


def test_a_pixel_is_picked_by_a_click(page: Browser) -> None:
    before, _ = shown(page)
    page.run("document.querySelector('[value=choose]').click()")
    page.mouse(*on_board(page, (6.5, 7.5)))
    assert page.run("document.getElementById('pixel').textContent").startswith("row 8, column 7:")
    assert np.array_equal(shown(page)[0], before)


def test_what_is_missing_is_named(chromium: Browser, address: str, folder: Path, tmp_path: Path) -> None:
    def notice() -> str:
        chromium.await_that("document.getElementById('try').dataset.state === 'failed'")
        assert chromium.run("document.getElementById('try').dataset.result") is None
        return str(chromium.run("document.getElementById('notice').innerText"))

    chromium.open(folder / "try.html")
    assert "abscert show FOLDER --serve" in notice()
    inner = folder / "without"
    inner.mkdir()
    (inner / "try.html").write_bytes((folder / "try.html").read_bytes())
    beside = address.replace("try.html", "without/try.html")
    chromium.visit(beside)
    assert "Cannot load guard.onnx" in notice()
    shutil.copyfile(folder / "run" / "deploy.onnx", inner / "guard.onnx")
    chromium.visit(beside)
    assert "guard.onnx is not the file that this page was written for" in notice()
    shutil.copyfile(folder / "guard.onnx", inner / "guard.onnx")
    chromium.visit(beside)
    assert "abscert demo --web" in notice()
    assert "npm pack onnxruntime-web@" in notice()
    chromium.run("document.getElementById('clear').click()")  # drawing needs no runtime
    assert json.loads(chromium.run("document.getElementById('try').dataset.pixels")) == SIDE * SIDE * [0]
