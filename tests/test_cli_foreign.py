"""`abscert verify` and `abscert check` on a classifier that this project did not make, against onnxruntime alone."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import abscert, refused
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier

import abscert_plugin

RADIUS = Fraction(1, 50)
MEAN, STD = 5.0, 4.0
READS = ("--input-range", "0,16", "--mean", MEAN, "--std", STD)
BALL = ("--data", "digits", "--claim", "ball", "--radius", "0.02", "--limit", 12, "--timeout", 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier of digits that reads normalised rows [N, 64], without metadata."""
    images, labels = load_digits(return_X_y=True)
    network = MLPClassifier((32,), tol=1e-2, n_iter_no_change=3, alpha=1.0, random_state=0).fit(
        (images - MEAN) / STD, labels
    )
    arrays: dict[str, np.ndarray] = {}
    for place, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        arrays |= {f"w{place}": weight, f"b{place}": bias}
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "w1", "b1"], ["scores"]),
    ]
    reads = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
    gives = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])
    held = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "mlp", [reads], [gives], held), opset_imports=[helper.make_opsetid("", 13)]
    )
    made.ir_version = 8
    path = tmp_path_factory.mktemp("foreign") / "mlp.onnx"
    onnx.save(made, path)
    return path


def test_it_is_verified_as_it_is_and_checked(model: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "c.json"
    told = abscert("verify", model, *BALL, *READS, "--out", tmp_path / "out", "--certificate", certificate, "--json")
    assert "read as a classifier of others: pixels from 0 to 16, less [5.0], over [4.0]" in told.err
    facts = json.loads(told.out)
    assert facts["certified"] >= 5
    assert facts["arithmetic"] == "any-order"
    rows = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    images, _ = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    for row in (row for row in rows if row["verdict"] == "certified"):
        image = images[row["index"]] / 16
        moves = random.choice([-1.0, 1.0], (300, 64)) * random.choice([1.0, 1.0, 0.5], (300, 64))
        points = np.clip(image + float(RADIUS) * 0.999999 * moves, 0, 1)
        found = session.run(None, {"x": ((points * 16 - MEAN) / STD).astype(np.float32)})[0]
        assert (found.argmax(axis=1) == row["label"]).all()
    assert json.loads(abscert("check", certificate, model, "--all", "--json").out)["holds"]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["model"]["preprocessing"]["std"] == [STD]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axes_of_an_input_without_a_batch_are_the_files_own(tmp_path: Path, axis: int) -> None:
    """The scores are sums over rows or columns, so what a ball does to margins is known."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 3)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("Relu", ["s"], ["h"]),  # none is below 0
        helper.make_node("Reshape", ["h", "row"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["scores"]),
    ]
    values = {"axes": np.array([axis]), "row": np.array([1, -1]), "w": weight}
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "x.onnx")
    images, radius = random.uniform(0.2, 0.8, (60, 1, 8, 8)).astype(np.float32), 0.02
    scores = images[:, 0].sum(axis=axis % 2 + 1) @ weight
    labels = scores.argmax(axis=1)
    apart = [[abs(weight[:, label] - weight[:, other]).sum() for other in range(3)] for label in labels]
    least = scores.max(axis=1, keepdims=True) - scores - 8 * radius * np.array(apart)
    least = np.where(np.arange(3) == labels[:, None], np.inf, least).min(axis=1)
    verdicts = abscert_plugin.verify(tmp_path / "x.onnx", images, labels, radius=radius, timeout=5)
    assert 5 < (least > 1e-3).sum() < 55
    for one, margin in zip(verdicts, least, strict=True):
        assert abs(margin) < 1e-3 or one.verdict == ("certified" if margin > 0 else "falsified")


@pytest.mark.parametrize("tail", ["Softmax", "ArgMax"])
def test_what_stands_behind_the_scores_changes_no_verdict(model: Path, tmp_path: Path, tail: str) -> None:
    made = onnx.load(model)
    kind = TensorProto.FLOAT if tail == "Softmax" else TensorProto.INT64
    made.graph.node.append(helper.make_node(tail, ["scores"], ["answer"], axis=1))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("answer", kind, None))
    path = tmp_path / "tail.onnx"
    onnx.save(made, path)
    asked = ("--bound", "crown", "--json", *BALL, *READS)
    plain, behind = (
        abscert("verify", file, *asked, "--out", tmp_path / name).json for file, name in ((model, "a"), (path, "b"))
    )
    assert behind["certified"] == plain["certified"] > 5
    assert behind["arithmetic"] == "any-order"


@pytest.mark.parametrize("zips", [True, False])
def test_a_forest_of_scikit_learn_is_verified_and_checked(tmp_path: Path, zips: bool) -> None:
    images, labels = load_digits(return_X_y=True)
    forest = RandomForestClassifier(8, max_depth=7, random_state=0).fit(images, labels)
    path, certificate = tmp_path / "forest.onnx", tmp_path / "c.json"
    onnx.save(to_onnx(forest, images[:1].astype(np.float32), options={id(forest): {"zipmap": zips}}), path)
    asked = ("--input-range", "0,16", "--out", tmp_path / "out", "--certificate", certificate, "--json")
    assert 5 <= abscert("verify", path, *BALL, *asked).json["certified"] <= 12
    rows = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for row in (row for row in rows if row["verdict"] == "certified"):
        moves = random.choice([-1.0, 1.0], (300, 64)) * random.choice([1.0, 1.0, 0.5], (300, 64))
        points = np.clip(images[row["index"]] / 16 + float(RADIUS) * 0.999999 * moves, 0, 1)
        assert (session.run(None, {"X": (points * 16).astype(np.float32)})[0] == row["label"]).all()
    assert json.loads(abscert("check", certificate, path, "--all", "--json").out)["holds"]


def test_a_certificate_of_another_preprocessing_fails(model: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "c.json"
    abscert("verify", model, *BALL, *READS, "--out", tmp_path / "out", "--certificate", certificate, "--json")
    value = json.loads(certificate.read_text())
    value["model"]["preprocessing"]["std"] = [40.0]
    certificate.write_text(json.dumps(value))
    assert abscert("check", certificate, model, status=1).out.count("FAILED") > 1
    value["model"]["preprocessing"]["std"] = ["wide"]
    certificate.write_text(json.dumps(value))
    assert "expected an input range, mean and std of numbers" in refused("check", certificate, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-shape", "1,8"], "expected --image-shape as C,H,W"),
        (["--image-shape", "1,9,9"], "an image shape of 64 values"),
        (["--std", "0"], "expected every std above 0"),
        (["--mean", "nan"], "finite"),
        (["--layout", "chwn"], "expected --layout: one of nchw, nhwc, flat; got 'chwn'"),
        (["--constant", "t"], "expected --constant as NAME=NUMBER, got 't'"),
        (["--constant", "t=1"], "expected --constant of one of its inputs, got 't'"),
        (["--output", "label"], "expected the output that holds the logits, got 'label'"),
    ],
)
def test_bad_options_are_one_line(model: Path, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refused("verify", model, *BALL, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def run_at_large(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on balls so large that some images are falsified."""
    out = tmp_path_factory.mktemp("large") / "out"
    ball = ("--claim", "ball", "--radius", "0.2", "--limit", 8, "--timeout", 0.5)
    abscert("verify", model, "--data", "digits", *ball, *READS, "--out", out, "--json")
    return out


NUMBER = r"(-?\d+\.\d+)"
FORMS = {
    "vnnlib": (r"\(assert \((>=|<=) X_(\d+) " + NUMBER, r"\(and \(>= Y_(\d+) Y_(\d+)\)\)"),
    "vnnlib2": (r"\(assert \((>=|<=) X\[0,(\d+)\] " + NUMBER, r"\(>= Y\[0,(\d+)\] Y\[0,(\d+)\]\)"),
}


@pytest.mark.parametrize("version", FORMS)
def test_queries_ask_what_the_run_asked(model: Path, run_at_large: Path, tmp_path: Path, version: str) -> None:
    told = abscert(
        "queries", run_at_large, "--model", model, "--out", tmp_path / "q", "--all", "--timeout", 7, "--json"
    )
    assert json.loads(told.out)["queries"] == 8
    listed = (tmp_path / "q" / ("instances.csv" if version == "vnnlib" else "instances2.csv")).read_text().splitlines()
    assert [line.split(",")[::2] for line in listed] == [["onnx/mlp.onnx", "7"]] * 8
    session = onnxruntime.InferenceSession(
        str(tmp_path / "q" / "onnx" / "mlp.onnx"), providers=["CPUExecutionProvider"]
    )
    rows = [json.loads(line) for line in (run_at_large / "records.jsonl").read_text().splitlines()]
    falsified = [row for row in rows if row["verdict"] == "falsified" and row["counterexample"] != "itself"]
    assert falsified
    bound, unsafe = FORMS[version]
    for row in falsified:
        text = (tmp_path / "q" / version / f"{row['index']:08d}.vnnlib").read_text()
        ends = {(sign, int(place)): float(value) for sign, place, value in re.findall(bound, text)}
        assert len(ends) == 128
        assert {(int(a), int(b)) for a, b in re.findall(unsafe, text)} == {
            (other, row["label"]) for other in range(10) if other != row["label"]
        }
        image = np.load(run_at_large / row["counterexample"])
        read = ((image.astype(np.float64) * 16 - MEAN) / STD).astype(np.float32).reshape(1, 64)
        assert all(ends[">=", place] <= read[0, place] <= ends["<=", place] for place in range(64))
        scores = session.run(None, {"x": read})[0][0]
        assert np.delete(scores, row["label"]).max() >= scores[row["label"]]


def test_queries_that_cannot_be_written_are_one_line(model: Path, run_at_large: Path, tmp_path: Path) -> None:
    asked = ("queries", run_at_large, "--out", tmp_path / "q")
    assert "expected the run's own mlp.onnx in or above" in refused(*asked)
    assert "a time-out above 0" in refused(*asked, "--model", model, "--timeout", "-1")
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "mine").touch()
    assert "holds files already; choose another --out" in refused(*asked, "--model", model, "--all")
    other = tmp_path / "mlp.onnx"
    proto = onnx.load(model)
    proto.doc_string = "another one"
    onnx.save(proto, other)
    assert "expected the file that the run was about, got another one" in refused(*asked, "--model", other)


def test_queries_take_the_file_that_is_named_whatever_it_is_called(
    model: Path, run_at_large: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.onnx"
    renamed.write_bytes(model.read_bytes())
    told = abscert("queries", run_at_large, "--model", renamed, "--out", tmp_path / "q", "--all", "--json")
    assert told.json["queries"] == 8


def test_wrapping_tells_what_it_costs_in_accuracy(model: Path, tmp_path: Path) -> None:
    asked = ("wrap", model, *READS, "--data", "digits", "--json")
    coarse = abscert(*asked, "--out", tmp_path / "coarse", "--cells", 2).json
    exact = abscert(*asked, "--out", tmp_path / "exact", "--lossless").json
    assert coarse["accuracy"] == exact["accuracy"] > 0.8
    assert coarse["wrapped_accuracy"] < exact["wrapped_accuracy"]
    assert abs(exact["wrapped_accuracy"] - exact["accuracy"]) < 0.02  # digits have 16 levels, which lie in 256 cells
    assert "--lossless or a number of cells, got both" in refused(
        *asked, "--out", tmp_path / "o", "--lossless", "--cells", 2
    )


def test_cells_are_not_decided_without_cells(model: Path, tmp_path: Path) -> None:
    assert "without cells: verify it with --claim ball" in refused(
        "verify", model, "--data", "digits", "--claim", "cell", "--out", tmp_path / "o"
    )
