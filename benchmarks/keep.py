"""Keep the records of finished runs: copy them, compressed, from a runs folder into benchmarks/records/single.

usage: python benchmarks/keep.py RUN_FOLDER [RUN_FOLDER ...]     (folders that `abscert train --out` wrote)
"""

import gzip
import shutil
import sys
from pathlib import Path

KEPT = Path(__file__).parent / "records" / "single"


def keep(run: Path) -> None:
    target = KEPT / run.name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "run.json", target / "train.json")
    shutil.copy(run / "history.jsonl", target / "history.jsonl")
    for verification in sorted(run.glob("verify-*")):
        folder = target / verification.name
        folder.mkdir(exist_ok=True)
        shutil.copy(verification / "run.json", folder / "run.json")
        rows = (verification / "records.jsonl").read_bytes()
        (folder / "records.jsonl.gz").write_bytes(gzip.compress(rows, mtime=0))


for argument in sys.argv[1:]:
    keep(Path(argument))
