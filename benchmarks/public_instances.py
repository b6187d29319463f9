"""Public VNN-LIB instances, some of each category, and what alpha-beta-CROWN says of them.

usage: python benchmarks/public_instances.py few CHECKOUT/benchmarks... --each 12 --seconds 20 --into FEW
       python benchmarks/public_instances.py ask FEW --python PYTHON --checkout ALPHA_BETA_CROWN --into results.csv
       abscert bench FEW --out runs/few --against results.csv

`few` takes lines at equal distances of each category's list. `ask` gives each instance to a process of its own, on one
thread and the CPU, with the settings that alpha-beta-CROWN's own scripts have for the category; it goes on with a
results.csv that it finds. Seconds are those of the process from start to end, as `abscert bench` has them.
"""

import argparse
import csv
import gzip
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from abscert_plugin.cores import with_threads
from abscert_plugin.instances.listing import Instance, read_lists

SETTINGS: Final = {
    "acasxu": "vnncomp21/acasxu.yaml",
    "mnistfc": "vnncomp22/mnistfc.yaml",
    "oval21": "vnncomp21/oval21.yaml",
    "cifar10_resnet": "vnncomp21/cifar10-resnet.yaml",
    "eran": "vnncomp21/eran_mlp.yaml",
    "marabou-cifar10": "vnncomp21/marabou_cifar10.yaml",
    "sri_resnet_a": "vnncomp22/resnet_A.yaml",
    "sri_resnet_b": "vnncomp22/resnet_B.yaml",
    "cgan": "vnncomp23/cgan.yaml",
    "collins_rul_cnn": "vnncomp23/collins-rul-cnn.yaml",
    "dist_shift": "vnncomp23/dist-shift.yaml",
    "tllverifybench": "vnncomp23/tllVerifyBench.yaml",
    "vit": "vnncomp23/vit.yaml",
    "cora": "vnncomp24/cora.yaml",
    "linearizenn": "vnncomp24/linearizenn.yaml",
    "cifar100": "vnncomp24/cifar100.yaml",
    "tinyimagenet": "vnncomp24/tinyimagenet.yaml",
}
"""Of the categories that are asked about, what its vnncomp_scripts take, below complete_verifier/exp_configs."""
SIGMOID: Final = "vnncomp21/eran_sigmoid.yaml"  # of the networks of `eran` that have sigmoids in them
_CUTS: Final = re.compile(r"(\bcut:\s+enabled:) True")  # by CPLEX, which is not to be had freely
PATIENCE: Final = 60.0  # seconds past its time-out after which it is ended


def few(folders: Sequence[Path], each: int, seconds: float, into: Path) -> None:
    """Copy some instances of each category into a folder of their own."""
    for path in sorted(found for folder in folders for found in folder.glob("*/*instances.csv")):
        if path.parent.name not in SETTINGS:
            continue
        instances = read_lists([path])
        step = max(len(instances) / each, 1.0)
        out = into / path.parent.name
        out.mkdir(parents=True, exist_ok=True)
        with (out / "instances.csv").open("w") as chosen:
            for one in (instances[int(index * step)] for index in range(min(each, len(instances)))):
                for file in (one.network_file, one.query_file):
                    copy = out / file.relative_to(path.parent)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    if file.suffix == ".gz":  # which not every solver reads
                        copy.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
                    else:
                        shutil.copy(file, copy)
                print(one.network, one.query, f"{seconds:g}", sep=",", file=chosen)


def ask(instances: Sequence[Instance], python: str, checkout: Path, into: Path) -> None:
    """Ask alpha-beta-CROWN about instances, and add a line of the competition's results for each."""
    known = {tuple(line[:3]) for line in csv.reader(into.read_text().splitlines())} if into.exists() else set()
    with into.open("a") as results:
        for one in (one for one in instances if one.key not in known):
            before = time.monotonic()
            word = answer(one, python, checkout)
            seconds = time.monotonic() - before
            print(*one.key, 0.0, word, f"{seconds:.3f}", sep=",", file=results, flush=True)
            print(*one.key, word, f"{seconds:.1f} s", flush=True)


def answer(one: Instance, python: str, checkout: Path) -> str:
    """Return its word about an instance."""
    settings = SIGMOID if "SIGMOID" in one.network else SETTINGS[one.category]
    with tempfile.TemporaryDirectory() as folder:
        results, config = Path(folder) / "results.txt", Path(folder) / "config.yaml"
        text = (checkout / "complete_verifier" / "exp_configs" / settings).read_text()
        config.write_text(_CUTS.sub(r"\1 False", text))
        command = [python, "abcrown.py", "--config", str(config), "--device", "cpu"]
        command += ["--onnx_path", str(one.network_file.resolve()), "--vnnlib_path", str(one.query_file.resolve())]
        command += ["--results_file", str(results), "--timeout", f"{one.timeout:g}"]
        try:
            subprocess.run(
                command,
                cwd=checkout / "complete_verifier",
                env={**with_threads(1), "PYTHONPATH": str(checkout / "auto_LiRPA")},
                capture_output=True,
                timeout=one.timeout + PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        words = re.findall(r"\w+", results.read_text()) if results.exists() else []
    return words[0] if words else "error"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    choosing = commands.add_parser("few", help="copy some instances of each category")
    choosing.add_argument("folders", type=Path, nargs="+", help="`benchmarks` of checkouts of vnncomp20XX")
    choosing.add_argument("--each", type=int, default=12, help="so many of each category")
    choosing.add_argument("--seconds", type=float, default=20.0, help="time-out of each")
    choosing.add_argument("--into", type=Path, required=True)
    asking = commands.add_parser("ask", help="ask alpha-beta-CROWN")
    asking.add_argument("folder", type=Path, help="what `few` wrote")
    asking.add_argument("--python", required=True, help="interpreter with what alpha-beta-CROWN needs")
    asking.add_argument("--checkout", type=Path, required=True, help="its folder, with auto_LiRPA in it")
    asking.add_argument("--into", type=Path, required=True, help="results.csv, gone on with where it is there")
    options = parser.parse_args()
    if options.command == "few":
        few(options.folders, options.each, options.seconds, options.into)
    else:
        ask(read_lists([options.folder]), options.python, options.checkout, options.into)


if __name__ == "__main__":
    main()
