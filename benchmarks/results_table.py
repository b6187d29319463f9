"""Print the tables of docs/RESULTS.md from the rows in benchmarks/records; no torch, no model.

Error under attack counts images that the forward pass or an attack refutes: at most what a longer attack would find.

usage: python benchmarks/results_table.py
"""

import json
import statistics
from pathlib import Path

from abscert_plugin.records import RunInfo, read_records
from abscert_plugin.verification.summary import summarise

KEPT = Path(__file__).parent / "records"
ATTACKS = ("forward", "gradient attack", "score attack")


def main() -> None:
    columns = "data, network, method, cells N, epochs (best), claim, radius, images, certified, falsified, unknown"
    rest = "error | 95 % interval | clean error | error under attack | seconds | seconds an epoch"
    print(f"| {columns.replace(', ', ' | ')} | {rest} |")
    print("|---|---|---|--:|--:|---|---|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|")
    for path in sorted(KEPT.glob("*/verify-*/records.jsonl.gz")):
        summary = summarise(read_records(path))
        run = RunInfo.read(path.with_name("run.json"))
        training = json.loads((path.parent.parent / "train.json").read_text())
        options, data = training["configuration"], run.data or {}
        rows = read_records(path)
        row = rows[0]
        attacked = sum(item.verdict == "falsified" and item.method in ATTACKS for item in rows) / len(rows)
        history = (path.parent.parent / "history.jsonl").read_text().splitlines()
        pace = statistics.median(json.loads(line)["seconds"] for line in history)
        radius = "none" if row.radius is None else f"{row.radius:.4g} ({row.radius_scale})"
        low, high = summary.interval
        print(
            f"| {data['name']} | {options['network']}, {options['activation']} "
            f"| {options['method']} | {options['cells']} "
            f"| {options['training']['epochs']} ({training['model']['best_epoch']}) | {summary.claim} | {radius} "
            f"| {summary.images:,} | {summary.certified:,} | {summary.falsified:,} | {summary.unknown:,} "
            f"| {100 * summary.verified_error:.2f} % | {100 * low:.2f} to {100 * high:.2f} "
            f"| {100 * summary.clean_error:.2f} % | {100 * attacked:.2f} % | {summary.seconds:,.0f} | {pace:,.0f} |"
        )


main()
