"""Keep the records of finished runs: copy them, compressed, from a runs folder into benchmarks/records/single.

The network itself is kept with --network alone: what it is verified by again, and what a longer training begins with
(`abscert train --initial`). Epochs of the trainings before, whose weights a run began with, are kept beside its own:
--after names their folders, in order.

usage: python benchmarks/keep.py [--network] RUN_FOLDER [RUN_FOLDER ...] [--after RUN_FOLDER ...]
       (folders that `abscert train --out` wrote, or kept ones)
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path

from abscert_plugin.records import RECORDS, RUN, RunInfo, read_records
from compare.results.agreement import need_whole

KEPT = Path(__file__).parent / "records" / "single"


def history(run: Path) -> list[dict[str, object]]:
    """Return the epochs of a training, of one that was stopped too, with those before it."""
    former = run / "earlier.jsonl"
    before = former.read_text().splitlines() if former.exists() else []
    rows = [json.loads(line) for line in before]
    if (run / "history.jsonl").exists():
        return rows + [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [*rows, *json.loads((run / "checkpoint.json").read_text())["history"]]


def keep(run: Path, with_network: bool, after: list[Path]) -> None:
    kept = KEPT / run.name
    target = kept.with_name(f".{run.name}.part")  # it appears whole, in the place of what was kept before
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(run / "run.json", target / "train.json")
    shutil.copy(run / "history.jsonl", target / "history.jsonl")
    if after:
        rows = [json.dumps(row) + "\n" for one in after for row in history(one)]
        (target / "earlier.jsonl").write_text("".join(rows))
    if with_network:
        shutil.copy(run / "deploy.onnx", target / "deploy.onnx")
    for verification in sorted(set(run.glob("verify-*")) - set(run.glob("verify-*.old-*"))):  # set aside by --fresh
        folder = target / verification.name
        folder.mkdir(exist_ok=True)
        need_whole(verification, RunInfo.read(verification / RUN), read_records(verification / RECORDS))
        shutil.copy(verification / "run.json", folder / "run.json")
        rows = (verification / "records.jsonl").read_bytes()
        (folder / "records.jsonl.gz").write_bytes(gzip.compress(rows, mtime=0))
    shutil.rmtree(kept, ignore_errors=True)
    target.rename(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="store_true", help="keep deploy.onnx too")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--after", nargs="+", type=Path, default=[], metavar="RUN_FOLDER", help="the trainings before")
    asked = parser.parse_args()
    for run in asked.runs:
        keep(run, asked.network, asked.after)


if __name__ == "__main__":
    main()
