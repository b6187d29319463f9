"""A verification over a data set: records as they come, resumable after a kill, and a run.json beside them."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32

import abscert_plugin
from abscert_plugin.artifact.metadata import (
    IMAGE,
    Metadata,
    PlainMetadata,
    is_plain,
    model_sha256,
    read_model,
)
from abscert_plugin.artifact.phi import check_artifact
from abscert_plugin.artifact.scaling import check_plain
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.data import DataSet
from abscert_plugin.errors import DataError, RecordError, UnsupportedModelError
from abscert_plugin.files import alone_in, write_array
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record, RecordWriter, RunInfo, read_records
from abscert_plugin.verification.cell import CellDecider, check_fit
from abscert_plugin.verification.decision import ITSELF, Decider

RECORDS: Final = "records.jsonl"
RUN: Final = "run.json"


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """An ONNX file that was read, checked and loaded."""

    path: Path
    sha256: str
    metadata: Metadata | PlainMetadata
    classifier: BlackBox

    @classmethod
    def open(cls, path: Path, provider: Provider, threads: int | None = None) -> "Artifact":
        """Read, check and load an ONNX file of this project.

        Raises:
            UnsupportedModelError: if it cannot be read or run, or its graph is not what its metadata say.
            VerifierError: if the provider was asked for and is not there.
        """
        model = read_model(path)
        metadata = check_plain(model, path) if is_plain(model) else check_artifact(model, path)
        return cls(path, model_sha256(path, model), metadata, BlackBox(path, provider, threads))

    @property
    def grid(self) -> Grid | None:
        """The cells; None for a classifier of plain images."""
        return self.metadata.grid if isinstance(self.metadata, Metadata) else None

    @property
    def with_cells(self) -> Metadata:
        """The metadata of a file with cells.

        Raises:
            UnsupportedModelError: if it has none.
        """
        if not isinstance(self.metadata, Metadata):
            raise UnsupportedModelError(
                f"{self.path} is a classifier of plain images, without cells: verify it with --claim ball, or put it "
                "under abstraction with `abscert wrap`"
            )
        return self.metadata

    def run_images(
        self, images: Float32[np.ndarray, "batch channels height width"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Return the logits of images on the pixel scale, by whichever input the file has.

        Raises:
            VerifierError: if the backend fails.
        """
        is_deployed = self.classifier.input_name == IMAGE
        return self.classifier.run(images if is_deployed else self.with_cells.grid.interval_image(images))


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
    batch_size: int = 250
    decider: Decider | None = None

    def check(self) -> None:
        """Refuse what cannot be verified, before anything is written.

        Raises:
            DataError: if the data do not fit the file, or the size of a batch has no meaning.
            UnsupportedModelError: if the claim `cell` is to be decided of a file without cells.
        """
        if self.batch_size < 1:
            raise DataError(f"expected a batch size of at least 1, got {self.batch_size}")
        check_fit(self.artifact.metadata, self.data.shape, self.data.labels)
        if self.decider is None:
            self.artifact.with_cells  # noqa: B018 - raises where it has none

    def run(self, out: Path, on_batch: Callable[[int], None]) -> tuple[list[Record], RunInfo]:
        """Decide every image, appending records to `out`, and return all of them.

        Images that `out` already holds the records of are not run again, where the run was the same.

        Args:
            out: folder of records.jsonl and run.json.
            on_batch: told how many images have been decided since it was last told.

        Raises:
            RecordError: if the folder cannot be written, holds another run, or another process is at work in it.
            DataError: if the data do not fit the file.
        """
        self.check()
        decider = self.decider or CellDecider(self.artifact.classifier, self.artifact.with_cells)
        with alone_in(out):
            return self._decide_all(decider, out, on_batch)

    def _decide_all(self, decider: Decider, out: Path, on_batch: Callable[[int], None]) -> tuple[list[Record], RunInfo]:
        info = self._info(decider)
        done = _stored(out, info)
        records = list(done)
        on_batch(len(done))
        info.write(out / RUN)
        start = time.perf_counter()
        with RecordWriter(out / RECORDS) as writer:
            for batch in self._remaining({record.index for record in done}).batches(self.batch_size):
                images = self.data.pixels(batch.images)
                decided = decider.decide(images, batch.labels, batch.index)
                for item in decided:
                    name = item.record.counterexample
                    if item.counterexample is not None and name not in (None, ITSELF):
                        write_array(out / str(name), item.counterexample)
                rows = [item.record for item in decided]
                writer.write(rows)
                records += rows
                on_batch(len(rows))
        finished = replace(info, seconds=time.perf_counter() - start + sum(record.seconds for record in done))
        finished.write(out / RUN)
        return records, finished

    def _remaining(self, done: set[int]) -> DataSet:
        todo = np.array([place not in done for place in self.data.index.tolist()], dtype=bool)
        return replace(self.data, labels=self.data.labels[todo], index=self.data.index[todo])

    def _info(self, decider: Decider) -> RunInfo:
        artifact, data = self.artifact, self.data
        return RunInfo(
            command="verify",
            configuration={
                **decider.configuration,
                "batch_size": self.batch_size,
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
            model={
                "path": artifact.path.name,
                "sha256": artifact.sha256,
                **cell_facts(artifact.grid),
                "classes": artifact.metadata.classes,
                "network": artifact.metadata.network,
                "training": artifact.metadata.training,
            },
        )


def cell_facts(grid: Grid | None) -> dict[str, Any]:
    """Return what run.json and certificates say of a file's cells; `edges` only where they differ in width."""
    if grid is None:
        return {"cells": None, "edges": None}
    return {"cells": grid.cells, "edges": None if grid.is_uniform else list(grid.inner_edges)}


def _stored(out: Path, info: RunInfo) -> list[Record]:
    """Return the records of an earlier, equal run in this folder."""
    if not (out / RUN).exists():
        if (out / RECORDS).exists():
            raise RecordError(f"{out} holds records without a {RUN}; choose another --out")
        return []
    former = RunInfo.read(out / RUN)
    different = [
        name
        for name in ("command", "configuration", "versions", "provider", "data", "model")
        if _plain(getattr(former, name)) != _plain(getattr(info, name))
    ]
    if different:
        raise RecordError(f"{out} holds another run (its {', '.join(different)} differ); use --fresh or another --out")
    return read_records(out / RECORDS) if (out / RECORDS).exists() else []


def _plain(value: Mapping[str, Any] | str | None) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
