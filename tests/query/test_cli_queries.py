"""`abscert verify QUERY.vnnlib`, `abscert check --query` and `abscert supports`: the solver interface of VNN-LIB 2."""

import gzip
import json
import re
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from command_line import Result, abscert
from onnx import TensorProto, helper, numpy_helper
from query_texts import box_texts, query_text
from small_nets import Net

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.cli.query import CAPABILITIES
from abscert_plugin.decimals import decimal
from abscert_plugin.query import reading, solve
from abscert_plugin.query.network import open_network

pytest.importorskip("vnnlib")
ABSOLUTE = Net(
    [
        (np.array([[1, -1, 0, 0], [0, 0, 1, -1]], np.float32), np.zeros(4, np.float32)),
        (np.ones((4, 1), np.float32), np.zeros(1, np.float32)),
    ]
)
"""|x0| + |x1|."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a network and two queries about it in version 2, and one in version 1, packed."""
    ABSOLUTE.write(tmp_path / "net.onnx")
    for name, limit in (("sat", "1.5"), ("unsat", "2.5")):
        text = query_text([*box_texts(2), f"(>= Y[0,0] {limit})"], 2, outputs=1)
        (tmp_path / f"{name}.vnnlib").write_text(text)
    first = query_text([*box_texts(1), "(or (>= Y_0 1.5) (<= Y_0 -1.0))"], 1, outputs=1)
    (tmp_path / "first.vnnlib.gz").write_bytes(gzip.compress(first.encode()))
    return tmp_path


def verify(folder: Path, query: str, *others: object, status: int = 0, name: str = "f") -> Result:
    return abscert("verify", folder / query, "--network", f"{name}={folder / 'net.onnx'}", *others, status=status)


def test_sat_is_a_line_and_then_the_assignment(folder: Path) -> None:
    verdict, head, *values = verify(folder, "sat.vnnlib", "--timeout", 20).out.splitlines()
    assert (verdict, head, values[2], len(values)) == ("sat", "X float32 [1,2]", "Y float32 [1,1]", 4)
    first, second, output = (Fraction(values[place]) for place in (0, 1, 3))
    assert abs(first) + abs(second) == output >= Fraction(3, 2)


def test_an_assignment_is_exact(folder: Path) -> None:
    """Fewest digits would do for a reader of float32, and might lie outside the box for one of decimals."""
    text = query_text(["(>= X[0,0] 0.1)", "(<= X[0,0] 0.7)", *box_texts(2)[2:], "(>= Y[0,0] 0.0)"], 2, outputs=1)
    (folder / "q.vnnlib").write_text(text)
    values = [Fraction(line) for line in verify(folder, "q.vnnlib").out.splitlines() if line[0] in "-0123456789"]
    assert [Fraction(float(np.float32(float(value)))) for value in values] == values


def test_version_1_has_the_assignment_of_the_competition(folder: Path) -> None:
    lines = verify(folder, "first.vnnlib.gz", "--timeout", 20).out.splitlines()
    assert lines[0] == "sat"
    assert [line.strip(" (").split()[0] for line in lines[1:]] == ["X_0", "X_1", "Y_0"]
    assert "".join(lines[1:]).count("(") == "".join(lines[1:]).count(")")


def test_unsat_is_one_line_and_its_proof_is_checked(folder: Path) -> None:
    proof = folder / "new" / "proof.json"
    assert verify(folder, "unsat.vnnlib", "--timeout", 20, "--unsat-proofs", proof).out == "unsat\n"
    check = ("check", proof, folder / "net.onnx", "--query", folder / "unsat.vnnlib")
    assert abscert(*check).out.startswith("ok")
    assert abscert(*check, "--json").json["holds"] is True
    assert "another query" in abscert(*check[:-1], folder / "sat.vnnlib", status=1).out


def test_a_network_may_be_packed(folder: Path) -> None:
    packed = folder / "net.onnx.gz"
    packed.write_bytes(gzip.compress((folder / "net.onnx").read_bytes()))
    proof = folder / "proof.json"
    given = ("verify", folder / "unsat.vnnlib", "--network", f"f={packed}", "--unsat-proofs", proof)
    assert abscert(*given).out == "unsat\n"
    assert abscert("check", proof, packed, "--query", folder / "unsat.vnnlib").out.startswith("ok")
    packed.write_bytes(gzip.compress((folder / "net.onnx").read_bytes())[:-20])
    assert_matches("^error: cannot read .*net.onnx.gz", abscert(*given, status=2).err)


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ((TensorProto.DOUBLE, TensorProto.DOUBLE), "got an input of float64 and the outputs .'y'."),
        ((TensorProto.FLOAT, TensorProto.FLOAT16), "expected an output of float32 or int64, got float16"),
        ((TensorProto.UNDEFINED, TensorProto.UNDEFINED), "got an input of no tensor"),
    ],
)
def test_networks_of_other_types_are_refused(kinds: tuple[int, int], reason: str, folder: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=kinds[1])
    given, found = (helper.make_tensor_value_info(*it, [1, 2]) for it in zip("xy", kinds, strict=True))
    graph = helper.make_graph([node], "cast", [given], [found])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    (folder / "q.vnnlib").write_text(query_text([*box_texts(2), "(<= Y[0,0] 0.0)"], 2))
    result = verify(folder, "q.vnnlib", status=2)
    assert result.err.count("\n") == 1
    assert_matches(reason, result.err)


@pytest.mark.parametrize(
    "atom",
    [
        "(<= (* 1e-46 Y_0) 1e-29)",  # in float32 the left side is 0
        "(<= (* 1e25 Y_0) (* 1e25 Y_1))",  # in float32 both are infinite
    ],
)
def test_what_float32_cannot_tell_is_not_unsat(atom: str, folder: Path) -> None:
    """The constraint is false of the decimals, and true of all inputs where its parts are rounded to float32."""
    values = {"w": [[1e18, 0.0]], "b": [0.0, 1e17]}
    weights = [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in values.items()]
    given, found = (helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("x", 1), ("y", 2)))
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], "large", [given], [found], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    text = query_text(["(>= X_0 0.5)", "(<= X_0 1.0)", atom], 1, inputs=1, outputs=2)
    (folder / "q.vnnlib").write_text(text)
    query = reading.read_query(folder / "q.vnnlib").query
    outcome = solve.solve(query, open_network(folder / "net.onnx", query), 1.0)
    assert outcome.verdict in (QueryVerdict.UNKNOWN, QueryVerdict.TIMED_OUT)


def test_a_fixed_decimal_is_the_float32_next_to_it(folder: Path) -> None:
    ends = ["(== X[0,0] 0.1)", "(>= X[0,1] -1.0)", "(<= X[0,1] 1.0)", "(>= Y[0,0] 0.1)"]
    (folder / "fixed.vnnlib").write_text(query_text(ends, 2, outputs=1))
    result = verify(folder, "fixed.vnnlib")
    assert result.out.splitlines()[0] == "sat"
    assert "note: 1 input lies between decimals with no float32" in result.err


_NEAR, _F32 = "0.100000001490115119384765625", "0.100000001490116119384765625"  # a float32, and 1e-15 less
EXACT_ONLY = {
    "strict": f"(and (> X[0,0] {_NEAR}) (<= X[0,0] {_F32}) (>= Y[0,0] 0.05))",
    "unequal": f"(and (>= X[0,0] {_F32}) (<= X[0,0] {_F32}) (!= X[0,0] 0.1) (>= Y[0,0] 0.05))",
}


@pytest.mark.parametrize("name", EXACT_ONLY)
def test_a_float32_beside_a_decimal_is_no_empty_box(folder: Path, name: str) -> None:
    """As it is written the float32 next to 0.1 satisfies it, and rounded to float32 nothing does: that is not unsat."""
    other = "(and (>= X[0,0] 0.5) (<= X[0,0] 0.5) (<= Y[0,0] 0.25))"
    ends = [f"(or {EXACT_ONLY[name]} {other})", "(>= X[0,1] 0.0)", "(<= X[0,1] 0.0)"]
    (folder / "near.vnnlib").write_text(query_text(ends, 2, outputs=1))
    result = verify(folder, "near.vnnlib", "--timeout", 2)
    assert result.out != "unsat\n"
    assert "no float32" not in result.err


def powers(*exponents: int) -> str:
    return " ".join(decimal(2.0**exponent) for exponent in exponents)


PREFIXES = {
    "overflow": ([1.0, 1e6], f"(>= (* {powers(64, 64, -64, -64)} Y_0) Y_1)"),
    "underflow": ([2.0**30, 0.0], f"(<= (* {powers(-100, -50, 100, 50)} Y_0) 1.0)"),
    "a sum behind an underflow": ([1.0, 0.0], f"(<= (* {powers(-90, -90)} {'(+ 1.0 1.0 1.0 1.0) ' * 90} Y_0) 0.5)"),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_products_of_numbers_alone_may_overflow_or_underflow_on_their_way(folder: Path, name: str) -> None:
    """In float32 from left to right they are infinite, or 0, before the numbers that bring them back."""
    weights, constraint = PREFIXES[name]
    Net([(np.array([weights], np.float32), np.zeros(2, np.float32))]).write(folder / "net.onnx")
    text = query_text(["(>= X_0 1.0)", "(<= X_0 2.0)", constraint], 1, inputs=1, outputs=2)
    (folder / "prefix.vnnlib").write_text(text)
    assert verify(folder, "prefix.vnnlib", "--timeout", 1).out != "unsat\n"


def test_assignments_are_tensors(folder: Path) -> None:
    out = folder / "answer"
    assert verify(folder, "sat.vnnlib", "--serialise-assignments", out).out == "sat\n"
    tensors = {path.stem: numpy_helper.to_array(onnx.load_tensor(str(path))) for path in out.iterdir()}
    assert {name: (str(values.dtype), values.shape) for name, values in tensors.items()} == {
        "X": ("float32", (1, 2)),
        "Y": ("float32", (1, 1)),
    }
    assert np.abs(tensors["X"]).sum() == tensors["Y"][0, 0]


def test_what_is_not_decided_in_time_is_timed_out(folder: Path) -> None:
    chance = np.random.default_rng(0)
    Net.drawn(chance, [12, 60, 60, 60, 1]).write(folder / "net.onnx")
    text = query_text([*box_texts(2, inputs=12), "(>= Y[0,0] 2500.0)"], 2, inputs=12, outputs=1)
    (folder / "hard.vnnlib").write_text(text)
    result = verify(folder, "hard.vnnlib", "--timeout", 0.01)
    assert result.out == "timed-out\n"
    assert "time was up" in result.err


@pytest.mark.parametrize("step", [(solve, "bounded"), (reading, "read_query")], ids=["bounds", "reading"])
@pytest.mark.parametrize("is_import", [False, True], ids=["", "import"])
def test_a_step_that_takes_too_long_is_stopped(
    step: tuple[ModuleType, str], is_import: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        try:
            for _step in range(10_000):  # as a bound of a large network that never looks at the time
                time.sleep(0.01)
        except BaseException as error:
            if is_import:
                raise ImportError("a library was stopped in its import") from error
            raise

    monkeypatch.setattr(*step, slow)
    begun = time.monotonic()
    assert verify(folder, "unsat.vnnlib", "--timeout", 1).out == "timed-out\n"
    assert time.monotonic() - begun < 60


def test_a_step_is_stopped_though_the_first_signal_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class _Waiting:
        def __del__(self) -> None:
            for _step in range(6000):  # what is raised in here is dropped by Python
                time.sleep(0.01)

    def slow(*_: object) -> None:
        _Waiting()
        for _step in range(6000):
            time.sleep(0.01)

    monkeypatch.setattr(solve, "bounded", slow)
    begun, hook = time.monotonic(), sys.unraisablehook
    result = verify(folder, "unsat.vnnlib", "--timeout", 1)
    assert (result.out, sys.unraisablehook) == ("timed-out\n", hook)
    assert time.monotonic() - begun < 30


def test_want_of_memory_is_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(solve, "bounded", full)
    assert verify(folder, "unsat.vnnlib", "--timeout", 20).out == "unknown\n"


def odd(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Return queries that are refused, the name of the network that is given, and what the message says."""
    plain = [*box_texts(2), "(<= Y[0,0] 0.0)"]
    return {
        "name": (query_text(plain, 2, outputs=1), "g", "one network 'f'.*got 'g'"),
        "inputs": (
            query_text([*box_texts(2, inputs=3), "(<= Y[0,0] 0.0)"], 2, inputs=3, outputs=1),
            "f",
            "an input of",
        ),
        "outputs": (query_text(plain, 2, outputs=2), "f", "an output of .1, 2. entries, the file has .1, 1."),
        "type": (
            query_text(plain, 2, outputs=1).replace("float32", "float64"),
            "f",
            "line 2: expected float32 or real",
        ),
        "rank": (query_text(plain, 2, outputs=1).replace("X float32 [1,2]", "X float32 [1,1,2]"), "f", "line 4"),
        "count": (
            query_text([*box_texts(1, inputs=3), "(<= Y_0 0.0)"], 1, inputs=3, outputs=1),
            "f",
            "input of 3 entries",
        ),
        "empty": (query_text([*plain, "(>= X[0,1] 4.0)"], 2, outputs=1), "f", "line 9: the box of inputs is empty"),
        "open": (query_text(["(<= Y[0,0] 0.0)"], 2, outputs=1), "f", "expected finite bounds"),
        "mixed": (
            query_text([*plain, "(<= Y[0,0] X[0,0])"], 2, outputs=1),
            "f",
            "line 9: .*between inputs and outputs",
        ),
        "parse": (query_text([*plain, "(<= Y[0,0]"], 2, outputs=1), "f", "line 9"),
        "large": (
            query_text([*plain, f"(<= Y[0,0] 1{'0' * 400}.0)"], 2, outputs=1),
            "f",
            "line 9: expected numbers below",
        ),
    }


@pytest.mark.parametrize(
    "kind", ["name", "inputs", "outputs", "type", "rank", "count", "empty", "open", "mixed", "parse", "large"]
)
def test_bad_input_is_one_line_on_stderr(kind: str, folder: Path) -> None:
    text, name, reason = odd(folder)[kind]
    (folder / "bad.vnnlib").write_text(text)
    result = verify(folder, "bad.vnnlib", status=2, name=name)
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert_matches(reason, result.err)


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ((), "expected --network f=FILE once, got none"),
        (("--network", "net.onnx"), "NAME=FILE"),
        (("--network", "f=a.onnx", "--network", "g=b.onnx"), "got 'f', 'g'"),
        (("--network", "f=nowhere.onnx"), "is not there"),
        (("--network", "f=sat.vnnlib"), "is not an ONNX model|is not there"),
        (("--network", "f=nowhere.onnx", "--data", "digits"), "no --data"),
        (("--network", "f=nowhere.onnx", "--timeout", "0"), "time-out above 0"),
    ],
)
def test_wrong_options_are_one_line_on_stderr(folder: Path, others: tuple[str, ...], reason: str) -> None:
    result = abscert("verify", folder / "sat.vnnlib", *others, status=2)
    assert (result.out, result.err.count("\n")) == ("", 1)
    assert_matches(reason, result.err)


def test_options_of_queries_go_with_queries_alone(folder: Path) -> None:
    assert "VNN-LIB query alone" in abscert("verify", folder / "net.onnx", "--network", "f=x", status=2).err


@pytest.mark.parametrize("name", CAPABILITIES)
def test_every_capability_of_the_standard_is_answered(name: str) -> None:
    lines = abscert("supports", name).out.splitlines()
    assert lines
    assert all(line.strip() == line for line in lines)
    if "version" in name:
        assert len(lines) == 2
    if name == "--onnx-element-types":
        assert lines == ["float32", "real"]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_oldest_and_the_newest_opset_are_decided(rank: int, folder: Path) -> None:
    text = query_text([*box_texts(1), "(>= Y_0 2.5)"], 1, outputs=1)
    (folder / "q.vnnlib").write_text(text)
    for version in CAPABILITIES["--onnx-opset-versions"]():
        ABSOLUTE.write(folder / "net.onnx", rank, int(version))
        assert verify(folder, "q.vnnlib").out == "unsat\n"


def test_an_unknown_capability_is_one_line() -> None:
    assert "--magic" in abscert("supports", "--magic", status=2).err


def test_the_solver_has_a_name() -> None:
    assert abscert("--name").out == "abscert-plugin\n"


def test_a_proof_needs_its_query(folder: Path) -> None:
    proof = folder / "proof.json"
    verify(folder, "unsat.vnnlib", "--unsat-proofs", proof)
    assert json.loads(proof.read_text())["kind"] == "abscert unsat proof"
    assert "expected --query" in abscert("check", proof, folder / "net.onnx", status=2).err
