"""Which tools verify a file that onnxruntime mislabels: small traps of rounding, and a runner for each tool.

`write` makes the files: see trap_files. `ask` gives each to one tool and prints a JSON line for each property:
`verified` is wrong for all but the control, whose logits no rounding harms. A tool lives in an environment of its own,
and --python names that interpreter; --checkout the folder of alpha-beta-CROWN, or of another auto_LiRPA.

usage: python benchmarks/traps_of_other_tools.py write FOLDER
       python benchmarks/traps_of_other_tools.py ask FOLDER --tool proof|auto_LiRPA|alpha-beta-CROWN|marabou|vibecheck
           [--python PATH] [--checkout PATH] [--seconds 60] [--no-attack] >> benchmarks/records/traps.jsonl
       python benchmarks/traps_of_other_tools.py table benchmarks/records/traps.jsonl
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from trap_files import BOXES, INPUTS, TRAPS, Trap, write

BOUNDS: Final = ("ibp", "crown-ibp", "crown", "optimised")
CONTROL: Final = "control"
PACKAGES: Final = {
    "auto_LiRPA": "auto_LiRPA",
    "marabou": "maraboupy",
    "vibecheck": "vibecheck-nn",
}
WORDS: Final = {"unsat": "verified", "safe": "verified", "holds": "verified", "sat": "refuted", "violated": "refuted"}

# auto_LiRPA on a module of torch that has the file's constants; the margin is a last layer of its own.
LIRPA = """
import json, sys, warnings
warnings.simplefilter("ignore")
try:  # makes 0.3 run on current releases of torch
    from abscert_plugin.lirpa.compat import load_lirpa
    auto_LiRPA = load_lirpa()
except ImportError:
    import auto_LiRPA
import onnx, torch
from onnx import numpy_helper
from torch import nn

class Shift(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x):
        return x + self.shift

def layers(path):
    model = onnx.load(path)
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    for node in model.graph.node:
        given = [tensors[name] for name in node.input[1:]]
        if node.op_type == "Gemm":
            layer = nn.Linear(*given[0].shape)
            layer.weight.data, layer.bias.data = given[0].T.contiguous(), given[1]
            yield layer
        elif node.op_type == "Relu":
            yield nn.ReLU()
        else:
            yield Shift(given[0] if node.op_type == "Add" else -given[0])

task = json.loads(sys.stdin.read())
net = nn.Sequential(*layers(task["model"])).eval()
low, high = (torch.full((1, task["inputs"]), end) for end in task["box"])
middle = (low + high) / 2
bounded = auto_LiRPA.BoundedModule(net, middle, verbose=False)
norm = auto_LiRPA.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
x = auto_LiRPA.BoundedTensor(middle, norm)
rows = torch.tensor([[[1.0, -1.0]]])
methods = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "optimised": "CROWN-Optimized"}
found = float(bounded.compute_bounds(x=(x,), C=rows, method=methods[task["method"]], bound_upper=False)[0])
print("answer", "verified" if found > 0 else "unknown", found)
"""

MARABOU = """
import json, sys
from maraboupy import Marabou
task = json.loads(sys.stdin.read())
options = Marabou.createOptions(verbosity=0, timeoutInSeconds=int(task["seconds"]))
network = Marabou.read_onnx(task["model"])
inputs, outputs = network.inputVars[0].flatten(), network.outputVars[0].flatten()
for variable in inputs:
    network.setLowerBound(int(variable), task["box"][0])
    network.setUpperBound(int(variable), task["box"][1])
network.addInequality([int(outputs[0]), int(outputs[1])], [1.0, -1.0], 0.0)  # logit 0 - logit 1 <= 0
word, values, _ = network.solve(options=options, verbose=False)
print("answer", word, *(f"(X_{place} {values[int(variable)]!r})" for place, variable in enumerate(inputs) if values))
"""

VERSIONS = """
from importlib.metadata import PackageNotFoundError, version
names = "abscert-plugin auto_LiRPA maraboupy vibecheck-nn torch onnx onnxruntime onnxruntime-gpu"
for name in names.split():
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""


@dataclass(frozen=True)
class Task:
    """A question to a tool: where the files are, the box, and the tool's environment."""

    model: Path
    spec: Path
    box: tuple[float, float]
    python: str
    checkout: Path | None
    seconds: float
    attack: bool

    def run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        paths = [str(self.checkout)] if self.checkout is not None else []
        paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=self.seconds + 120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def snippet(self, code: str, **more: str) -> str:
        """Return what a snippet answers, given the question on its standard input."""
        question = {"model": str(self.model), "box": self.box, "inputs": INPUTS, "seconds": self.seconds, **more}
        done = self.run([self.python, "-c", code], json.dumps(question))
        answers = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("answer")]
        return answers[0] if answers else failure(done)

    def results_file(self, command: list[str], option: str) -> str:
        """Return what stands in the file into which a command writes its verdict."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answer.txt"
            done = self.run([*command, option, str(file)])
            said = " ".join(file.read_text().split()) if file.exists() else ""
        return said or failure(done)


def failure(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return f"failed: {lines[-1].strip() if lines else f'exit status {done.returncode}'}"


def ask_proof(task: Task, method: str) -> str:
    """Our own proof, in this process."""
    import torch

    from abscert_plugin.artifact.model_file import read_model
    from abscert_plugin.bounds.bounder import BoundMethod
    from abscert_plugin.bounds.proof import Proof
    from abscert_plugin.graph.nodes import read_graph

    proof = Proof(read_graph(read_model(task.model), task.model), "x", (INPUTS,), 2)
    low, high = (torch.full((1, INPUTS), end) for end in task.box)
    found = float(proof.margins(low, high, torch.tensor([0]), BoundMethod(method)))
    return f"{'verified' if found > 0 else 'unknown'} {found}"


def ask_lirpa(task: Task, method: str) -> str:
    return task.snippet(LIRPA, method=method)


def ask_marabou(task: Task, _method: str) -> str:
    return task.snippet(MARABOU)


def ask_vibecheck(task: Task, _method: str) -> str:
    command = [str(Path(task.python).parent / "vibecheck"), "--net", str(task.model), "--spec", str(task.spec)]
    command += ["--timeout", str(task.seconds), "--device", "cpu", *([] if task.attack else ["--no-attack"])]
    return task.results_file(command, "--results-file")


def ask_crown(task: Task, _method: str) -> str:
    assert task.checkout is not None, "--checkout is the folder of alpha-beta-CROWN"
    command = [task.python, str(task.checkout / "complete_verifier" / "abcrown.py"), "--device", "cpu"]
    command += ["--onnx_path", str(task.model), "--vnnlib_path", str(task.spec), "--timeout", str(task.seconds)]
    command += ["--pgd_order", "before" if task.attack else "skip"]
    with tempfile.TemporaryDirectory() as folder:
        config, example = Path(folder) / "config.yaml", Path(folder) / "example.txt"
        config.write_text("general: {}\n")  # all of its defaults, but it wants a file
        command += ["--config", str(config), "--save_adv_example", "--cex_path", str(example)]
        said = task.results_file(command, "--results_file")
        return f"{said} {' '.join(example.read_text().split())}" if example.exists() else said


TOOLS: Final[dict[str, tuple[Callable[[Task, str], str], tuple[str, ...]]]] = {
    "proof": (ask_proof, BOUNDS[:3]),
    "auto_LiRPA": (ask_lirpa, BOUNDS),
    "alpha-beta-CROWN": (ask_crown, ("",)),
    "marabou": (ask_marabou, ("",)),
    "vibecheck": (ask_vibecheck, ("",)),
}


def versions(options: argparse.Namespace) -> dict[str, str]:
    """Return the versions of what takes part, and the commit of a checkout."""
    done = subprocess.run([options.python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    if options.checkout is not None:
        command = ["git", "-C", str(options.checkout), "rev-parse", "--short", "HEAD"]
        found["checkout"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for text in map(Path.read_text, options.checkout.glob("auto_LiRPA/**/__init__.py")):
            if number := re.search(r"__version__ = '(.+)'", text):
                found["auto_LiRPA"] = number[1]
    return found


def ask(options: argparse.Namespace) -> None:
    tool, methods = TOOLS[options.tool]
    about = {"tool": options.tool, "versions": versions(options), "date": datetime.now(UTC).date().isoformat()}
    if options.no_attack:
        about["attack"] = "off"
    for trap in TRAPS:
        for box, ends in BOXES.items():
            names = options.folder / f"{trap.name}.onnx", options.folder / f"{trap.name}-{box}.vnnlib"
            task = Task(*names, ends, options.python, options.checkout, options.seconds, not options.no_attack)
            for method in methods:
                started = time.monotonic()
                try:
                    said = tool(task, method)
                except subprocess.TimeoutExpired:
                    said = "timeout"
                first = said.split()[0]
                verdict = "failed" if first == "failed:" else WORDS.get(first, first)
                verdict = verdict if verdict in ("verified", "refuted", "failed") else "unknown"
                line = {"trap": trap.name, "box": box, "method": method, "verdict": verdict, "said": said[:200]}
                if verdict == "refuted":
                    line["counterexample"] = judged(trap, ends, said)
                print(json.dumps({**about, **line, "seconds": round(time.monotonic() - started, 2)}), flush=True)


def judged(trap: Trap, ends: tuple[float, float], said: str) -> str:
    """Return what onnxruntime says to a tool's counterexample, rounded to float32 and cut to the box."""
    found = {int(place): float(value) for place, value in re.findall(r"\(\s*X_(\d+)\s+([-+\w.]+)\s*\)", said)}
    if sorted(found) != list(range(INPUTS)):
        return "none given"
    point = np.clip(np.array([found[place] for place in range(INPUTS)]), *ends).astype(np.float32)
    first, second = trap.run(point)
    return "true" if not first > second else "false"


def table(path: Path) -> str:
    """Return a Markdown table of what each tool said, the whole box / the corner; of methods, the worst."""
    rows: dict[str, dict[tuple[str, str], list[str]]] = {}
    for item in map(json.loads, path.read_text().splitlines()):
        cells = rows.setdefault(named(item), {})
        cells.setdefault((item["trap"], item["box"]), []).append(worded(item))
    traps = [trap.name for trap in TRAPS]
    lines = [f"| {' | '.join(['tool', *traps])} |", "|" + "---|" * (1 + len(traps))]
    for name, cells in rows.items():
        found = [" / ".join(min(cells[trap, box], key=WORST.index) for box in BOXES) for trap in traps]
        lines.append(f"| {' | '.join([name, *found])} |")
    return "\n".join(lines) + "\n"


WORST: Final = ("**verified**", "verified", "refuted falsely", "refuted", "open", "failed")


def named(item: dict[str, Any]) -> str:
    """Return a row's name: the tool, its version and what was left out."""
    found, tool = item["versions"], item["tool"]
    if tool == "proof":
        return "this project's proof"
    version = found.get(PACKAGES.get(tool, ""), found.get("checkout", ""))
    return f"{tool} {version}{', no attack' if item.get('attack') == 'off' else ''}"


def worded(item: dict[str, Any]) -> str:
    """Return a cell's word; what is wrong of it stands out."""
    verdict = item["verdict"]
    if verdict == "verified":
        return "verified" if item["trap"] == CONTROL else "**verified**"
    if verdict == "refuted":
        return "refuted falsely" if item["counterexample"] == "false" else "refuted"
    return "open" if verdict == "unknown" else "failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write the files and properties")
    writing.add_argument("folder", type=Path)
    asking = commands.add_parser("ask", help="ask one tool about all of them")
    asking.add_argument("folder", type=Path)
    asking.add_argument("--tool", choices=TOOLS, required=True)
    asking.add_argument("--python", default=sys.executable)
    asking.add_argument("--checkout", type=Path)
    asking.add_argument("--seconds", type=float, default=60)
    asking.add_argument("--no-attack", action="store_true", help="without a search for counterexamples, where optional")
    showing = commands.add_parser("table", help="print the table of kept lines")
    showing.add_argument("lines", type=Path)
    options = parser.parse_args()
    if options.command == "write":
        write(options.folder)
    elif options.command == "table":
        print(table(options.lines), end="")
    elif options.tool == "alpha-beta-CROWN" and options.checkout is None:
        parser.error("alpha-beta-CROWN is a folder: name it by --checkout")
    elif not (options.folder / "traps.json").exists():
        parser.error(f"expected the files that `write {options.folder}` makes")
    else:
        ask(options)


if __name__ == "__main__":
    main()
