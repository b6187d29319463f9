"""What README and docs say: their commands are parsed and, but for a few, carried out; their Python is executed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import typer
from command_line import abscert, linear_model
from PIL import Image
from registered import write_package
from scripts import ONE_AFTER_THE_OTHER, run_script

from abscert_plugin.cli.app import build_app
from abscert_plugin.data import Split, load_data
from abscert_plugin.records import read_records

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
FIRST: Final = DOCS / "index.md"
PAGES: Final = [FIRST, *sorted((DOCS / "howto").glob("*.md"))]
TEXTS: Final = [DOCS / f"{name}.md" for name in ("METHOD", "errors", "figures", "files", "paper", "verdicts")]
EXTEND: Final = ROOT / "docs" / "howto" / "extend.md"
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *TEXTS, *PAGES)
RUNNERS: Final = (ROOT / "README.md", *PAGES)
LONGEST_README: Final = 120
ONLY_PARSED: Final = {
    "abscert compare run digits-smoke": "tests/compare/test_smoke.py carries it out, in a minute",
    "abscert queries": "images of 224 x 224 make long queries; tests/test_cli_foreign.py carries it out",
    "abscert bench": "tests/instances carries it out",
    "abscert verify query.vnnlib": "tests/query has queries",
    "abscert verify deploy.onnx --then": "vibecheck is not here; tests/verification/test_following.py has programs",
    "abscert check proof.json": "tests/query has proofs",
    "abscert compare times": "times five trainings of Table 3, for hours",
    "abscert compare landscape": "needs weights, which the records do not keep; tests/compare/landscape has some",
}
TEST_IMAGES: Final = 5
PLACES: Final = {"/path/to/images": "images"}
BLOCKS: Final = re.compile(r"^```(\w+)\n(.*?)^```$|((?:^    [^\n]*\n|^\n(?=    ))+)", re.DOTALL | re.MULTILINE)


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every block of code of a document with its language; an indented one says none."""
    for match in BLOCKS.finditer(path.read_text(encoding="utf-8")):
        language, fenced, indented = match.groups()
        if fenced is not None:
            yield language, fenced
        else:
            yield "", re.sub(r"^    ", "", indented, flags=re.MULTILINE)


def python_blocks(path: Path) -> list[str]:
    """Return the blocks that are Python: those that say so, and indented ones that import."""
    return [
        text
        for language, text in blocks(path)
        if language == "python" or (not language and re.match(r"\s*(from|import) ", text))
    ]


def commands(path: Path) -> list[list[str]]:
    """Return the words of every line of a document's blocks that calls `abscert`."""
    lines = [
        line
        for language, text in blocks(path)
        if language in ("", "sh")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("abscert ")]


def mentions(path: Path) -> list[list[str]]:
    """Return the words of every command that a document's text names between backticks."""
    spans = re.findall(r"(?<!`)`(abscert [^`]+)`(?!`)", path.read_text(encoding="utf-8"))
    return [shlex.split(span) for span in spans]


def fault(words: Sequence[str]) -> str | None:
    """Return the class of the error that parsing a command ends with: typer hides these classes. None: it is parsed."""
    try:
        parse([word for word in words if word != "--help"])
    except Exception as error:  # noqa: BLE001 - whatever it is, it is named
        return type(error).__name__
    return None


def parse(words: Sequence[str]) -> None:
    """Raise KeyError for an unknown command, and typer's error for anything else that it refuses."""
    command: Any = typer.main.get_command(build_app())
    name, *rest = words
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, *rest = rest
        command = command.commands[name]
    if not hasattr(command, "commands"):
        command.make_context(name, list(rest))


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- what is written is a command that there is ----------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_command_is_parsed(path: Path) -> None:
    for words in commands(path):
        parse(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_command_that_the_text_names_exists_with_these_options(path: Path) -> None:
    for words in mentions(path):
        if words[1:2] == ["metadata"]:  # added by examples/plugins/command, which another test installs and runs
            continue
        assert fault(words) in (None, "MissingParameter"), words  # a text may leave out what a command needs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("abscert nonsense", "KeyError"),
        ("abscert compare nonsense", "KeyError"),
        ("abscert verify deploy.onnx --nonsense", "NoSuchOption"),
        ("abscert verify", "MissingParameter"),
        ("abscert verify deploy.onnx --claim nonsense", "BadParameter"),
        ("abscert verify deploy.onnx --radius", "BadOptionUsage"),
    ],
)
def test_what_is_no_command_is_seen(line: str, expected: str) -> None:
    assert fault(shlex.split(line)) == expected


def test_the_documents_have_commands_and_python() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < LONGEST_README
    assert len(commands(ROOT / "README.md")) >= 6
    assert len(python_blocks(ROOT / "README.md")) == 1
    assert all(commands(path) or python_blocks(path) for path in PAGES if path.parent != DOCS and path.stem != "index")


def test_the_three_scripts_of_the_first_page_are_short() -> None:
    shared, *scripts = python_blocks(FIRST)
    assert len(scripts) == 3
    for text in scripts:
        assert text.startswith("import abscert_plugin as abscert\n")
        assert len(text.splitlines()) < 12
        assert "abscert" not in shared


def test_the_readme_says_what_the_page_of_results_says() -> None:
    row = re.compile(r"^\| `([a-z-]+)`[^|]*((?:\| [\d.]+ ){4})\|$", re.MULTILINE)
    told = row.findall((ROOT / "README.md").read_text("utf-8"))
    found = dict(row.findall((DOCS / "RESULTS.md").read_text("utf-8")))
    assert len(told) >= 9
    for name, figures in told:
        assert figures == found[name], name


def test_every_make_target_that_the_text_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        named = re.findall(r"(?:`|^    )make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= targets, path


def test_what_is_only_parsed_still_stands_somewhere() -> None:
    lines = [shlex.join(words) for path in RUNNERS for words in commands(path)]
    assert all(any(line.startswith(start) for line in lines) for start in ONLY_PARSED)


# --- and it does what is written -------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_small_mnist(folder: Path) -> None:
    """Write scikit-learn's digits as MNIST's four files: 28 x 28 pixels, few images."""
    folder.mkdir(parents=True)
    for part, split, count in (("train", Split.TRAIN, 300), ("t10k", Split.TEST, TEST_IMAGES)):
        batch = load_data("digits", split).take(np.arange(count))
        grey = (batch.images.reshape(-1, 8, 8).astype(np.float64) * 255 / 16).round().astype(np.uint8)
        images = np.pad(grey.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(batch.labels.astype(np.uint8)))


def write_images(folder: Path) -> None:
    """Write class folders: two classes of five pictures."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data that the documents presuppose; nothing is written there."""
    folder = tmp_path_factory.mktemp("shelf")
    write_small_mnist(folder / "data" / "mnist")
    write_images(folder / "images")
    return folder


@pytest.fixture
def place(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a new one, with the data that the documents presuppose."""
    (tmp_path / "images").symlink_to(shelf / "images")
    monkeypatch.setenv("ABSCERT_DATA", str(shelf / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def carry_out(path: Path) -> int:
    """Carry a document's commands out in the current folder, in order; return how many."""
    count = 0
    if "results" in path.read_text(encoding="utf-8"):  # of many runs, which are in the repository
        shutil.copytree(ROOT / "benchmarks" / "records", "results")
    for words in commands(path):
        if any(shlex.join(words).startswith(start) for start in ONLY_PARSED):
            continue
        abscert(*(PLACES.get(word, word) for word in words[1:]))
        count += 1
    return count


def execute(path: Path, before: str = "", after: str = "") -> None:
    """Execute a document's blocks of Python as one script in the current folder, as a reader does."""
    script = Path("script.py")
    script.write_text("\n".join((before, *python_blocks(path), after)), encoding="utf-8")
    run_script(script)


OWN: Final = """
import numpy as np
from torch import nn
network, images, labels = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), np.full((3, 1, 2, 2), 0.5), np.array([0, 1, 0])
"""
HELD_OF_THE_FIRST: Final = """
assert verdicts.certified.mean() > 0.5
assert answers.certified.mean() > 0.5
assert (answers.label == test_labels)[answers.certified].mean() > 0.8
"""
HELD_OF_BOUNDS: Final = """
logits = deployed(images)
assert bool(((lower <= logits) & (logits <= upper)).all())
"""


@pytest.mark.slow
def test_the_readme_does_what_it_says(place: Path) -> None:
    assert carry_out(ROOT / "README.md") >= 6
    execute(ROOT / "README.md", OWN, "assert len(verdicts) == 3")


@pytest.mark.slow
def test_the_three_scripts_do_what_the_first_page_says(place: Path) -> None:
    execute(FIRST, "import torch; torch.manual_seed(0)", HELD_OF_THE_FIRST)
    assert (place / "guard.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if path.stem != "index" and path != EXTEND], ids=ids)
def test_a_page_does_what_it_says(path: Path, place: Path) -> None:
    linear_model(place / "model.onnx")
    if python_blocks(path):
        execute(path, after=HELD_OF_BOUNDS if path.stem == "lirpa" else "")
    if "--image-size 224" in path.read_text(encoding="utf-8"):
        linear_model(place / "model.onnx", (3, 224, 224), classes=2)
    carry_out(path)


@pytest.mark.slow
def test_the_packages_of_the_page_on_extending_work(tmp_path: Path) -> None:
    found = dict.fromkeys(("python", "toml"), "")
    for language, text in blocks(EXTEND):
        found[language] = text
        if language == "toml":
            ((group, entries),) = tomllib.loads(text)["project"]["entry-points"].items()
            ((name, place),) = entries.items()
            module, _, attribute = place.partition(":")
            write_package(tmp_path, module, found["python"], {group: {name: attribute}})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    lines = [*commands(EXTEND), ["abscert", "greet"], ["abscert", "baseline", "list", "--json"]]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    *_, greeted, listed = done.stdout.split("\0")[:-1]
    assert greeted == "hello\n"
    assert '"smoothed"' in listed
    assert len(read_records(tmp_path / "runs" / "own" / "verify-deploy-stripes-cell" / "records.jsonl")) == 100
