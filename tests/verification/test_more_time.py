"""A run that left images open is gone on with by a run of the same question with more time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tiny_networks import export_tiny, tiny_data, tiny_network

import abscert_plugin as abscert
from abscert_plugin.claim import DECIDED_AT_ONCE, Claim, Verdict, decided_at_once
from abscert_plugin.data import DataSet
from abscert_plugin.errors import RecordError
from abscert_plugin.records import RECORDS, RUN, Record, RunInfo, read_records

COUNT = 12
RADIUS = 0.02


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tiny_network(3), 4, tmp_path_factory.mktemp("tiny")).deploy


@pytest.fixture(scope="module")
def data() -> DataSet:
    return tiny_data(COUNT)


@pytest.fixture
def hurried(tmp_path: Path, deploy: Path, data: DataSet) -> Path:
    """Return the folder of a run without any time: what needs none is decided, the rest is open."""
    decide(deploy, data, tmp_path, 0)
    return tmp_path


def decide(
    deploy: Path,
    data: DataSet,
    out: Path,
    timeout: float,
    bound: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Record]:
    """Return the rows of a verification without combinations run whole, image by image."""
    abscert.verify(
        deploy,
        data,
        radius=RADIUS,
        timeout=timeout,
        bound=bound,
        progress=progress,
        out=out,
        exhaustive=1,
        batch_size=1,
    )
    return read_records(out / RECORDS)


def verdicts(rows: list[Record]) -> list[tuple[int, str]]:
    return [(row.index, row.verdict) for row in rows]


def test_only_what_was_open_is_decided_again(hurried: Path, deploy: Path, data: DataSet, tmp_path: Path) -> None:
    before = {row.index: row for row in read_records(hurried / RECORDS)}
    spent = RunInfo.read(hurried / RUN)
    decided = {index for index, row in before.items() if row.verdict != Verdict.UNKNOWN}
    assert 0 < len(decided) < COUNT
    rows = decide(deploy, data, hurried, 30)
    assert [row for row in rows if row.index in decided] == [row for row in before.values() if row.index in decided]
    assert verdicts(rows) == verdicts(decide(deploy, data, tmp_path / "at once", 30))
    assert all(row.verdict != Verdict.UNKNOWN for row in rows)
    after = RunInfo.read(hurried / RUN)
    assert after.configuration == {**spent.configuration, "timeout_seconds": 30}
    assert after.seconds is not None
    assert after.seconds > sum(row.seconds for row in before.values())


def test_a_run_with_more_time_that_was_cut_off_is_gone_on_with(hurried: Path, deploy: Path, data: DataSet) -> None:
    whole = decide(deploy, data, hurried, 30)
    lines = (hurried / RECORDS).read_bytes().splitlines(keepends=True)
    (hurried / RECORDS).write_bytes(b"".join(lines[: COUNT // 2]))
    assert verdicts(decide(deploy, data, hurried, 30)) == verdicts(whole)


def test_rows_that_still_are_open_have_had_the_longer_time(hurried: Path, deploy: Path, data: DataSet) -> None:
    """A kill after the open rows were dropped, and before run.json was written, leaves nothing that had less time."""
    rows = read_records(hurried / RECORDS)
    info = RunInfo.read(hurried / RUN)
    opened = next(row for row in rows if row.verdict == Verdict.UNKNOWN)
    marked = msgspec.structs.replace(opened, reason="as the shorter time left it")
    (hurried / RECORDS).write_bytes(
        b"".join(msgspec.json.encode(marked if row is opened else row) + b"\n" for row in rows)
    )

    def killed(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(deploy, data, hurried, 30, progress=killed)
    assert marked not in read_records(hurried / RECORDS)
    assert RunInfo.read(hurried / RUN) == replace(info, seconds=info.seconds)
    assert marked.reason not in {row.reason for row in decide(deploy, data, hurried, 30)}


def test_batches_of_a_long_time_out_are_small(deploy: Path, data: DataSet, tmp_path: Path) -> None:
    """And a run that had larger ones is gone on with all the same."""
    asked = {0.0: 100, 10.0: 100, 10.1: 99, 60.0: 16, 2e9: 1}
    assert {seconds: decided_at_once(Claim.BALL, seconds) for seconds in asked} == asked
    assert decided_at_once(Claim.CELL, 2e9) == DECIDED_AT_ONCE[Claim.CELL]
    for seconds in (0, 100):
        abscert.verify(deploy, data, radius=RADIUS, timeout=seconds, exhaustive=1, out=tmp_path)
        assert RunInfo.read(tmp_path / RUN).configuration["batch_size"] == decided_at_once(Claim.BALL, seconds)


@pytest.mark.parametrize(("timeout", "bound"), [(0.0, None), (60.0, "ibp")])
def test_less_time_and_another_question_are_refused(
    hurried: Path, deploy: Path, data: DataSet, timeout: float, bound: str | None
) -> None:
    decide(deploy, data, hurried, 30)
    before = {path: path.read_bytes() for path in hurried.iterdir() if path.is_file()}
    with pytest.raises(RecordError, match="holds another run"):
        decide(deploy, data, hurried, timeout, bound)
    assert {path: path.read_bytes() for path in hurried.iterdir() if path.is_file()} == before
