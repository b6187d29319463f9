"""All instances of some lists: rows as they come, resumable after a kill, and a run.json beside them."""

import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import msgspec

from abscert_plugin.engines.job import Engine
from abscert_plugin.errors import RecordError
from abscert_plugin.files import write_text
from abscert_plugin.folders import alone_in
from abscert_plugin.instances.elsewhere import BenchQuestion, decided_elsewhere, own_versions
from abscert_plugin.instances.listing import Instance
from abscert_plugin.instances.rows import RESULTS, Row, read_results, write_results
from abscert_plugin.instances.running import COMMAND, Ran, run_instance
from abscert_plugin.records import RECORDS, RUN, RecordWriter, RunInfo, equal_run

_SAME: Final = ("command", "configuration", "versions")
"""What two runs must say alike, so that one goes on with the other."""


@final
@dataclass(frozen=True)
class Bench:
    """What to run.

    Args:
        instances: in the order in which they are run.
        memory: bytes that the process of one may take; None for what is free.
        command: what stands in front of `verify`.
        engine: whose workers run them, each one at a time; None for this process.
    """

    instances: Sequence[Instance]
    memory: int | None = None
    command: Sequence[str] = COMMAND
    engine: Engine | None = None

    def run(self, out: Path, on_row: Callable[[Row, bool], None]) -> tuple[list[Row], RunInfo]:
        """Run every instance that a folder has no row of, and return the rows of all.

        Args:
            out: folder of records.jsonl, run.json, results.csv and counterexamples.
            on_row: told each row, and whether it was there before.

        Raises:
            RecordError: if the folder cannot be written, holds another run, or another process is at work in it.
            EngineError: if workers cannot be started or reached.
            ConfigError: if a worker is not as this process is.
        """
        with alone_in(out):
            return self._run(out, on_row)

    def _run(self, out: Path, on_row: Callable[[Row, bool], None]) -> tuple[list[Row], RunInfo]:
        start = time.perf_counter()
        info = self._info()
        stored, spent = _stored(out, info)
        asked = {instance.key: instance.timeout for instance in self.instances}
        rows = {row.key: row for row in stored if row.key in asked}
        for row in rows.values():
            if row.timeout != asked[row.key]:
                raise RecordError(
                    f"{out} holds another run ({row.network} with {row.query}: there {row.timeout:g} seconds, now "
                    f"{asked[row.key]:g}); use --fresh or another --out"
                )
        info.write(out / RUN)
        for row in rows.values():
            on_row(row, True)
        left = [instance for instance in self.instances if instance.key not in rows]
        with RecordWriter(out / RECORDS) as writer, closing(self._decided(left, info.versions)) as decided:
            for instance, ran in decided:
                row = _kept(ran, instance, out)
                writer.write([row])
                rows[row.key] = row
                on_row(row, False)
                replace(info, seconds=spent + time.perf_counter() - start).write(out / RUN)
        found = [rows[instance.key] for instance in self.instances]
        write_results(out / RESULTS, [*found, *(row for row in stored if row.key not in asked)])
        finished = replace(info, seconds=spent + time.perf_counter() - start)
        finished.write(out / RUN)
        return found, finished

    def _decided(
        self, instances: Sequence[Instance], versions: Mapping[str, str]
    ) -> Generator[tuple[Instance, Ran], None, None]:
        """Yield what comes out of each instance, in any order where others decide."""
        if self.engine is not None:
            yield from decided_elsewhere(self.engine, BenchQuestion(versions, self.memory, self.command), instances)
            return
        for instance in instances:
            yield instance, run_instance(instance, self.memory, self.command)

    def _info(self) -> RunInfo:
        device = f"{platform.machine()}, {os.cpu_count()} cores"
        return RunInfo(
            command="bench",
            configuration={"memory": self.memory},
            versions=own_versions(),
            device=device if self.engine is None else f"{device}; {self.engine}, threads each: {self.engine.cpus}",
            provider=None,
            data=None,
            model=None,
        )


def _kept(ran: Ran, instance: Instance, out: Path) -> Row:
    """Write what satisfies an instance, and return the row that names it."""
    if not ran.assignment:
        return ran.row
    name = f"{instance.category}/{instance.name}.counterexample"
    write_text(out / name, ran.assignment)
    return msgspec.structs.replace(ran.row, counterexample=name)


def _stored(out: Path, info: RunInfo) -> tuple[list[Row], float]:
    """Return the rows of an earlier, equal run in this folder, and the seconds that it took."""
    if (former := equal_run(out, info, _SAME)) is None:
        return [], 0.0
    return read_results(out / RECORDS) if (out / RECORDS).exists() else [], former.seconds or 0.0
