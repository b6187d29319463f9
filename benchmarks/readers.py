"""Which verifiers read our files as they are written: two questions about each, of which one has no answer.

`write` makes small networks that were not trained: plain deploy.onnx, abstract.onnx, one wrapped, and a deploy.onnx
with cells. Of each it asks in VNN-LIB 1, over a box of radius 1/10,000 around an input, whether another class can reach
the score of the class that it has there (`unsat`, and onnxruntime shows by how much), and of another class (`sat`).
`ask` gives both to one tool and prints a JSON line for each file: `reads` where both answers are right, `wrong` where
one is wrong, `refuses` where the tool fails, and
`no answer` where it ends without one. `table` prints what docs/howto/queries.md shows.

A tool lives in an environment of its own, and --python names that interpreter; --checkout the folder of
alpha-beta-CROWN or NeuralSAT.

usage: python benchmarks/readers.py write FOLDER
       python benchmarks/readers.py ask FOLDER --tool alpha-beta-CROWN|vibecheck|neuralsat|marabou --python PATH
           [--checkout PATH] [--seconds 60] >> benchmarks/records/readers.jsonl
       python benchmarks/readers.py table benchmarks/records/readers.jsonl
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch

from abscert_plugin.artifact.export import export, traced
from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.verification.queries import BoxQuestion, version_1

GRAY: Final = (1, 8, 8)
COLOUR: Final = (3, 12, 12)
CLASSES: Final = 10
RADIUS: Final = 1e-4
NETWORKS: Final = (
    ("fc-3-code", Activation.RELU, GRAY),
    ("cnn-2layer", Activation.RELU, GRAY),
    ("cnn-3layer", Activation.RELU, COLOUR),
    ("dm-small", Activation.SIGMOID, GRAY),
    ("dm-small", Activation.TANH, COLOUR),
)
WRAPPED: Final = "cnn-2layer"
WITH_CELLS: Final = "fc-3-code"
VERSIONS: Final = """
from importlib.metadata import PackageNotFoundError, version
for name in "maraboupy vibecheck-nn onnx2pytorch torch onnx".split():
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
MARABOU: Final = """
import sys
from maraboupy import Marabou
network = Marabou.read_onnx(sys.argv[1])
options = Marabou.createOptions(verbosity=0, timeoutInSeconds=int(float(sys.argv[3])))
print("answer", network.solve(propertyFilename=sys.argv[2], options=options, verbose=False)[0])
"""


def write(folder: Path) -> None:
    """Write the files, and the questions about each beside it."""
    for name, activation, shape in NETWORKS:
        probes = np.random.default_rng(1).random((2, *shape), dtype=np.float32)
        title = f"{name}-{activation}"
        plain = NetworkConfig(name, activation, shape, CLASSES, takes_intervals=False)
        torch.manual_seed(0)
        export_plain(plain.build(0), plain, "none", probes, folder / "plain" / title)
        _ask_about(folder / "plain" / title / "deploy.onnx", shape)
        cells = NetworkConfig(name, activation, shape, CLASSES)
        export(cells.build(0), cells, Grid(10), "none", probes, folder / "cells" / title)
        _ask_about(folder / "cells" / title / "abstract.onnx", cells.input_shape)
        if name == WITH_CELLS:
            _ask_about(folder / "cells" / title / "deploy.onnx", shape)
        if name == WRAPPED:
            source = folder / "source.onnx"
            onnx.save_model(traced(plain.build(0).eval(), "x", shape, CLASSES), str(source))
            wrap(source, folder / "wrapped" / title, WrapOptions(Grid(10)))
            _ask_about(folder / "wrapped" / title / "abstract.onnx", cells.input_shape)


def _ask_about(path: Path, shape: tuple[int, ...]) -> None:
    center = np.random.default_rng(0).random(shape, dtype=np.float32)
    label = int(BlackBox(path, Provider.CPU).run(center[None])[0].argmax())
    lower, upper = (center + np.float32(way * RADIUS) for way in (-1, 1))
    for answer, asked in (("unsat", label), ("sat", (label + 1) % CLASSES)):
        text = version_1(BoxQuestion(0, asked, lower, upper), CLASSES)
        path.with_suffix(f".{answer}.vnnlib").write_text(text)


def ask_vibecheck(options: argparse.Namespace, network: Path, query: Path, results: Path) -> list[str]:
    command = [str(Path(options.python).parent / "vibecheck"), "--net", str(network), "--spec", str(query)]
    return [*command, "--timeout", str(options.seconds), "--device", "cpu", "--results-file", str(results)]


def ask_crown(options: argparse.Namespace, network: Path, query: Path, results: Path) -> list[str]:
    config = results.with_name("config.yaml")
    config.write_text("general: {}\n")
    script = options.checkout / "complete_verifier" / "abcrown.py"
    command = [options.python, str(script), "--device", "cpu", "--config", str(config), "--onnx_path", str(network)]
    return [*command, "--vnnlib_path", str(query), "--timeout", str(options.seconds), "--results_file", str(results)]


def ask_neuralsat(options: argparse.Namespace, network: Path, query: Path, results: Path) -> list[str]:
    command = [options.python, str(options.checkout / "neuralsat-pt201" / "main.py"), "--net", str(network)]
    command += ["--spec", str(query), "--timeout", str(options.seconds), "--device", "cpu", "--verbosity", "0"]
    return [*command, "--result_file", str(results)]


def ask_marabou(options: argparse.Namespace, network: Path, query: Path, _results: Path) -> list[str]:
    return [options.python, "-c", MARABOU, str(network), str(query), str(options.seconds)]


TOOLS: Final[dict[str, Callable[[argparse.Namespace, Path, Path, Path], list[str]]]] = {
    "alpha-beta-CROWN": ask_crown,
    "vibecheck": ask_vibecheck,
    "neuralsat": ask_neuralsat,
    "marabou": ask_marabou,
}


def answered(options: argparse.Namespace, network: Path, query: Path) -> str:
    """Return a tool's word, or the last line of what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.txt"
        command = TOOLS[options.tool](options, network, query, results)
        checkout = "" if options.checkout is None else str(options.checkout)
        environment = {**os.environ, "PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=options.seconds + 120, cwd=folder, env=environment
            )
        except subprocess.TimeoutExpired:
            return "no answer in time"
        said = re.split(r"[\s,]+", results.read_text().strip()) if results.exists() else []
    said += [line.split()[1] for line in done.stdout.splitlines() if line.startswith("answer ")]
    if said and said[0] in ("sat", "unsat"):
        return said[0]
    lines = [line.strip() for text in (done.stdout, done.stderr) for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if re.match(r"\w*(Error|Exception)\b", line)] or lines
    return f"{' '.join(said[:1])} {lines[-1][:160] if lines else done.returncode}".strip()


def ask(options: argparse.Namespace) -> None:
    """Print a line for each file."""
    done = subprocess.run([options.python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    versions = dict(line.split() for line in done.stdout.splitlines())
    if options.checkout is not None:
        command = ["git", "-C", str(options.checkout), "rev-parse", "--short", "HEAD"]
        versions["checkout"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    about = {"tool": options.tool, "versions": versions, "date": datetime.now(UTC).date().isoformat()}
    for network in sorted(options.folder.glob("*/*/*.onnx")):
        queries = {answer: network.with_suffix(f".{answer}.vnnlib") for answer in ("unsat", "sat")}
        if not all(query.exists() for query in queries.values()):
            continue
        said = {answer: answered(options, network, query) for answer, query in queries.items()}
        kinds = {"right" if word == wanted else "wrong" for wanted, word in said.items() if word in queries}
        failed = [word for word in said.values() if word not in queries]
        ended = all(word.split()[0].lower() in ("no", "timeout", "timed-out", "unknown") for word in failed)
        verdict = "wrong" if "wrong" in kinds else "reads" if not failed else "no answer" if ended else "refuses"
        kind, title, name = network.relative_to(options.folder).parts
        line = {"kind": kind, "network": title, "file": name, "verdict": verdict, "said": said}
        print(json.dumps({**about, **line}), flush=True)


def table(path: Path) -> str:
    """Return a Markdown table: a row for each file, a column for each tool."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    tools = list(dict.fromkeys(map(_named, lines)))
    files = list(dict.fromkeys((line["kind"], line["file"], line["network"]) for line in lines))
    cells = {(line["kind"], line["file"], line["network"], _named(line)): line["verdict"] for line in lines}
    rows = [["file", "network", *tools], ["---"] * (len(tools) + 2)]
    for kind, file, network in files:
        found = [cells.get((kind, file, network, tool), "not asked") for tool in tools]
        rows.append([f"{file}, {kind}", network, *found])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _named(line: dict[str, Any]) -> str:
    versions = line["versions"]
    known = (versions.get(name) for name in ("maraboupy", "vibecheck-nn", "checkout"))
    return f"{line['tool']} {next(filter(None, known), '')}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="write the files and questions").add_argument("folder", type=Path)
    asking = commands.add_parser("ask", help="ask one tool about all of them")
    asking.add_argument("folder", type=Path)
    asking.add_argument("--tool", choices=TOOLS, required=True)
    asking.add_argument("--python", default=sys.executable)
    asking.add_argument("--checkout", type=Path)
    asking.add_argument("--seconds", type=int, default=60)
    showing = commands.add_parser("table", help="print the table of kept lines")
    showing.add_argument("lines", type=Path)
    options = parser.parse_args()
    if options.command == "write":
        write(options.folder)
    elif options.command == "table":
        print(table(options.lines), end="")
    else:
        ask(options)


if __name__ == "__main__":
    main()
