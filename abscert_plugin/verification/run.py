"""A verification over a data set: records as they come, resumable after a kill, and a run.json beside them."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np

import abscert_plugin
from abscert_plugin.artifact.foreign import PREPROCESSING
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.claim import DECIDED_AT_ONCE, Claim, Verdict
from abscert_plugin.data import Batch, DataSet
from abscert_plugin.errors import DataError, RecordError
from abscert_plugin.files import write_array
from abscert_plugin.folders import alone_in
from abscert_plugin.records import (
    RECORDS,
    RUN,
    Record,
    RecordWriter,
    RunInfo,
    equal_run,
    read_records,
    write_records,
)
from abscert_plugin.verification.cell import CellDecider
from abscert_plugin.verification.decision import ITSELF, Decided, Decider, Decisions
from abscert_plugin.verification.elsewhere import Elsewhere
from abscert_plugin.verification.evidence import evidence_name, write_evidence

_SAME: Final = ("command", "configuration", "versions", "provider", "data", "model")
"""What two runs must say alike, so that one goes on with the other."""
_TIME: Final = "timeout_seconds"
"""The option that the later of them may have more of: what was decided in less time stays decided."""
_TOGETHER: Final = "batch_size"
"""What may differ then, since rows say nothing of the images beside theirs."""


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """What to verify on what.

    Args:
        artifact: the ONNX file.
        data: the images and labels.
        batch_size: images that are decided together, at least 1.
        decider: the claim, and the way to decide it; None decides the claim `cell`.
    """

    artifact: Artifact
    data: DataSet
    batch_size: int = DECIDED_AT_ONCE[Claim.CELL]
    decider: Decider | None = None

    @property
    def chosen(self) -> Decider:
        """What decides."""
        return self.decider or CellDecider(self.artifact)

    def check(self) -> None:
        """Refuse what cannot be verified, before anything is written.

        Raises:
            DataError: if the data do not fit the file, or the size of a batch has no meaning.
            UnsupportedModelError: if the claim `cell` is to be decided of a file without cells.
        """
        if self.batch_size < 1:
            raise DataError(f"expected a batch size of at least 1, got {self.batch_size}")
        self.artifact.check_fit(self.data.shape, self.data.labels)
        if self.decider is None:
            self.artifact.cells  # noqa: B018 - raises where it has none

    def run(
        self,
        out: Path,
        on_batch: Callable[[int], None],
        since: float | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> tuple[list[Record], RunInfo]:
        """Decide every image, appending records to `out`, and return all of them.

        Images that `out` already holds the records of are not run again, where the run was the same. Where it had
        less time an image, those that it left open are.

        Args:
            out: folder of records.jsonl and run.json.
            on_batch: told how many images have been decided since it was last told.
            since: when the run began, by `time.perf_counter`: what opening the file took is the run's time, and no
                image's. Now, where None.
            elsewhere: who decides in place of this process; None where it does so itself.

        Returns:
            the rows, in the order of the data set, and what run.json says.

        Raises:
            EngineError: if those who decide elsewhere cannot be started or reached.
            RecordError: if the folder cannot be written, holds another run, or another process is at work in it.
            DataError: if the data do not fit the file.
        """
        self.check()
        with alone_in(out):
            start = time.perf_counter() if since is None else since
            return self._decide_all(out, on_batch, start, elsewhere)

    def _decide_all(
        self, out: Path, on_batch: Callable[[int], None], start: float, elsewhere: Elsewhere | None
    ) -> tuple[list[Record], RunInfo]:
        info = self.info
        decide = partial(_in_turn, self.chosen, self.data)
        if elsewhere is not None:
            info, decide = elsewhere.described(info), partial(elsewhere.decided, info, self.data)
        done, spent = _stored(out, info, self.data)
        records = list(done)
        on_batch(len(done))
        info.write(out / RUN)
        remaining = self._remaining({record.index for record in done})
        with RecordWriter(out / RECORDS) as writer, closing(decide(remaining.batches(self.batch_size))) as batches:
            for decided in batches:
                _write_files(decided, out)
                rows = [item.record for item in decided]
                writer.write(rows)
                records += rows
                on_batch(len(rows))
        records = _in_order(records, self.data, out / RECORDS)
        finished = replace(info, seconds=time.perf_counter() - start + spent)
        finished.write(out / RUN)
        return records, finished

    def _remaining(self, done: set[int]) -> DataSet:
        todo = np.array([place not in done for place in self.data.index.tolist()], dtype=bool)
        return replace(self.data, labels=self.data.labels[todo], index=self.data.index[todo])

    @property
    def info(self) -> RunInfo:
        """What a run says of itself before it begins."""
        artifact, data, decider = self.artifact, self.data, self.chosen
        return RunInfo(
            command="verify",
            configuration={
                **decider.configuration,
                _TOGETHER: self.batch_size,
                **artifact.classifier.settings,
            },
            versions={
                "abscert-plugin": abscert_plugin.__version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "onnxruntime": str(artifact.classifier.settings["onnxruntime"]),
                **decider.versions,
            },
            device=f"{platform.machine()}, {os.cpu_count()} cores",
            provider=artifact.classifier.provider,
            data={"name": data.name, "split": data.split.value, "images": len(data), "sha256": data.sha256},
            model=model_facts(artifact),
        )


def _in_turn(decider: Decider, data: DataSet, batches: Iterable[Batch]) -> Decisions:
    """Decide batches in this process, one after another."""
    for batch in batches:
        yield decider.decide(data.pixels(batch.images), batch.labels, batch.index)


def _write_files(decided: Sequence[Decided], out: Path) -> None:
    """Write counterexamples and evidence of some rows, before the rows that name them."""
    for item in decided:
        name = item.record.counterexample
        if item.counterexample is not None and name not in (None, ITSELF):
            write_array(out / str(name), item.counterexample)
        if item.evidence is not None:
            write_evidence(out / evidence_name(item.record.index), item.evidence)


def _in_order(records: list[Record], data: DataSet, path: Path) -> list[Record]:
    """Return rows in the order of the data set, and give the file that order: those of many workers come as they do."""
    places = data.places
    ordered = sorted(records, key=lambda record: places.get(record.index, len(places)))
    if ordered != records:
        write_records(path, ordered)
    return ordered


def model_facts(artifact: Artifact) -> dict[str, Any]:
    """Return what run.json and certificates say of an ONNX file; `edges` only of cells that differ in width."""
    grid = artifact.grid
    return {
        "path": artifact.path.name,
        "sha256": artifact.sha256,
        "cells": None if grid is None else grid.cells,
        "edges": None if grid is None or grid.is_uniform else list(grid.inner_edges),
        "classes": artifact.metadata.classes,
        "network": artifact.metadata.network,
        "training": artifact.metadata.training,
        **({PREPROCESSING: dict(artifact.opening)} if artifact.opening else {}),
    }


def _stored(out: Path, info: RunInfo, data: DataSet) -> tuple[list[Record], float]:
    """Return the records of an earlier run in this folder that stand, and the seconds that all of its rows took.

    Those of an equal run stand; of one that had less time an image, those that it decided, and the rest are dropped.

    Raises:
        RecordError: if the folder holds another run, or rows that no run on these images writes.
    """
    less = _less_time(out, info)
    same = info if less is None else replace(info, configuration={**info.configuration, **less})
    if equal_run(out, same, _SAME) is None or not (out / RECORDS).exists():
        return [], 0.0
    rows = read_records(out / RECORDS)
    _check_rows(rows, data, out / RECORDS)
    stand = rows if less is None else [row for row in rows if row.verdict != Verdict.UNKNOWN]
    if less is not None:  # before run.json says of the longer time that all rows had it
        write_records(out / RECORDS, stand)
    return stand, sum(row.seconds for row in rows)


def _check_rows(rows: Sequence[Record], data: DataSet, path: Path) -> None:
    labels = dict(zip(data.index.tolist(), data.labels.tolist(), strict=True))
    for row in rows:
        fault = ""
        if row.index not in labels:
            fault = f"which is not one of the {len(labels)}"
        elif row.label != labels[row.index]:
            fault = f"with the label {row.label}, not {labels[row.index]}"
        elif row.verdict not in list(Verdict):
            fault = f"with the verdict {row.verdict!r:.50}"
        if fault:
            raise RecordError(f"{path} has a row of image {row.index}, {fault}; use --fresh or another --out")


def _less_time(out: Path, info: RunInfo) -> dict[str, Any] | None:
    """Return the seconds an image of an earlier run in this folder and its batches, where it had less time."""
    if _TIME not in info.configuration or not (out / RUN).exists():
        return None
    former = RunInfo.read(out / RUN).configuration
    seconds = former.get(_TIME)
    if not isinstance(seconds, int | float) or seconds >= info.configuration[_TIME]:
        return None
    return {name: former.get(name) for name in (_TIME, _TOGETHER)}
