"""Read the records of verifications, and write a line for each.

    python examples/read_records.py runs/example/verify-cell runs/example/verify-ball

Rates are computed from the rows; run.json says how they were made.
"""

import sys
from collections import Counter
from pathlib import Path

from abscert_plugin.records import RunInfo, read_records
from abscert_plugin.verification.summary import summarise


def main(folders: list[Path]) -> None:
    for folder in folders:
        records = read_records(folder / "records.jsonl")
        info = RunInfo.read(folder / "run.json")
        summary = summarise(records)
        low, high = summary.interval
        radius = info.configuration.get("radius")
        claim = summary.claim if radius is None else f"{summary.claim}, radius {radius}"
        print(f"{folder.name} ({claim}): verified error {summary.verified_error:.2%}, from {low:.2%} to {high:.2%}")
        for reason, count in Counter((row.verdict, row.method) for row in records).most_common():
            print(f"  {count:>4} {' by '.join(reason)}")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
