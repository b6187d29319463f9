"""Print the tables of docs/RESULTS.md from the rows in benchmarks/records; no torch, no model.

usage: python benchmarks/results_table.py
"""

import json
from pathlib import Path

from abscert_plugin.records import RunInfo, read_records
from abscert_plugin.verification.summary import summarise

KEPT = Path(__file__).parent / "records"


def main() -> None:
    columns = "data, network, method, cells N, epochs (best), claim, radius, images, certified, falsified, unknown"
    print(f"| {columns.replace(', ', ' | ')} | error | 95 % interval | clean error | seconds |")
    print("|---|---|---|--:|--:|---|---|--:|--:|--:|--:|--:|---|--:|--:|")
    for path in sorted(KEPT.glob("*/verify-*/records.jsonl.gz")):
        summary = summarise(read_records(path))
        run = RunInfo.read(path.with_name("run.json"))
        training = json.loads((path.parent.parent / "train.json").read_text())
        options, data = training["configuration"], run.data or {}
        row = read_records(path)[0]
        radius = "none" if row.radius is None else f"{row.radius:.4g} ({row.radius_scale})"
        low, high = summary.interval
        print(
            f"| {data['name']} | {options['network']}, {options['activation']} "
            f"| {options['method']} | {options['cells']} "
            f"| {options['training']['epochs']} ({training['model']['best_epoch']}) | {summary.claim} | {radius} "
            f"| {summary.images:,} | {summary.certified:,} | {summary.falsified:,} | {summary.unknown:,} "
            f"| {100 * summary.verified_error:.2f} % | {100 * low:.2f} to {100 * high:.2f} "
            f"| {100 * summary.clean_error:.2f} % | {summary.seconds:,.0f} |"
        )


main()
