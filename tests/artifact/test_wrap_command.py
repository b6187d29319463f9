"""`abscert wrap` on the command line: bad input is one line on stderr and status 2, and nothing is written."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import bad_models as bad
import onnx_graphs as graphs
import pytest
from midpoint_oracle import listed

COMMAND = [sys.executable, "-c", "from abscert_plugin.cli import main; main()"]
# one process for many command lines, since most of a command's time is its start; each has its own stdout and stderr
MANY_COMMANDS = """
import json, os, sys
from abscert_plugin.cli import main
statuses = []
for place, arguments in enumerate(json.load(sys.stdin)):
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{place}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["abscert", *arguments]
    try:
        main()
    except SystemExit as end:
        statuses.append(end.code)
    sys.stdout.flush()
    sys.stderr.flush()
with open("statuses", "w") as file:
    json.dump(statuses, file)
"""
FLAGS = [
    (["--cells", "0"], "whole number of cells from 1 to 65,535, got 0"),
    (["--cells", "-1"], "from 1 to 65,535, got -1"),
    (["--cells", "65536"], "from 1 to 65,535, got 65536"),
    (["--cells", "ten"], "Invalid value for '--cells'.*--help"),
    (["--cells", "7", "--granularity", "0.5"], "--cells or --granularity, got both"),
    (["--granularity", "0.3"], "nearest"),
    (["--represent", "means"], "expected --data to count pixels of"),
    (["--represent", "modes"], "expected --represent: one of midpoints, means; got .modes."),
    (["--layout", "chw"], "expected --layout: one of nchw, nhwc, flat; got 'chw'"),
    (["--layout", "flat"], "got flat"),
    (["--image-shape", "4,4"], "--image-shape as C,H,W, such as 3,224,224, got '4,4'"),
    (["--image-shape", "1,3,4,4"], "--image-shape as C,H,W.*got '1,3,4,4'"),
    (["--image-shape", "3x4x4"], "--image-shape as C,H,W.*got '3x4x4'"),
    (["--image-shape", "3,4,0"], "sizes from 1, got 3,4,0"),
    (["--image-shape", "1,4,4"], "fits the input .* got 1,4,4"),
    (["--mean", "0.5,0.5"], "expected one mean or 3, one for each channel, got 2"),
    (["--mean", "0.1,0.2,0.3,0.4"], "expected one mean or 3, one for each channel, got 4"),
    (["--mean", " "], "expected --mean as numbers joined by commas, got ' '"),
    (["--mean", "nan"], "finite"),
    (["--std", "1,1"], "expected one std or 3, one for each channel, got 2"),
    (["--std", "0"], "every std above 0"),
    (["--std", "1;2;3"], "expected --std as numbers joined by commas, got '1;2;3'"),
    (["--input-range", "255"], "expected 2 numbers in --input-range, got '255'"),
    (["--input-range", "0,1,2"], "expected 2 numbers in --input-range, got '0,1,2'"),
    (["--input-range", "1,0"], "low < high, got 1,0"),
    (["--output", "nothing"], "got 'nothing'; it has 'y'"),
    (["--nonsense"], "No such option: --nonsense"),
]
IN_THE_WAY = [
    ("OUT/file", "cannot write into .*file: .*choose another folder"),
    ("OUT/file/below", "cannot write into .*file/below: .*choose another folder"),
    ("OUT", "deploy.onnx belongs to the classifier itself and would be replaced; choose another folder"),
]


class Case(NamedTuple):
    """A command line, what it has to say, and the folder that has to stay as it is."""

    arguments: list[str]
    match: str
    folder: Path


class Answer(NamedTuple):
    status: int
    out: str
    err: str


def cases(folder: Path) -> dict[str, Case]:
    """Return what to run, by name."""
    found: dict[str, Case] = {}
    for kind, (make, match) in bad.BAD_FILES.items():
        own = folder / f"file-{len(found)}"
        own.mkdir()
        arguments = ["wrap", str(make(own)), "--cells", "7", "--out", str(own / "out")]
        found[kind] = Case(arguments, match, own / "out")
    for flags, match in FLAGS:
        own = folder / f"flags-{len(found)}"
        own.mkdir()
        arguments = ["wrap", str(bad.good(own)), "--out", str(own / "out"), *flags]
        found[" ".join(flags)] = Case(arguments, match, own / "out")
    for out, match in IN_THE_WAY:
        own = folder / f"out-{len(found)}"
        own.mkdir()
        (own / "file").write_text("mine")
        path = graphs.save(graphs.linear(), own, "deploy.onnx")
        found[out] = Case(["wrap", str(path), "--out", out.replace("OUT", str(own))], match, own)
    return found


NAMES = [*bad.BAD_FILES, *(" ".join(flags) for flags, _ in FLAGS), *(out for out, _ in IN_THE_WAY)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Case, list[str], Answer]]:
    """Return each case, what its folder held before it was run, and what it answered."""
    folder = tmp_path_factory.mktemp("commands")
    todo = cases(folder)
    before = [listed(case.folder) for case in todo.values()]
    lines = json.dumps([case.arguments for case in todo.values()])
    command = [sys.executable, "-c", MANY_COMMANDS]
    result = subprocess.run(command, input=lines, text=True, cwd=folder, check=False, timeout=300)
    assert result.returncode == 0
    statuses = json.loads((folder / "statuses").read_text())
    answered = [
        Answer(status, *((folder / f"{place}.{name}").read_text() for name in ("out", "err")))
        for place, status in enumerate(statuses)
    ]
    return dict(zip(todo, zip(todo.values(), before, answered, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_status_2(answers: dict[str, tuple[Case, list[str], Answer]], name: str) -> None:
    case, before, answer = answers[name]
    assert answer.status == 2, answer.err
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert re.search(case.match, answer.err)
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1
    assert listed(case.folder) == before


@pytest.mark.slow
def test_the_command_by_itself_refuses_in_one_line(tmp_path: Path) -> None:
    make, _ = bad.BAD_FILES["unknown operator"]
    command = [*COMMAND, "wrap", str(make(tmp_path)), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: onnxruntime cannot load ")
    assert result.stderr.count("\n") == 1
    assert listed(tmp_path / "out") == []
