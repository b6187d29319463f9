"""Write docs/RESULTS.md and docs/results out of the records in benchmarks/records and the words in benchmarks/pages.

No torch, no model: every figure of a table is counted again from rows. `abscert compare keep` puts runs of a plan
there, benchmarks/keep.py single trainings.

usage: python benchmarks/results.py [--into docs]
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import jinja2
import side_by_side as solvers
from results_front import LONGER, Ball, best, error_against_radius, error_against_time, of_runs, side_by_side, table_one
from results_layout import narrow, wrapped

from abscert_plugin.instances.counting import ALL, beside_by_category, pairs_of
from abscert_plugin.instances.listing import Instance
from abscert_plugin.instances.others import read_other
from abscert_plugin.instances.rows import read_results
from abscert_plugin.records import Record, RunInfo, read_records
from abscert_plugin.verification.summary import Summary, summarise
from compare.results.agreement import need_whole
from compare.results.stored_run import StoredRun
from compare.results.verified_run import VerifiedRun, verified_runs
from compare.tables.catalogue import Sources, drafts_of
from compare.tables.error_table import Table, tables_of
from compare.tables.paper_cells import PaperRow
from compare.tables.paper_tables import Pool
from compare.tables.paper_times import time_table
from compare.tables.published import PublishedFigure, Quantity, find
from compare.timing.time_records import read_times

HERE = Path(__file__).parent
KEPT = HERE / "records"
PAGES = HERE / "pages"
FRONT = "RESULTS"
VERDICTS = ("certified", "falsified")
INTO = HERE.parent / "docs"


@dataclass(frozen=True)
class Single:
    """One verification of a training that belongs to no plan.

    Args:
        name: of the folder that keeps it.
        training: its configuration, and its best epoch.
        earlier: epochs of the trainings before, whose weights it began with.
        epoch_seconds: median of an epoch, of those before too.
        rows, run: the verification.
    """

    name: str
    training: dict
    earlier: int
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
    def held(self) -> str:
        """What the certified images hold for, without their counts."""
        return " and ".join(sorted({name.split()[0] for name in self.summary.holds_for.split(", ") if name}))

    @property
    def network(self) -> str:
        return f"{self.training['network']}, {self.training['activation']}"

    @property
    def epochs(self) -> str:
        return f"{self.total_epochs} ({self.earlier + self.training['best_epoch']})"

    @property
    def total_epochs(self) -> int:
        return int(self.earlier + self.training["training"]["epochs"])

    @property
    def interval(self) -> str:
        low, high = self.summary.interval
        return f"{100 * low:.2f} to {100 * high:.2f}"

    @property
    def paper(self) -> str:
        """The paper's figure and its epsilon, where it has one."""
        figure = self.printed
        return "" if figure is None else f"{figure.value} (ε {figure.printed_radius})"

    @property
    def printed(self) -> PublishedFigure | None:
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
        return max(fitting, key=lambda one: one.radius.pixel, default=None)


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


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _single(path: Path) -> Single:
    folder = path.parent.parent
    training = json.loads((folder / "train.json").read_text())
    before = folder / "earlier.jsonl"
    earlier = _rows(before) if before.exists() else []
    rows, run = read_records(path), RunInfo.read(path.with_name("run.json"))
    need_whole(path.parent, run, rows)
    return Single(
        name=folder.name,
        training={**training["configuration"], "best_epoch": training["model"]["best_epoch"]},
        earlier=len(earlier),
        epoch_seconds=statistics.median(row["seconds"] for row in (*earlier, *_rows(folder / "history.jsonl"))),
        rows=rows,
        run=run,
    )


@cache
def kept_runs() -> tuple[tuple[VerifiedRun, ...], tuple[StoredRun, ...]]:
    """Return the verifications of the runs of plans, and the runs that are not done; read once for all pages."""
    return verified_runs(KEPT)


def runs(**wanted: object) -> str:
    """Return the general table of the runs whose plan says all of `wanted`, and its notes."""
    found, _ = kept_runs()
    some = [one for one in found if all(getattr(one.run, name) == value for name, value in wanted.items())]
    return "\n\n".join(narrow(_of_balls(table)) for table in tables_of(KEPT, some, ()))


def _of_balls(table: Table) -> Table:
    """Return a general table without what stands in it twice: each network here is tested at the radius of its ball."""
    places = {name: place for place, name in enumerate(table.columns)}
    rows = []
    for row in table.rows:
        radius = row[places["radius, pixel (training)"]].split(" ")[0]
        method = row[places["method"]].replace(f", trained for {radius}", "")
        arithmetic = row[places["certified for"]].rpartition("ball ")[2]
        changed = {places["method"]: method, places["certified for"]: arithmetic}
        rows.append([changed.get(place, text) for place, text in enumerate(row)])
    kept = [place for name, place in places.items() if name != "cell interval"]
    columns = tuple("balls certified for" if name == "certified for" else name for name in table.columns)
    return replace(
        table,
        columns=tuple(columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in rows),
    )


def paper(number: int, protocol: str = "", says: str = "") -> str:
    """Return a table of the paper, without the rows that have no figure of ours; those of `cpu` say what they take.

    Args:
        number: of the table.
        protocol: of the runs; empty of all.
        says: a part of its title, such as a claim, or of times the name of the machine; empty of all.
    """
    drafts = drafts_of(str(number), Sources.of(KEPT, *kept_runs()))
    wanted = [one for one in drafts if not protocol or f"protocol {protocol}" in one.title]
    made = [one for one in wanted if not one.is_empty and says in one.title]
    shown = made if protocol == "cpu" else [replace(one, blocks=tuple(filter(_has_figure, one.blocks))) for one in made]
    return _with_notes([one.table for one in shown])


def _has_figure(block: PaperRow) -> bool:
    return any(not cell.is_missing for cell in block.cells)


def times(key: str) -> str:
    """Return the table of an interleaved timing, by the beginning of its key."""
    return _with_notes([time_table([one for one in read_times(KEPT) if one.key.startswith(key)])])


def _with_notes(tables: Sequence[Table]) -> str:
    return "\n\n".join(map(narrow, tables))


def followers() -> list[dict]:
    """Return what second solvers made of the images that our verifier had left open, by network and solver."""
    found = []
    for path in sorted((KEPT / "then").glob("*/records.jsonl")):
        rows, run = read_records(path), RunInfo.read(path.with_name("run.json"))
        then = run.configuration["then"]
        network = path.parent.name.removesuffix(f"-{then['program']}")
        certified, falsified = ([row.index for row in rows if row.verdict == verdict] for verdict in VERDICTS)
        open_ = [row for row in rows if row.index not in (*certified, *falsified)]
        found.append(
            {
                "network": network,
                "solver": then["solver"],
                "images": run.data["images"],
                "seconds": run.configuration["timeout_seconds"],
                "asked": len(rows),
                "certified": len(certified),
                "falsified": len(falsified),
                "open": len(open_),
                "faults": sum("failed" in row.reason for row in open_),
                "median": statistics.median(row.seconds for row in rows),
            }
        )
    return found


def beside() -> list[dict]:
    """Return of each network what our verifier and alpha-beta-CROWN made of its images, ours / theirs."""
    names = ("images", *solvers.NUMBERS, "wrong", "late", "ratio", "hard", "peak")
    return [
        {"network": name, "radius": rows[0]["radius"], **dict(zip(names, solvers.cells(rows), strict=True))}
        for name, rows in solvers.by_model([solvers.KEPT]).items()
    ]


def public() -> list[dict]:
    """Return of each category of public instances, and of all, what both solvers decide, and how often they differ."""
    rows, other = read_results(KEPT / "instances" / "ours.jsonl"), read_other(KEPT / "instances" / "results.csv")
    nowhere = Path()
    instances = [Instance(*row.key, nowhere, nowhere, row.timeout) for row in rows]
    pairs = pairs_of(instances, rows, other)
    found = []
    for one in beside_by_category(pairs):
        some = [pair for pair in pairs if one.category in (ALL, pair[0].category)]
        wrong = sum(
            row.result.is_decided and said.result.is_decided and row.result != said.result for row, said in some
        )
        found.append({**asdict(one), "images": len(some), "wrong": wrong})
    return found


def landscapes(pattern: str) -> list[dict]:
    """Return the landscapes of a name, with the curvature of each network."""
    return [json.loads(path.read_text()) for path in sorted((KEPT / "landscapes").glob(f"{pattern}.json"))]


def benchmarks() -> Iterator[dict]:
    """Yield the figures that benchmarks printed, one a line of records/benchmarks.jsonl."""
    for line in (KEPT / "benchmarks.jsonl").read_text().splitlines():
        yield json.loads(line)


def sound_balls() -> list[Ball]:
    """Return the ball errors of every training on MNIST whose epoch was chosen on the validation split."""
    found, _ = kept_runs()
    own = [
        Ball(
            network=one.training["network"],
            method=one.training["method"],
            options=LONGER,
            cells=one.training["cells"],
            radius=one.pixel_radius,
            error=one.summary.verified_error,
            clean=one.summary.clean_error,
            holds_for=one.summary.holds_for,
            epochs=one.total_epochs,
            epoch_seconds=one.epoch_seconds,
            images=one.summary.images,
            timeout=one.run.configuration["timeout_seconds"],
        )
        for one in single("*", claim="ball")
    ]
    return [*of_runs(found), *own]


def render() -> dict[str, str]:
    """Return the pages and plots, by their path below docs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    balls, (found, _) = sound_balls(), kept_runs()
    names = {
        "runs": runs,
        "paper": paper,
        "times": times,
        "single": single,
        "landscapes": landscapes,
        "benchmarks": benchmarks,
        "beside": beside,
        "public": public,
        "balls": balls,
        "followers": followers,
        "best": best,
        "side_by_side": side_by_side,
        "time_summaries": read_times(KEPT),
    }
    made = {
        "results/error-against-radius.svg": error_against_radius(found, balls),
        "results/error-against-time.svg": error_against_time(balls, 0.1),
        "results/table-1.svg": table_one([Pool.of(found, name) for name in ("cpu", "paper")]),
    }
    for path in sorted(PAGES.glob("*.md.jinja")):
        name = path.name.removesuffix(".jinja")
        target = name if name.startswith(FRONT) else f"results/{name}"
        made[target] = wrapped(environment.get_template(path.name).render(names))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=INTO)
    into = parser.parse_args().into
    (into / "results").mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (into / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
