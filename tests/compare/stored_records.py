"""A run, what it leaves in a results folder, and the rows of a table by their columns."""

import json
from pathlib import Path

from abscert_plugin.claim import Radius
from abscert_plugin.files import write_json
from abscert_plugin.records import Record, RecordWriter, RunInfo
from compare.plans.planned_run import Run, as_mapping
from compare.results.stored_run import CONFIG, DONE, RUNS
from compare.results.verified_run import verified_runs
from compare.tables.error_table import Table, tables_of

RUN = Run(
    data="mnist",
    network="dm-small",
    method="abstrain",
    radius="0.15",
    certify=("0.15",),
    cells=6,
    claims=("cell", "ball"),
)


def rows(claim: str, failed: int, count: int, radius: Radius) -> list[Record]:
    is_ball = claim == "ball"
    return [
        Record(
            index=number,
            label=0,
            prediction=1 if number < failed // 2 else 0,
            claim=claim,
            radius=float(radius.given) if is_ball else None,
            radius_scale=radius.scale if is_ball else None,
            verdict="falsified" if number < failed else "certified",
            reason="",
            method="forward" if number < failed // 2 else "branch and bound",
            reachable_log2=None,
            margin=None,
            seconds=0.1,
            counterexample="itself" if number < failed else None,
            schema=1,
            inputs="float" if is_ball else None,
        )
        for number in range(count)
    ]


def store(
    results: Path,
    run: Run,
    failed: dict[str, int],
    count: int = 200,
    version: str = "0.1.0",
    validation_error: float | None = None,
    chosen_on: str | None = None,
) -> Path:
    """Write what a run leaves, with so many images not certified under each claim; half of them are mislabelled."""
    folder = results / RUNS / run.key
    (folder / "training").mkdir(parents=True)
    write_json(folder / CONFIG, as_mapping(run))
    said = {} if validation_error is None else {"validation_error": validation_error}
    history = "".join(json.dumps({"epoch": at, "seconds": at, **said}) + "\n" for at in (1, 2, 9))
    (folder / "training" / "history.jsonl").write_text(history)
    if chosen_on is not None:
        described = {"validation_sha256": chosen_on, "activation": run.activation}
        info = RunInfo("train", described, {}, "a trainer", None, {}, None, 12.0)
        info.write(folder / "training" / "run.json")
    for claim, number in failed.items():
        out = folder / f"verify-{claim}"
        out.mkdir()
        with RecordWriter(out / "records.jsonl") as writer:
            writer.write(rows(claim, number, count, run.trained_for))
        radius = {"radius": run.radius, "radius_scale": run.radius_scale} if claim == "ball" else {"radius": None}
        versions = {"abscert-plugin": version}
        RunInfo("verify", {"claim": claim, **radius}, versions, "a machine", "CPU", {"sha256": "test"}, {}, 12.0).write(
            out / "run.json"
        )
    write_json(folder / DONE, {"key": run.key, "seconds": 1.0})
    return folder


def named(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def build_tables(results: Path) -> tuple[Table, ...]:
    """Return the tables of a results folder."""
    return tables_of(results, *verified_runs(results))
