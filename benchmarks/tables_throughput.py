"""Make every table of 100,000 record rows, in every format; exits with 1 where that takes more than 5 s.

usage: python benchmarks/tables_throughput.py
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from abscert_plugin.claim import RadiusScale
from abscert_plugin.files import write_json
from abscert_plugin.records import Record, RecordWriter, RunInfo
from compare.plans.planned_run import Run, as_mapping
from compare.results.stored_run import CONFIG, DONE, RUNS
from compare.tables.catalogue import select_tables
from compare.tables.formats import FORMATS

RUNS_MADE, IMAGES, LONGEST = 5, 10_000, 5.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for seed in range(RUNS_MADE):
            store(results, seed)
        began = time.perf_counter()
        tables = select_tables(results, "all")
        read = time.perf_counter() - began
        for as_text in FORMATS.values():
            as_text(tables)
        whole = time.perf_counter() - began
    print(f"{2 * RUNS_MADE * IMAGES:,} rows: tables {read:.2f} s, with {len(FORMATS)} formats {whole:.2f} s")
    sys.exit(whole > LONGEST)


def store(results: Path, seed: int) -> None:
    """Write a run with both claims, as the runner leaves it."""
    run = Run(
        data="mnist",
        network="dm-small",
        method="abstrain",
        radius="0.1",
        radius_scale=RadiusScale.TRAINING,
        certify=("0.1",),
        cells=10,
        seed=seed,
        claims=("cell", "ball"),
        protocol="paper",
    )
    folder = results / RUNS / run.key
    (folder / "training").mkdir(parents=True)
    write_json(folder / CONFIG, as_mapping(run))
    (folder / "training" / "history.jsonl").write_text(json.dumps({"seconds": 1.0, "validation_error": 0.01}) + "\n")
    for claim, radius in (("cell", None), ("ball", "0.1")):
        out = folder / f"verify-{claim}"
        out.mkdir()
        scale = None if radius is None else "training"
        options = {"claim": claim, "radius": radius, "radius_scale": scale}
        with RecordWriter(out / "records.jsonl") as writer:
            writer.write(row(number, claim, radius, scale) for number in range(IMAGES))
        info = RunInfo("verify", options, {"abscert-plugin": "0"}, "none", None, {"sha256": ""}, None, 1.0)
        info.write(out / "run.json")
    write_json(folder / DONE, {"key": run.key, "seconds": 1.0})


def row(number: int, claim: str, radius: str | None, scale: str | None) -> Record:
    return Record(
        index=number,
        label=0,
        prediction=int(number < 100),
        claim=claim,
        radius=None if radius is None else float(radius),
        radius_scale=scale,
        verdict="falsified" if number < 100 else "certified",
        reason="a reason of the usual length",
        method="forward",
        reachable_log2=81.0,
        margin=1.234567,
        seconds=0.01,
        counterexample=None,
        schema=1,
    )


main()
