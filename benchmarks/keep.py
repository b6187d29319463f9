"""Keep the records of finished runs: copy them, compressed, from a runs folder into benchmarks/records/single.

The network itself is kept with --network alone: what it is verified by again, and what a longer training begins with
(`abscert train --initial`).

usage: python benchmarks/keep.py [--network] RUN_FOLDER [RUN_FOLDER ...]     (folders that `abscert train --out` wrote)
"""

import argparse
import gzip
import shutil
from pathlib import Path

KEPT = Path(__file__).parent / "records" / "single"


def keep(run: Path, with_network: bool) -> None:
    target = KEPT / run.name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "run.json", target / "train.json")
    shutil.copy(run / "history.jsonl", target / "history.jsonl")
    if with_network:
        shutil.copy(run / "deploy.onnx", target / "deploy.onnx")
    for verification in sorted(run.glob("verify-*")):
        folder = target / verification.name
        folder.mkdir(exist_ok=True)
        shutil.copy(verification / "run.json", folder / "run.json")
        rows = (verification / "records.jsonl").read_bytes()
        (folder / "records.jsonl.gz").write_bytes(gzip.compress(rows, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="store_true", help="keep deploy.onnx too")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    asked = parser.parse_args()
    for run in asked.runs:
        keep(run, asked.network)


if __name__ == "__main__":
    main()
