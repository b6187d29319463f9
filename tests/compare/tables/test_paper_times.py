"""The paper's Table 3 out of timings that the test writes: seconds and speed-ups by hand computation."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from stored_records import named, store
from test_paper_tables import LLM, PAPER, Lines, lines, of

from abscert_plugin.errors import RecordError
from compare.tables.catalogue import select_tables
from compare.tables.error_table import NOT_RUN, Table
from compare.timing.time_records import TIMES, Kind, Setting, Subject, TimedBlock

SECONDS = {  # of three rounds: 1 step of 1 that an epoch has, 1 image of 2 that the test set has
    ("abstrain", "training"): (2.0, 4.0, 3.0),
    ("llm", "training"): (12.0, 20.0, 12.0),
    ("abstrain", "verification"): (0.5, 0.5, 1.0),
    ("llm", "verification"): (4.0, 3.0, 5.0),
}


def store_times(results: Path, device: str = "a timer", network: str = "dm-small", data: str = "mnist") -> str:
    """Write the records of a timing of AC and LLM, and return its key."""
    subjects = tuple(
        Subject(
            run=of(run, data=data, network=network),
            batch_size=100,
            claim="cell" if run.cells else "ball",
            verified_by="a forward pass" if run.cells else "IBP",
        )
        for run in (PAPER, LLM)
    )
    setting = Setting(
        data=data,
        network=network,
        seed=0,
        subjects=subjects,
        steps=1,
        images=1,
        search_images=0,
        training_images=100,
        test_images=2,
        device=device,
        versions={"abscert-plugin": "0.1.0"},
        schema=1,
    )
    folder = results / TIMES / setting.key
    folder.mkdir(parents=True)
    (folder / "times.json").write_bytes(msgspec.json.encode(setting))
    blocks = [
        TimedBlock(round=number, place=0, method=name, kind=Kind(kind), count=1, seconds=seconds, load=None, schema=1)
        for (name, kind), rounds in SECONDS.items()
        for number, seconds in enumerate(rounds)
    ]
    (folder / "times.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(blocks))
    return setting.key


def timed(tables: Sequence[Table], what: str, network: str = "dm-small", data: str = "mnist") -> Lines:
    (table,) = [table for table in tables if table.title.startswith(f"Table 3: {what}")]
    return lines(table, data=data, network=network)


def test_speed_ups_are_those_of_a_hand_computation(tmp_path: Path) -> None:
    key = store_times(tmp_path)
    tables = select_tables(tmp_path, "3")
    training = timed(tables, "training time")
    assert (training["ours"]["AC"], training["paper"]["AC"], training["ours"]["timing"]) == ("3.00", "2.18", key[:8])
    assert (training["ours"]["LLM"], training["paper"]["LLM"]) == ("12.00", "13.40")
    # of the rounds 12 / 2, 20 / 4 and 12 / 3
    assert (training["ours"]["SpeedUp over LLM"], training["difference"]["SpeedUp over LLM"]) == ("5.00", "-1.14")
    assert training["spread"]["SpeedUp over LLM"] == "4.50 to 5.50"
    assert training["difference"]["LLM"] == ""
    verification = timed(tables, "verification time (s), as")
    # two images for each that was timed
    assert (verification["ours"]["AC"], verification["ours"]["LLM"]) == ("1.00", "8.00")
    assert verification["ours"]["SpeedUp over LLM"] == "6.00"  # of 8, 6 and 5
    total = timed(tables, "training and verification")
    # of (12 + 8) / (2 + 1), (20 + 6) / (4 + 1) and (12 + 10) / (3 + 2)
    assert (total["ours"]["SpeedUp over LLM"], total["paper"]["SpeedUp over LLM"]) == ("5.20", "7.05")
    assert total["ours"]["SpeedUp over LBP"] == NOT_RUN


def test_the_printed_figures_of_table_3_stand_in_their_row_and_column(tmp_path: Path) -> None:
    parts = tomllib.loads(resources.files("compare.tables").joinpath("published.toml").read_text(), parse_float=str)[
        "part"
    ]
    (printed,) = [part for part in parts if part["table"] == 3]
    store(tmp_path, PAPER, {"cell": 3})
    training, verification, total, _ = select_tables(tmp_path, "3")
    for block in printed["block"]:
        (row,) = block["rows"]
        names = {"data": block["data"], "network": block["network"]}
        shown = [list(lines(table, **names)["paper"].values())[4:] for table in (training, verification, total)]
        assert shown[0] + shown[1] + shown[2][2::2] == row["cells"]


def test_table_3_is_made_for_each_machine_apart_and_other_networks_have_rows_too(tmp_path: Path) -> None:
    keys = [store_times(tmp_path, device) for device in ("fast", "slow")]
    store_times(tmp_path, "slow", network="cnn-2layer")
    tables = select_tables(tmp_path, "3")
    general = tables[0]
    assert len(general.rows) == 3 * 6
    titles = [table.title for table in tables if table.title.startswith("Table 3: training time")]
    assert [title.rsplit(" ", 1)[1] for title in titles] == ["fast", "slow"]
    for title, key in zip(titles, keys, strict=True):
        (table,) = [table for table in tables if table.title == title]
        assert lines(table, data="mnist", network="dm-small").keys() == {"ours", "spread", "paper", "difference"}
        timings = [row["timing"] for row in named(table) if row["line"] == "ours" and row["network"] == "dm-small"]
        assert [name for name in timings if name] == [key[:8]]
    (slow,) = [table for table in tables if table.title == titles[1]]
    assert lines(slow, data="mnist", network="cnn-2layer")["ours"]["SpeedUp over LLM"] == "5.00"
    assert "paper" not in lines(slow, data="mnist", network="cnn-2layer")
    assert any(note.endswith("slow; 3 rounds; abscert-plugin 0.1.0.") for note in slow.notes)
    assert not any("fast" in note for note in slow.notes)


def test_timings_alone_are_enough_for_tables(tmp_path: Path) -> None:
    store_times(tmp_path)
    titles = [table.title for table in select_tables(tmp_path, "all")]
    assert titles[0] == "Times of every method, side by side"
    assert len([title for title in titles if title.startswith("Table 3")]) == 3
    with pytest.raises(RecordError, match="expected runs in"):
        select_tables(tmp_path, "errors")
