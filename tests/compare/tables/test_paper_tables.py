"""The paper's tables out of records that the test writes: ours by hand computation, the printed by published.toml."""

import tomllib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib import resources
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_records import RUN, named, store

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import RecordError
from abscert_plugin.verification.summary import Summary
from compare.plans.planned_run import Run
from compare.results.verified_run import VerifiedRun
from compare.tables.catalogue import select_tables
from compare.tables.error_table import NOT_RUN, Table, epochs
from compare.tables.paper_cells import PaperTable
from compare.tables.paper_tables import Pool, drafts
from compare.tables.selection import is_admissible

PAPER = msgspec.structs.replace(
    RUN, protocol="paper", radius="0.1", radius_scale=RadiusScale.TRAINING, certify=("0.1",), cells=10
)
LLM = msgspec.structs.replace(PAPER, method="llm", radius_scale=RadiusScale.PIXEL, cells=None)
Lines = Mapping[str, Mapping[str, str]]


def of(run: Run, **changes: Any) -> Run:
    return msgspec.structs.replace(run, **changes)


def lines(table: Table, **labels: str) -> Lines:
    """Return the lines of one row of the paper's table, by their name."""
    rows = [row for row in named(table) if all(row[name] == text for name, text in labels.items())]
    assert len({tuple(row[name] for name in row if "radius" in name) for row in rows}) == 1
    return {row["line"]: row for row in rows}


def small(table: Table, epsilon: str) -> Lines:
    return lines(table, data="mnist", network="dm-small", epsilon=epsilon)


def outcome(run: Run, claim: str, failed: int, images: int = 200, **changes: Any) -> VerifiedRun:
    """Return what a verification of a run came to, without its files."""
    summary = Summary(
        claim=claim,
        images=images,
        certified=images - failed,
        falsified=failed,
        unknown=0,
        holds_for="any-order",
        verified_error=failed / images,
        interval=(0.0, 1.0),
        clean_error=failed / images / 2,
        seconds=1.0,
    )
    values: dict[str, Any] = {
        "run": run,
        "folder": Path(run.key) / claim,
        "radius": run.trained_for if claim == "ball" else None,
        "summary": summary,
        "attacked_error": 0.0,
        "certifying_seconds": 1.0,
        "epoch_seconds": 2.0,
        "version": "1",
        "device": "a machine",
        "activation": run.activation or "relu",
        "validation_error": 0.5,
        "chosen_on_test": False,
        "training_device": "",
    }
    return VerifiedRun(**(values | changes))


def made(number: int, found: Sequence[VerifiedRun], protocol: str = "paper") -> tuple[PaperTable, ...]:
    return drafts(number, Pool.of(found, protocol))


# --- the printed figures --------------------------------------------------------------------------------------------


def test_every_printed_figure_stands_in_its_row_and_column(tmp_path: Path) -> None:
    """Rows of published.toml, read without published.py, are the lines `paper` of the tables, cell by cell."""
    parts = tomllib.loads(resources.files("compare.tables").joinpath("published.toml").read_text(), parse_float=str)[
        "part"
    ]
    store(tmp_path, PAPER, {"cell": 3})
    shown: dict[int, list[list[str]]] = {
        number: [
            [row[name] for name in list(row)[list(row).index("line") + 1 :]]
            for row in named(select_tables(tmp_path, str(number))[0])
            if row["line"] == "paper"
        ]
        for number in (1, 2, 4, 5)
    }
    printed = {
        number: [
            row["cells"]
            for part in parts
            if part["table"] == number
            for block in part["block"]
            for row in block["rows"]
        ]
        for number in (1, 2, 4, 5)
    }
    errors, (times,) = printed[5][:-1], printed[5][-1:]
    printed[5] = [[cell for pair in zip(row, times, strict=True) for cell in pair] for row in errors]
    for number, rows in printed.items():
        assert sorted(map(tuple, rows)) == sorted(map(tuple, shown[number])), number
    assert sum(len(row) for number in (1, 2, 4) for row in shown[number]) == 27 * 7 + 27 * 4 + 8 * 7


def test_rows_carry_the_printed_epsilon_on_both_scales(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 3})
    table, _ = select_tables(tmp_path, "1")
    for row in named(table):
        epsilon = Fraction(row["epsilon"])
        for name, pixel in (("AC's radius", epsilon / 2), ("others' radius", epsilon)):
            on_pixel, on_training = row[f"{name}, pixel (training)"].rstrip(")").split(" (")
            assert float(Fraction(on_pixel)) == pytest.approx(float(pixel), rel=1e-9)
            assert float(Fraction(on_training)) == pytest.approx(float(2 * pixel), rel=1e-9)


def test_a_dash_of_the_paper_stays_one_and_what_was_not_run_says_so(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 3})
    table, _ = select_tables(tmp_path, "1")
    row = lines(table, data="cifar10", network="dm-small", epsilon="2/255")
    assert (row["paper"]["LBP (ball)"], row["paper"]["Impr. over LBP"]) == ("-", "-")
    assert set(row) == {"ours", "paper"}
    assert {text for name, text in row["ours"].items() if "(ball)" in name or "Impr." in name} == {NOT_RUN}


# --- ours ------------------------------------------------------------------------------------------------------------


def test_errors_and_improvements_are_those_of_a_hand_computation(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 3})  # 1.5 % of 200
    store(tmp_path, LLM, {"ball": 8})  # 4 %
    table, _ = select_tables(tmp_path, "1")
    row = small(table, "0.1")
    assert (row["ours"]["AC (cell)"], row["paper"]["AC (cell)"], row["difference"]["AC (cell)"]) == (
        "1.50",
        "0.89",
        "+0.61",
    )
    assert (row["ours"]["LLM (ball)"], row["difference"]["LLM (ball)"]) == ("4.00", "+0.98")
    # (4 - 1.5) / 4, against the paper's 70.53
    assert (row["ours"]["Impr. over LLM"], row["difference"]["Impr. over LLM"]) == ("62.50", "-8.03")
    assert row["cells N"]["AC (cell)"] == "10"
    assert row["ours"]["LBP (ball)"] == row["ours"]["Impr. over LBP"] == NOT_RUN
    (accuracy,) = select_tables(tmp_path, "2")
    # half of what fails is mislabelled, rounded down: 1 of 200, and 4 of 200
    assert (small(accuracy, "0.1")["ours"]["AC"], small(accuracy, "0.1")["ours"]["LLM"]) == ("99.50", "98.00")
    assert small(accuracy, "0.1")["difference"]["AC"] == "+0.39"


def test_an_improvement_over_no_error_is_undefined() -> None:
    table = made(1, [outcome(PAPER, "cell", 3), outcome(LLM, "ball", 0)])[0].table
    assert small(table, "0.1")["ours"]["Impr. over LLM"] == "undefined"


def test_improvements_of_the_claim_ball_are_at_one_radius_in_pixels() -> None:
    at_a_tenth = of(PAPER, radius="0.2", cells=5)  # 0.1 in pixels
    balls = [outcome(PAPER, "ball", 12), outcome(at_a_tenth, "ball", 20), outcome(LLM, "ball", 8)]
    table = made(1, balls)[1].table
    found = {
        row["radius, pixel (training)"]: row
        for row in named(table)
        if row["line"] == "ours" and row["network"] == "dm-small" and row["data"] == "mnist"
    }
    assert found["0.1 (0.2)"]["AC (ball)"] == "10.00"
    assert found["0.1 (0.2)"]["Impr. over LLM"] == "-150.00"  # (4 - 10) / 4
    assert found["0.05 (0.1)"]["AC (ball)"] == "6.00"
    assert found["0.05 (0.1)"]["LLM (ball)"] == found["0.05 (0.1)"]["Impr. over LLM"] == NOT_RUN
    assert "cell" not in " ".join(table.columns)


def test_a_competitor_counts_at_the_radius_that_it_was_trained_for() -> None:
    at_other = outcome(LLM, "ball", 8, radius=Radius.parse("0.2"))
    table = made(1, [at_other])[0].table
    assert small(table, "0.1")["ours"]["LLM (ball)"] == small(table, "0.2")["ours"]["LLM (ball)"] == NOT_RUN


def test_networks_without_relu_and_large_ones_have_their_columns(tmp_path: Path) -> None:
    store(tmp_path, of(PAPER, network="fc-5", activation="tanh"), {"cell": 20, "ball": 30})
    cells, balls = select_tables(tmp_path, "4")
    row = lines(cells, data="mnist", epsilon="0.1")
    assert [row[name]["Tanh, FC-5 (cell)"] for name in ("ours", "paper", "difference")] == ["10.00", "10.50", "-0.50"]
    assert row["ours"]["Sigmoid, FC-5 (cell)"] == NOT_RUN
    ball = lines(balls, data="mnist", epsilon="0.1")
    assert ball["ours"]["Tanh, FC-5 (ball)"] == "15.00"
    assert "paper" not in ball
    large = outcome(of(PAPER, data="imagenet", network="vgg11", radius="2/255", cells=127), "cell", 80)
    table = made(5, [large])[0].table
    found = lines(table, data="imagenet", epsilon="2/255")
    assert [found[name]["VGG11, Error (cell)"] for name in ("ours", "paper", "difference")] == [
        "40.00",
        "36.29",
        "+3.71",
    ]
    assert [found[name]["VGG11, Time"] for name in ("ours", "paper", "difference")] == ["2.0", "2530.3", ""]


def test_relu_networks_do_not_stand_in_for_others() -> None:
    assert made(4, [outcome(PAPER, "cell", 3)])[0].is_empty
    assert made(1, [outcome(of(PAPER, activation="tanh"), "cell", 3)])[0].is_empty


def test_seeds_give_mean_and_standard_deviation_and_one_an_interval(tmp_path: Path) -> None:
    for seed, failed in enumerate((2, 4, 12)):
        store(tmp_path, of(PAPER, seed=seed), {"cell": failed})
    store(tmp_path, LLM, {"ball": 0})
    table, _ = select_tables(tmp_path, "1")
    row = small(table, "0.1")
    errors = [1.0, 2.0, 6.0]
    assert row["ours"]["AC (cell)"] == f"{mean(errors):.2f}"
    assert row["spread"]["AC (cell)"] == f"± {stdev(errors):.2f}, 3 seeds"
    # no failure in n trials, two sided: 1 - 0.025 ** (1 / n)
    assert row["spread"]["LLM (ball)"] == f"0.00 to {100 * (1 - 0.025 ** (1 / 200)):.2f}"


def test_runs_that_differ_in_nothing_that_matters_are_not_two_seeds() -> None:
    again = of(PAPER, radius="0.2", timeout=9.0, certify=("0.3",))
    table = made(1, [outcome(PAPER, "cell", 3), outcome(again, "cell", 3)])[0].table
    assert "seeds" not in small(table, "0.1")["spread"]["AC (cell)"]


# --- which number of cells ------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.fractions(Fraction(1, 1000), 1))
def test_cells_are_admissible_where_they_are_at_least_as_wide_as_the_ball(cells: int, epsilon: Fraction) -> None:
    wide_enough = Fraction(2, cells) >= 2 * epsilon
    assert is_admissible(cells, Radius(epsilon, RadiusScale.TRAINING)) == wide_enough
    assert is_admissible(cells, Radius(epsilon / 2, RadiusScale.PIXEL)) == wide_enough


def test_three_cells_are_wide_enough_for_an_epsilon_of_three_tenths_and_four_are_not() -> None:
    found = [outcome(of(PAPER, cells=cells), "cell", failed) for cells, failed in ((3, 20), (4, 2), (10, 1))]
    table = made(1, found)[0].table
    assert [small(table, epsilon)["cells N"]["AC (cell)"] for epsilon in ("0.1", "0.2", "0.3")] == ["10", "4", "3"]
    assert small(table, "0.4")["ours"]["AC (cell)"] == NOT_RUN


SWEEPS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 200), st.integers(0, 200)),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one[0],
)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "sound"])
@given(sweep=SWEEPS)
def test_the_cells_shown_are_the_best_of_those_that_count(protocol: str, sweep: list[tuple[int, int, int]]) -> None:
    """In `paper` by the error on the test images, in `sound` by the validation error; of equals the coarser."""
    found = [
        outcome(of(PAPER, cells=cells, protocol=protocol), "cell", failed, validation_error=validation / 200)
        for cells, failed, validation in sweep
    ]
    table = made(1, found, protocol)[0].table
    for epsilon in ("0.1", "0.2", "0.3", "0.4"):
        counted = [one for one in sweep if one[0] * Fraction(epsilon) <= 1]
        row = small(table, epsilon)
        if not counted:
            assert row["ours"]["AC (cell)"] == NOT_RUN
            continue
        cells, failed, _ = min(counted, key=lambda one: (one[1 if protocol == "paper" else 2], one[0]))
        assert (row["cells N"]["AC (cell)"], row["ours"]["AC (cell)"]) == (str(cells), f"{failed / 2:.2f}")


def test_the_sound_protocol_does_not_look_at_test_errors_for_its_choice() -> None:
    """Without a validation error there is nothing to choose by, and the coarsest cells are taken."""
    found = [
        outcome(of(PAPER, cells=cells, protocol="sound"), "cell", 20 - cells, validation_error=None) for cells in (2, 9)
    ]
    assert small(made(1, found, "sound")[0].table, "0.1")["cells N"]["AC (cell)"] == "2"


def test_a_run_on_fewer_images_does_not_beat_one_on_more() -> None:
    found = [outcome(PAPER, "cell", 3), outcome(of(PAPER, cells=9, limit=100), "cell", 0, images=100)]
    row = small(made(1, found)[0].table, "0.1")
    assert row["ours"]["AC (cell)"] == "1.50"
    assert "images" not in row
    several = [outcome(PAPER, "cell", 3), outcome(of(LLM, limit=100), "ball", 0, images=100)]
    shown = small(made(1, several)[0].table, "0.1")["images"]
    assert (shown["AC (cell)"], shown["LLM (ball)"]) == ("200", "100")


# --- what is kept apart --------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=20)
@given(
    balls=st.lists(st.integers(0, 200), min_size=4, max_size=4),
    cells=st.lists(st.integers(0, 200), min_size=4, max_size=4),
)
def test_a_record_of_one_claim_never_changes_a_figure_of_the_other(balls: list[int], cells: list[int]) -> None:
    runs = [PAPER, of(PAPER, cells=5, radius="0.2"), of(PAPER, network="fc-3", activation="tanh"), LLM]

    def figures(claim: str, of_balls: Sequence[int], of_cells: Sequence[int]) -> list[str]:
        found = [outcome(run, "ball", failed) for run, failed in zip(runs, of_balls, strict=True)]
        found += [outcome(run, "cell", failed) for run, failed in zip(runs, of_cells, strict=True) if run.cells]
        tables = [draft.table for number in (1, 4) for draft in made(number, found)]
        return [
            row[name]
            for table in tables
            for row in named(table)
            if row["line"] != "images"
            for name in table.columns
            if f"({claim})" in name
        ]

    assert figures("cell", balls, cells) == figures("cell", [7, 7, 7, 7], cells)
    assert figures("ball", balls, cells) == figures("ball", balls, [7, 7, 7, 7])
    assert figures("cell", balls, [1, 2, 3, 4]) != figures("cell", balls, [9, 9, 9, 9])


def test_protocols_have_tables_of_their_own_and_say_which(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 3})
    store(tmp_path, of(PAPER, protocol="sound"), {"cell": 9})
    for number in ("1", "2", "4", "5"):
        tables = select_tables(tmp_path, number)
        for protocol, group in groupby(tables, key=lambda table: table.title.split("protocol ")[1].split(":")[0]):
            for table in group:
                (said,) = [note for note in table.notes if note.startswith("Protocol")]
                assert f"`{protocol}`" in said.split(":")[0]
                assert any(note.startswith("Chosen on the test set") for note in table.notes) == (protocol == "paper")
    errors = {table.title: small(table, "0.1")["ours"]["AC (cell)"] for table in select_tables(tmp_path, "1")[::2]}
    assert sorted(errors.values()) == ["1.50", "4.50"]
    assert [text for title, text in errors.items() if "protocol paper" in title] == ["1.50"]


@pytest.mark.parametrize(
    ("on_test", "said"),
    [
        ([True, True], "Flagged: the epoch of every run was chosen on the test set"),
        ([True, False], "Flagged: the epoch of 1 of 2 runs was chosen on the test set"),
        ([False, False], "on a validation split, not on the test set."),
        ([False, None], "on a validation split, not on the test set. Of 1 no file says it."),
    ],
)
def test_the_images_that_epochs_were_chosen_on_are_named(on_test: list[bool | None], said: str) -> None:
    runs = [outcome(of(PAPER, seed=seed), "cell", 3, chosen_on_test=one) for seed, one in enumerate(on_test)]
    assert said in epochs(runs)


def test_the_choice_of_the_epoch_is_read_from_the_records(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 3}, chosen_on="test")
    table, _ = select_tables(tmp_path, "1")
    (general,) = select_tables(tmp_path, "errors")
    assert all(any(note.startswith("Flagged") for note in one.notes) for one in (table, general))
    assert any("trained on a trainer, verified on a machine" in note for note in table.notes)
    store(tmp_path / "other", PAPER, {"cell": 3}, chosen_on="validation")
    table, _ = select_tables(tmp_path / "other", "1")
    assert not any(note.startswith("Flagged") for note in table.notes)


def test_records_of_two_versions_are_not_averaged(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 10})
    store(tmp_path, of(PAPER, seed=1), {"cell": 20}, version="0.2.0")
    for name in ("1", "2", "all"):
        with pytest.raises(RecordError, match=r"versions 0\.1\.0, 0\.2\.0"):
            select_tables(tmp_path, name)


def test_all_leaves_out_what_has_no_figure_and_names_it(tmp_path: Path) -> None:
    store(tmp_path, PAPER, {"cell": 3})
    *shown, left_out = select_tables(tmp_path, "all")
    assert [table.title.split(",")[0] for table in shown] == ["Verified errors", "Table 1", "Table 2"]
    assert {row[1] for row in left_out.rows} == {NOT_RUN}
    titles = {table.title for number in "12345" for table in select_tables(tmp_path, number)}
    assert titles == {row[0] for row in left_out.rows} | {table.title for table in shown[1:]}
    assert {name: len(select_tables(tmp_path, name)) for name in ("errors", "1", "2", "4", "5")} == {
        "errors": 1,
        "1": 2,
        "2": 1,
        "4": 2,
        "5": 2,
    }


def test_missing_records_of_a_run_that_is_done_are_an_error(tmp_path: Path) -> None:
    folder = store(tmp_path, PAPER, {"cell": 3})
    (folder / "verify-cell" / "records.jsonl").unlink()
    with pytest.raises(RecordError, match="cannot read"):
        select_tables(tmp_path, "1")
