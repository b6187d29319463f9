"""Protocol `cpu`: its plans, what a table says of figures that are missing, and columns beside the paper's."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import abscert, refused
from stored_records import named, store
from test_paper_tables import PAPER, lines, outcome

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import RecordError
from compare.plans.plan import read_plan
from compare.plans.planned_run import Run
from compare.results.estimates import ESTIMATES, Estimate, keep_estimates, read_estimates
from compare.results.kept_records import keep
from compare.results.verified_run import verified_runs
from compare.tables.catalogue import select_tables
from compare.tables.error_table import NOT_RUN
from compare.tables.paper_tables import Pool, drafts
from compare.tables.published import published
from compare.tables.selection import counts_for, would_count

CPU = msgspec.structs.replace(PAPER, protocol="cpu", epochs=10)
LLM = msgspec.structs.replace(
    CPU, method="llm", cells=None, radius_scale=RadiusScale.PIXEL, certify=("0.1",), claims=("ball",), epochs=3
)
IBP = msgspec.structs.replace(LLM, method="ibp", epochs=10)


def first(number: int, found: Any, estimates: tuple[Estimate, ...] = ()) -> dict[str, dict[str, str]]:
    """Return the lines of MNIST, DM-small, epsilon 0.1, of the first table of a number."""
    table = drafts(number, Pool.of(found, "cpu", estimates))[0].table
    return {name: dict(row) for name, row in lines(table, data="mnist", network="dm-small", epsilon="0.1").items()}


@pytest.mark.slow
def test_every_cell_of_the_papers_tables_is_in_the_plans_run_or_left_out() -> None:
    for number in (1, 4, 5):
        plan = read_plan(f"paper-table{number}-cpu")
        named_runs = [*plan.runs(), *plan.runs_beyond()]
        assert not {run.key for run in plan.runs()} & {run.key for run in plan.runs_beyond()}
        kinds: dict[tuple[str, ...], list[Run]] = {}
        for run in named_runs:
            activation = run.activation or ("param-ramp" if run.method == "lbp" else "relu")
            kinds.setdefault((run.data, run.network, run.method, activation), []).append(run)
        for figure in published():
            if figure.table != number or figure.radius is None or figure.value is None or figure.against:
                continue
            claim = "cell" if figure.method == "abstrain" else "ball"
            data = "folder" if figure.data == "imagenet" else figure.data
            found = kinds[data, figure.network, figure.method, figure.activation]
            assert any(would_count(run, claim, figure.radius) for run in found), figure


def test_the_plans_hold_what_two_cores_can_do_at_the_epochs_of_their_titles() -> None:
    runs = read_plan("paper-table1-cpu").runs()
    short = {("llm", "dm-small", 3), ("abstrain", "dm-large", 3), ("ibp", "dm-large", 3)}  # of what is carried out
    short |= {("ibp", "dm-medium", 5), ("adv-ibp", "dm-medium", 5)}
    assert {(run.method, run.network, run.epochs) for run in runs if run.epochs != 10} == short
    small = {(run.method, run.radius) for run in runs if (run.data, run.network) == ("mnist", "dm-small")}
    others = {name for name, _ in small} - {"abstrain"}
    assert others == {"llm", "lbp", "adv-ibp", "ibp", "crown-ibp"}
    assert all((name, f"0.{tenth}") in small for name in others for tenth in (1, 2, 3, 4))
    assert [run.key for run in read_plan("paper-table2-cpu").runs()] == [run.key for run in runs]
    assert {run.epochs for run in read_plan("paper-table4-cpu").runs()} == {10}
    assert {(run.epochs, run.image_size) for run in read_plan("paper-table5-cpu").runs()} == {(3, 64)}


def test_a_missing_figure_says_what_the_cheapest_run_of_it_would_take(tmp_path: Path) -> None:
    store(tmp_path, CPU, {"cell": 3})
    dearer = msgspec.structs.replace(LLM, epochs=9)
    keep_estimates(tmp_path, {LLM.key: 9000.0, dearer.key: 90000.0}, [LLM, dearer])
    cells = select_tables(tmp_path, "1")[0]
    row = lines(cells, data="mnist", network="dm-small", epsilon="0.1")["ours"]
    assert row["AC (cell)"] == "1.50"
    assert row["LLM (ball)"] == "not run: 2.5 h by estimate"
    assert row["LBP (ball)"] == row["Impr. over LLM"] == NOT_RUN
    other = lines(cells, data="mnist", network="dm-small", epsilon="0.2")["ours"]
    assert other["LLM (ball)"] == NOT_RUN  # it would be trained for another radius
    balls = select_tables(tmp_path, "1")[1]
    at = [row for row in named(balls) if row["line"] == "ours" and row["radius, pixel (training)"] == "0.1 (0.2)"]
    assert at[0]["LLM (ball)"] == "not run: 2.5 h by estimate"
    assert cells.numeric[cells.columns.index("LLM (ball)")]


@pytest.mark.parametrize(("seconds", "text"), [(90, "2 min"), (4000, "1.1 h"), (360000, "100 h"), (3.6e7, "10,000 h")])
def test_times_are_told_in_two_digits_or_so(seconds: float, text: str) -> None:
    assert first(1, [outcome(CPU, "cell", 3)], (Estimate(run=LLM, seconds=seconds),))["ours"]["LLM (ball)"] == (
        f"not run: {text} by estimate"
    )


def test_a_run_replaces_its_estimate_and_other_protocols_have_none() -> None:
    estimates = (Estimate(run=LLM, seconds=9000), Estimate(run=CPU, seconds=60))
    found = [outcome(LLM, "ball", 8)]
    row = first(1, found, estimates)
    assert (row["ours"]["LLM (ball)"], row["ours"]["AC (cell)"]) == ("4.00", "not run: 1 min by estimate")
    elsewhere = drafts(1, Pool.of([outcome(PAPER, "cell", 3)], "paper", estimates))[0].table
    assert NOT_RUN in lines(elsewhere, data="mnist", network="dm-small", epsilon="0.1")["ours"]["LLM (ball)"]
    assert "estimate" not in " ".join(cell for row in elsewhere.rows for cell in row)


def test_ibp_and_crown_ibp_stand_beside_the_papers_methods_with_what_their_bounds_alone_certify() -> None:
    by = {"ibp": 150, "crown-ibp": 20, "branch and bound": 10}
    found = [outcome(IBP, "ball", 20, certified_by=by), outcome(LLM, "ball", 20, certified_by=by)]
    row = first(1, found)
    assert row["ours"]["IBP (ball)"] == "10.00"
    assert row["bounds alone"]["IBP (ball)"] == "25.00"
    assert row["bounds alone"]["LLM (ball)"] == "15.00"
    assert row["ours"]["CROWN-IBP (ball)"] == NOT_RUN
    assert row["paper"]["IBP (ball)"] == ""
    plain = drafts(1, Pool.of([outcome(msgspec.structs.replace(IBP, protocol="paper"), "ball", 2)], "paper"))[0]
    assert not any("IBP (ball)" in name and not name.startswith("AIBP") for name in plain.columns)


def test_the_heading_tells_epochs_and_seconds_an_image() -> None:
    title = drafts(1, Pool.of([outcome(CPU, "cell", 3), outcome(LLM, "ball", 8), outcome(IBP, "ball", 8)], "cpu"))[0]
    assert title.table.title.startswith("Table 1, protocol cpu (10 epochs, LLM 3; balls: 1 s an image): ")
    large = msgspec.structs.replace(IBP, network="dm-large", epochs=3)
    pair = [outcome(run, "ball", 8) for run in (IBP, large)]
    title = drafts(1, Pool.of([outcome(CPU, "cell", 3), *pair], "cpu"))[0]
    assert title.table.title.startswith("Table 1, protocol cpu (10 epochs, IBP on dm-large 3; balls: ")
    longer = msgspec.structs.replace(LLM, timeout=2.5)
    title = drafts(1, Pool.of([outcome(run, "ball", 8) for run in (IBP, large, longer)], "cpu"))[0]
    assert "; balls: 1 s an image, LLM 2.5): " in title.table.title
    own = msgspec.structs.replace(LLM, epochs=None, radius="0.2", certify=("0.2",))
    theirs = [outcome(run, "ball", 8) for run in (own, LLM)]
    title = drafts(1, Pool.of([outcome(CPU, "cell", 3), outcome(IBP, "ball", 8), *theirs], "cpu"))[0]
    assert title.table.title.startswith("Table 1, protocol cpu (10 epochs, LLM 3, LLM the data set's own; balls: ")


def test_images_in_place_of_imagenets_are_named_and_not_compared() -> None:
    run = msgspec.structs.replace(
        CPU, data="folder", network="vgg11", radius="2/255", cells=31, image_size=64, epochs=3
    )
    table = drafts(5, Pool.of([outcome(run, "cell", 100)], "cpu"))[0].table
    row = lines(table, data="folder", epsilon="2/255")
    assert (row["ours"]["VGG11, Error (cell)"], row["paper"]["VGG11, Error (cell)"]) == ("50.00", "36.29")
    assert "difference" not in row
    assert any("not to be compared" in note for note in table.notes)


def test_the_epoch_and_the_cells_are_chosen_on_the_validation_split() -> None:
    found = [
        outcome(CPU, "cell", 3, validation_error=0.2),
        outcome(msgspec.structs.replace(CPU, cells=5), "cell", 9, validation_error=0.1),
    ]
    assert first(1, found)["ours"]["AC (cell)"] == "4.50"


def test_rows_tell_by_which_bounds_their_images_are_certified(tmp_path: Path) -> None:
    store(tmp_path, CPU, {"ball": 8})
    (one,) = verified_runs(tmp_path)[0]
    assert one.certified_by == {"branch and bound": 192}


def test_a_run_would_count_exactly_where_its_verification_does() -> None:
    for run in (CPU, LLM, IBP):
        for text in ("0.1", "0.2"):
            for claim in ("cell", "ball"):
                radius = Radius.parse(text, run.radius_scale)
                asked = msgspec.structs.replace(run, certify=(text,), claims=(claim,))
                found = outcome(asked, claim, 3, radius=radius if claim == "ball" else None)
                assert would_count(asked, claim, radius) == counts_for(found, claim, radius)


# --- the file --------------------------------------------------------------------------------------------------------


def test_estimates_are_kept_read_and_copied(tmp_path: Path) -> None:
    results, copy = tmp_path / "results", tmp_path / "copy"
    store(results, CPU, {"cell": 3})
    keep_estimates(results, {LLM.key: 90.4}, [LLM, IBP])
    keep_estimates(results, {IBP.key: 60.0}, [IBP])
    assert [(one.run, one.seconds) for one in read_estimates(results)] == [(LLM, 90), (IBP, 60)]
    keep(results, copy)
    assert read_estimates(copy) == read_estimates(results)
    assert select_tables(copy, "1") == select_tables(results, "1")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"estimates": 1}', '{"estimates": [{"run": {}, "seconds": 1}]}'])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str) -> None:
    store(tmp_path, CPU, {"cell": 3})
    (tmp_path / ESTIMATES).write_text(text)
    with pytest.raises(RecordError, match=r"estimates\.json cannot be read") as caught:
        select_tables(tmp_path, "1")
    assert "\n" not in str(caught.value)
    assert "estimates.json" in refused("compare", "tables", "--out", tmp_path)


def test_the_command_keeps_estimates_and_shows_what_is_beyond(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    part = 'data = ["digits"]\nnetwork = ["fc-3-code"]\nmethod = ["{}"]\nradius = ["0.1"]\nepochs = 1\n'
    plan.write_text(
        f'title = "small"\nprotocol = "cpu"\n[[grid]]\n{part.format("plain")}'
        f"[[grid]]\n{part.format('pgd')}beyond = true\n"
    )
    shown = abscert("compare", "plan", plan, "--out", tmp_path / "r", "--keep-estimates", "--json").json
    assert [(row["state"], row["run"].split()[2].strip(",")) for row in shown["runs"]] == [
        ("to do", "plain"),
        ("beyond the budget", "pgd"),
    ]
    kept = read_estimates(tmp_path / "r")
    assert [one.run.method for one in kept] == ["plain", "pgd"]
    assert shown["estimated_seconds_left"] <= kept[0].seconds + 1
    run: Run = kept[1].run
    assert run.protocol == "cpu"
    assert [one.method for one in read_plan(str(plan)).runs()] == ["plain"]
