"""Another solver's results: in the competition's forms, held against ours, and their counterexamples run again."""

import gzip
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from query_texts import box_texts, query_text
from small_nets import relu_file

from abscert_plugin.errors import RecordError
from abscert_plugin.instances.counting import beside_by_category, count_by_category, pairs_of
from abscert_plugin.instances.listing import Instance, read_lists
from abscert_plugin.instances.others import contradictions, read_other
from abscert_plugin.instances.replaying import satisfies
from abscert_plugin.instances.rows import Result, Row, write_results


def row(instance: Instance, result: Result, seconds: float = 1.0, counterexample: str | None = None) -> Row:
    return Row(
        category=instance.category,
        network=instance.network,
        query=instance.query,
        timeout=instance.timeout,
        result=result,
        reason="",
        seconds=seconds,
        cpu_seconds=None,
        counterexample=counterexample,
        schema=1,
    )


@pytest.fixture
def instances(tmp_path: Path) -> list[Instance]:
    """Return instances of x -> max(x, 0) on [-1, 1]^2: is an output at least 0.5, 1, 1.5?"""
    folder = tmp_path / "relu"
    (folder / "vnnlib").mkdir(parents=True)
    relu_file(folder / "net.onnx", 2)
    lines = []
    for limit in ("0.5", "1.0", "1.5"):
        text = query_text([*box_texts(1), f"(>= Y_0 {limit})"], 1)
        (folder / "vnnlib" / f"least_{limit}.vnnlib").write_text(text)
        lines.append(f"net.onnx,vnnlib/least_{limit}.vnnlib,20\n")
    (folder / "instances.csv").write_text("".join(lines))
    return read_lists([folder])


def published(tmp_path: Path, *results: str) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    names = ("0.5", "1.0", "1.5")
    (folder / "results.csv").write_text(
        "".join(
            f"2024_relu,bench/relu/net.onnx.gz,bench/relu/vnnlib/least_{name}.vnnlib,4.1,{result}\n"
            for name, result in zip(names, results, strict=False)
        )
    )
    return folder


def counterexample(folder: Path, limit: str, *values: object) -> None:
    place = folder / "2024_relu" / f"net_least_{limit}.counterexample.gz"
    place.parent.mkdir(exist_ok=True)
    entries = " ".join(f"(X_{k}  {value})" for k, value in enumerate(values))
    place.write_bytes(gzip.compress(f"({entries} (Y_0 0.0) (Y_1 0.0))".encode()))


def test_words_of_all_years_are_read(tmp_path: Path, instances: list[Instance]) -> None:
    folder = published(tmp_path, "HOLDS,1.5", "violated,0.25", "error_exit_code_1,-1")
    other = read_other(folder)
    found = [other.of(instance) for instance in instances]
    assert [(each.result, each.seconds) for each in found if each is not None] == [
        (Result.UNSAT, 1.5),
        (Result.SAT, 0.25),
        (Result.ERROR, None),
    ]
    assert other.name == "theirs"


def test_of_instances_of_one_name_the_likeliest_is_taken(tmp_path: Path, instances: list[Instance]) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        "other,o/net.onnx,o/least_0.5.vnnlib,0,sat,1\nrelu,r/net.onnx,r/vnnlib/least_0.5.vnnlib,0,unsat,1\n"
    )
    finding = read_other(path).of(instances[0])
    assert finding is not None
    assert finding.category == "relu"


def test_a_run_of_ours_is_read_as_theirs_is(tmp_path: Path, instances: list[Instance]) -> None:
    rows = [row(each, Result.UNSAT, 2.5) for each in instances]
    write_results(tmp_path / "out" / "results.csv", rows)
    other = read_other(tmp_path / "out")
    assert [other.of(each) for each in instances] == [
        other.findings["net.onnx", Path(each.query).name][0] for each in instances
    ]


def test_a_sat_that_replays_beats_unsat(tmp_path: Path, instances: list[Instance]) -> None:
    folder = published(tmp_path, "sat,1", "sat,1", "sat,1")
    counterexample(folder, "0.5", "0.75", "-1.0")
    counterexample(folder, "1.5", "1.5", "0")  # its output is 1.5, but it is not in the box
    rows = [row(each, Result.UNSAT) for each in instances]
    found = contradictions(instances, rows, read_other(folder), tmp_path)
    assert [item.is_one for item in found] == [True, True, False]
    assert "theirs satisfies the query here: our unsat is wrong" in found[0].says
    assert "is not there" in found[1].says
    assert "does not satisfy" in found[2].says


def test_our_sat_is_run_again_too(tmp_path: Path, instances: list[Instance]) -> None:
    folder = published(tmp_path, "unsat,1", "unsat,1", "unknown,1")
    (tmp_path / "ours.counterexample").write_text("((X_0 0.5)\n (X_1 0.0)\n (Y_0 0.5)\n (Y_1 0.0))")
    (tmp_path / "broken.counterexample").write_text("((X_0 0.5))")
    rows = [
        row(instances[0], Result.SAT, counterexample="ours.counterexample"),
        row(instances[1], Result.SAT, counterexample="broken.counterexample"),
        row(instances[2], Result.SAT),
    ]
    found = contradictions(instances, rows, read_other(folder), tmp_path)
    assert [item.instance for item in found] == instances[:2]
    assert "theirs's unsat is wrong" in found[0].says
    assert "expected a number for each of 2 inputs" in found[1].says


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-20, 20).map(lambda value: value / 16), min_size=2, max_size=2))
def test_satisfies_is_what_exact_arithmetic_says(tmp_path_factory: pytest.TempPathFactory, point: list[float]) -> None:
    folder = tmp_path_factory.mktemp("exact")
    relu_file(folder / "net.onnx", 2)
    (folder / "q.vnnlib").write_text(query_text([*box_texts(1), "(>= Y_0 0.5)", "(<= Y_1 0.25)"], 1))
    (folder / "point").write_text(f"((X_0 {point[0]}) (X_1 {point[1]}))")
    one = Instance("exact", "net.onnx", "q.vnnlib", folder / "net.onnx", folder / "q.vnnlib", 1.0)
    first, second = map(Fraction, point)
    is_in = all(-1 <= value <= 1 for value in (first, second))
    assert satisfies(one, folder / "point") == (is_in and first >= Fraction(1, 2) and second <= Fraction(1, 4))


def test_assignments_of_version_2_are_read(tmp_path: Path, instances: list[Instance]) -> None:
    (tmp_path / "point").write_text("X float32 [1,2]\n0.5\n0.0\nY float32 [1,2]\n0.0\n0.0\n")
    assert satisfies(instances[0], tmp_path / "point")
    assert not satisfies(instances[1], tmp_path / "point")


def test_counts_are_by_category_and_within_the_time(tmp_path: Path, instances: list[Instance]) -> None:
    other = read_other(published(tmp_path, "sat,0.5", "unsat,21", "unsat,4"))
    rows = [
        row(instances[0], Result.SAT, 2.0),
        row(instances[1], Result.UNSAT),
        row(instances[2], Result.TIMEOUT, 20.0),
    ]
    (count,) = count_by_category(rows)
    assert (count.total, count.decided, count.seconds, count.median) == (3, 2, 23.0, 1.5)
    (beside,) = beside_by_category(pairs_of(instances, rows, other))
    assert (beside.both, beside.ours, beside.theirs, beside.neither, beside.ratio) == (1, 1, 1, 0, 4.0)
    assert [each.category for each in count_by_category([*rows, row(instances[0], Result.SAT)])] == ["relu"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("relu,net.onnx,q.vnnlib\n", "line 1: expected category, network"), ("\n", "expected results in")],
)
def test_what_holds_no_results_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "results.csv").write_text(text)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=words):
        read_other(tmp_path / "results.csv")
    with pytest.raises(RecordError, match="found neither"):
        read_other(empty)


def test_numbers_that_are_none_are_refused(tmp_path: Path, instances: list[Instance]) -> None:
    for text in ("((X_0 nan) (X_1 0))", "((X_0 1e60) (X_1 0))", "((X_0 one) (X_1 0))", ""):
        (tmp_path / "point").write_text(text)
        with pytest.raises(RecordError, match="expected"):
            satisfies(instances[0], tmp_path / "point")
