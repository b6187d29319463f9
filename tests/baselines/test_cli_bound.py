"""`--bound`: the verified error by one bound alone, as papers report it of their method."""

from pathlib import Path

import pytest
from command_line import abscert, refused

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.records import RunInfo, read_records

RADIUS = "0.05"
FAST = ("--data", "digits", "--network", "fc-3-code", "--epochs", "4", "--seed", "0")
BALL = ("--radius", RADIUS, "--limit", "60")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "ibp"
    abscert("baseline", "train", "--method", "ibp", "--radius", RADIUS, *FAST, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def certified(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return how many images all steps certify."""
    out = tmp_path_factory.mktemp("certified") / "every"
    facts = abscert("baseline", "certify", trained, *BALL, "--json", "--out", out).json
    assert "bound" not in RunInfo.read(out / "run.json").configuration
    return int(facts["certified"])


@pytest.mark.slow
@pytest.mark.parametrize("method", list(BoundMethod))
def test_a_bound_alone_certifies_no_more_than_all_steps(
    trained: Path, certified: int, tmp_path: Path, method: BoundMethod
) -> None:
    command = ("baseline", "certify", trained, *BALL, "--json")
    alone = abscert(*command, "--bound", method, "--out", tmp_path / "alone").json
    assert 0 < alone["certified"] <= certified
    rows = read_records(tmp_path / "alone" / "records.jsonl")
    assert {row.method for row in rows} <= {"forward", method}
    assert {row.claim for row in rows} == {"ball"}
    assert RunInfo.read(tmp_path / "alone" / "run.json").configuration["bound"] == method


@pytest.mark.slow
def test_the_file_alone_is_bounded_as_the_training_is(trained: Path, tmp_path: Path) -> None:
    options = ("--bound", "crown-lbp", "--json")
    folder = abscert("baseline", "certify", trained, *BALL, *options, "--out", tmp_path / "a").json
    alone = ("verify", trained / "deploy.onnx", "--claim", "ball", *BALL, *options, "--out", tmp_path / "b")
    assert abscert(*alone).json["certified"] == folder["certified"]


@pytest.mark.slow
def test_records_of_one_bound_are_not_gone_on_with_by_another(trained: Path, tmp_path: Path) -> None:
    abscert("baseline", "certify", trained, *BALL, "--bound", "ibp", "--out", tmp_path / "out")
    line = refused("baseline", "certify", trained, *BALL, "--bound", "crown", "--out", tmp_path / "out")
    assert "configuration" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--claim", "ball", "--radius", RADIUS, "--bound", "tightest"), "ibp, crown-ibp, crown-lbp"),
        (("--claim", "cell", "--bound", "crown"), "expected --bound with --claim ball"),
        (("--claim", "ball", "--radius", RADIUS, "--bound", "crown", "--black-box"), "--black-box"),
    ],
)
def test_a_bound_without_meaning_is_refused(
    trained: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refused("verify", trained / "deploy.onnx", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_network_that_a_bound_is_not_written_for_is_refused_before_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = (*FAST, "--activation", "sigmoid", "--radius", RADIUS)
    abscert("baseline", "train", "--method", "ibp", *options, "--out", folder)
    line = refused("baseline", "certify", folder, *BALL, "--bound", "crown-lbp", "--out", tmp_path / "out")
    assert "Sigmoid" in line
    assert not (tmp_path / "out").exists()
