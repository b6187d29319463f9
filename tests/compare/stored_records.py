"""A run, what it leaves in a results folder, and the rows of a table by their columns."""

import json
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import msgspec

from abscert_plugin.files import write_json
from abscert_plugin.records import Record, RecordWriter, RunInfo
from compare.plans.planned_run import Question, Run, as_mapping
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


def rows(asked: Question, failed: int, count: int) -> list[Record]:
    radius = asked.radius
    return [
        Record(
            index=number,
            label=0,
            prediction=1 if number < failed // 2 else 0,
            claim=asked.claim,
            radius=None if radius is None else float(radius.given),
            radius_scale=None if radius is None else radius.scale,
            verdict="falsified" if number < failed else "certified",
            reason="",
            method="forward" if number < failed // 2 else "branch and bound",
            reachable_log2=None,
            margin=None,
            seconds=0.1,
            counterexample="itself" if number < failed else None,
            schema=1,
            inputs=None if radius is None else "float",
        )
        for number in range(count)
    ]


def store(
    results: Path,
    run: Run,
    failed: Mapping[str, int],
    count: int | Mapping[str, int] = 200,
    version: str = "0.1.0",
    validation_error: float | None = None,
    chosen_on: str | None = None,
) -> Path:
    """Write what a run leaves, with so many images not certified under each claim; half of them are mislabelled.

    Args:
        results: the results folder.
        run: the run. The claims of the one that is stored are those of `failed`, so its key may be another; its balls
            are those of `run.certify`.
        failed: how many images are not certified, by claim: as many at each radius.
        count: how many images there are, of every claim or by claim.
        version: of abscert-plugin.
        validation_error: that of every epoch; None where the history does not say.
        chosen_on: checksum of the images that the epoch was chosen on; that of the test images is `test`.

    Returns:
        The run's folder.
    """
    run = msgspec.structs.replace(run, claims=tuple(failed))
    folder = results / RUNS / run.key
    (folder / "training").mkdir(parents=True)
    write_json(folder / CONFIG, as_mapping(run))
    said = {} if validation_error is None else {"validation_error": validation_error}
    times = islice(cycle((1, 2, 9)), run.epochs or 3)
    history = "".join(json.dumps({"epoch": at, "seconds": time, **said}) + "\n" for at, time in enumerate(times, 1))
    (folder / "training" / "history.jsonl").write_text(history)
    loop = {"epochs": run.epochs or 3, "seed": run.seed, "patience": 0}
    facts = {"method": run.method, "data": run.data, "network": run.network, "cells": run.cells}
    described = {**facts, "activation": run.activation, "validation_sha256": chosen_on, "training": loop}
    RunInfo("train", described, {}, "a trainer", None, {}, None, 12.0).write(folder / "training" / "run.json")
    for name, asked in run.questions.items():
        out = folder / name
        out.mkdir()
        images = count if isinstance(count, int) else count[asked.claim]
        with RecordWriter(out / "records.jsonl") as writer:
            writer.write(rows(asked, failed[asked.claim], images))
        radius = {} if asked.radius is None else asked.radius.as_options()
        configuration = {"claim": str(asked.claim), **radius}
        data = {"name": run.data, "split": "test", "images": images, "sha256": "test"}
        model = {"cells": run.cells, "training": f"method={run.method};seed={run.seed};data={run.data}"}
        versions = {"abscert-plugin": version}
        RunInfo("verify", configuration, versions, "a machine", "CPU", data, model, 12.0).write(out / "run.json")
    write_json(folder / DONE, {"key": run.key, "seconds": 1.0})
    return folder


def named(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def build_tables(results: Path) -> tuple[Table, ...]:
    """Return the tables of a results folder."""
    return tables_of(results, *verified_runs(results))
