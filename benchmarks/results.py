"""Write docs/RESULTS.md out of the records in benchmarks/records and the prose in benchmarks/RESULTS.md.jinja.

No torch, no model: every figure of a table is counted again from rows. `abscert compare keep` puts runs of a plan
there, benchmarks/keep.py single trainings.

usage: python benchmarks/results.py [--into docs/RESULTS.md]
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from abscert_plugin.records import Record, RunInfo, read_records
from abscert_plugin.verification.summary import Summary, summarise
from compare.results.estimates import read_estimates
from compare.results.verified_run import verified_runs
from compare.tables.catalogue import drafts_of
from compare.tables.error_table import Table, tables_of
from compare.tables.formats import markdown_rows
from compare.tables.paper_cells import PaperRow
from compare.tables.paper_times import time_table
from compare.tables.published import Quantity, find
from compare.timing.time_records import read_times

HERE = Path(__file__).parent
KEPT = HERE / "records"
TEMPLATE = "RESULTS.md.jinja"
INTO = HERE.parent / "docs" / "RESULTS.md"


@dataclass(frozen=True)
class Single:
    """One verification of a training that belongs to no plan."""

    name: str
    training: dict
    epoch_seconds: float
    rows: Sequence[Record]
    run: RunInfo

    @property
    def summary(self) -> Summary:
        return summarise(self.rows)

    @property
    def pixel_radius(self) -> float:
        radius = self.rows[0].radius
        return 0.0 if radius is None else radius

    @property
    def reached(self) -> float:
        """The median of the images' log2 of reachable combinations, without those that were mislabelled at once."""
        return statistics.median(row.reachable_log2 for row in self.rows if row.reachable_log2)

    @property
    def network(self) -> str:
        return f"{self.training['network']}, {self.training['activation']}"

    @property
    def epochs(self) -> str:
        return f"{self.training['training']['epochs']} ({self.training['best_epoch']})"

    @property
    def interval(self) -> str:
        low, high = self.summary.interval
        return f"{100 * low:.2f} to {100 * high:.2f}"

    @property
    def paper(self) -> str:
        """The paper's figure at the greatest epsilon whose ball is no wider than a cell."""
        figures = find(
            data=self.run.data["name"],
            network=self.training["network"],
            activation=self.training["activation"],
            method="abstrain",
            quantity=Quantity.VERIFIED_ERROR,
        )
        fitting = [
            one for one in figures if one.radius is not None and 2 * self.training["cells"] * one.radius.pixel <= 1
        ]
        if not fitting:
            return ""
        best = max(fitting, key=lambda one: one.radius.pixel)
        return f"{best.value} ({best.printed_radius})"


def single(*names: str, claim: str) -> list[Single]:
    """Return the verifications under a claim of single trainings, by network, cells and radius under each name."""
    found = []
    for name in names:
        paths = sorted((KEPT / "single").glob(f"{name}/verify-*/records.jsonl.gz"))
        some = [one for one in map(_single, paths) if one.rows[0].claim == claim]
        if not some:
            raise SystemExit(f"error: no record of the claim {claim} in {KEPT}/single/{name}")
        found += sorted(some, key=lambda one: (one.network, one.training["cells"], one.pixel_radius))
    return found


def _single(path: Path) -> Single:
    folder = path.parent.parent
    training = json.loads((folder / "train.json").read_text())
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return Single(
        name=folder.name,
        training={**training["configuration"], "best_epoch": training["model"]["best_epoch"]},
        epoch_seconds=statistics.median(row["seconds"] for row in history),
        rows=read_records(path),
        run=RunInfo.read(path.with_name("run.json")),
    )


def runs(**wanted: object) -> str:
    """Return the general table of the runs whose plan says all of `wanted`, and its notes."""
    found, _ = verified_runs(KEPT)
    some = [one for one in found if all(getattr(one.run, name) == value for name, value in wanted.items())]
    return _with_notes(tables_of(KEPT, some, ()))


def paper(number: int, protocol: str = "") -> str:
    """Return a table of the paper, without the rows that have no figure of ours."""
    found, others = verified_runs(KEPT)
    drafts = drafts_of(str(number), found, others, read_times(KEPT), read_estimates(KEPT))
    wanted = [one for one in drafts if not protocol or f"protocol {protocol}" in one.title]
    shown = [replace(one, blocks=tuple(filter(_has_figure, one.blocks))) for one in wanted if not one.is_empty]
    return _with_notes([one.table for one in shown])


def _has_figure(block: PaperRow) -> bool:
    return any(not cell.is_missing for cell in block.cells)


def times() -> str:
    """Return the table of interleaved timings."""
    return _with_notes([time_table(read_times(KEPT))])


def _with_notes(tables: Sequence[Table]) -> str:
    parts = []
    for table in tables:
        notes = "\n".join(f"- {note}" for note in table.notes)
        parts.append(f"{table.title}:\n\n{markdown_rows(table)}\n\n{notes}")
    return "\n\n".join(parts)


def landscapes(pattern: str) -> list[dict]:
    """Return the landscapes of a name, with the curvature of each network."""
    return [json.loads(path.read_text()) for path in sorted((KEPT / "landscapes").glob(f"{pattern}.json"))]


def benchmarks() -> Iterator[dict]:
    """Yield the figures that benchmarks printed, one a line of records/benchmarks.jsonl."""
    for line in (KEPT / "benchmarks.jsonl").read_text().splitlines():
        yield json.loads(line)


def render() -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = {
        "runs": runs,
        "paper": paper,
        "times": times,
        "single": single,
        "landscapes": landscapes,
        "benchmarks": benchmarks,
    }
    return environment.get_template(TEMPLATE).render(names) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=INTO)
    parser.parse_args().into.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
