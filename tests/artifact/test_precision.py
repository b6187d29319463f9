"""A deployed file in float16 or int8: its front, its metadata, what may be certified of it, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import abscert, refused
from onnx import TensorProto, numpy_helper
from torch import nn

from abscert_plugin.artifact.export import export
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.phi import phi_graph
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.claim import Arithmetic, Verdict
from abscert_plugin.data import Split, load_data
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.records import read_records
from abscert_plugin.verification.proving import Prover

PRECISIONS = ("float16", "int8")
GRID = Grid(4)
ON = ("--data", "digits")
CLAIMS = (("cell",), ("ball", "--radius", "1/99", "--bound", "crown-ibp"))


def fitted(activation: nn.Module) -> nn.Module:
    """Return a network of random features of digits, whose last layer is fitted by least squares."""
    data = load_data("digits", Split.TRAIN)
    batch, chance = data.take(np.arange(len(data))), torch.Generator().manual_seed(0)
    points = torch.from_numpy(GRID.interval_image(data.pixels(batch.images))).flatten(1)
    wanted = nn.functional.one_hot(torch.from_numpy(batch.labels), 10).float()
    first, last = nn.Linear(128, 48), nn.Linear(48, 10)
    with torch.no_grad():
        first.weight.normal_(0, 0.1, generator=chance)
        first.bias.zero_()
        features = activation(first(points))
        features = torch.cat([features, torch.ones(len(features), 1)], 1)
        found = torch.linalg.solve(features.T @ features + 30 * torch.eye(49), features.T @ (6 * wanted))
        last.weight.copy_(found[:48].T)
        last.bias.copy_(found[48])
    return nn.Sequential(nn.Flatten(), first, activation, last)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    config = NetworkConfig("fc-3", Activation.RELU, (1, 8, 8), 10)
    export(fitted(nn.ReLU()), config, GRID, "data=digits", np.zeros((1, 1, 8, 8), np.float32), folder)
    for precision in PRECISIONS:
        abscert("export", folder, "--precision", precision, "--json")
    return folder


def images() -> np.ndarray:
    data = load_data("digits", Split.TEST).first(60)
    return data.pixels(data.take(np.arange(len(data))).images)


def opened(run: Path, precision: str) -> Artifact:
    return Artifact.open(run / f"deploy-{precision}.onnx", Provider.CPU)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_in_fewer_bits_keeps_its_front_and_says_what_it_was_made_of(run: Path, precision: str) -> None:
    source, made = Artifact.open(run / "deploy.onnx", Provider.CPU), opened(run, precision)
    assert made.metadata.front == source.metadata.front
    assert made.metadata.network == f"{source.metadata.network} in {precision}"
    told = {entry.key: entry.value for entry in made.model.metadata_props}
    assert (told["abscert.precision"], told["abscert.source_sha256"]) == (precision, source.sha256)
    front = {node.SerializeToString() for node in phi_graph(made.cells).nodes}
    assert front <= {node.SerializeToString() for node in made.model.graph.node}
    assert made.path.stat().st_size < source.path.stat().st_size
    assert "one_by_one" not in made.classifier.settings
    assert np.abs(made.run_images(images()) - source.run_images(images())).max() < 1


def test_a_node_may_have_the_name_of_the_logits(run: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(run / "deploy.onnx"))
    next(node for node in model.graph.node if "logits" in node.output).name = "logits"
    onnx.save_model(model, str(tmp_path / "deploy.onnx"))
    abscert("export", tmp_path / "deploy.onnx", "--precision", "float16", "--json")
    assert (tmp_path / "deploy-float16.onnx").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_held_in_fewer_bits(run: Path, precision: str) -> None:
    kind = {"float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}[precision]
    weights = [one for one in opened(run, precision).model.graph.initializer if len(one.dims) == 2]
    assert [one.data_type for one in weights] == [kind] * len(weights) != []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("claim", CLAIMS, ids=["cell", "ball"])
def test_certificates_of_a_file_in_fewer_bits_are_checked(
    run: Path, precision: str, claim: tuple[object, ...], tmp_path: Path
) -> None:
    file, arithmetic = run / f"deploy-{precision}.onnx", "wide-sums" if precision == "float16" else "any-order"
    given = ("--claim", *claim, "--limit", 8, *ON, "--out", tmp_path / "v", "--certificate", tmp_path / "c.json")
    told = abscert("verify", file, *given)
    assert ("held in float32" in told.err) is (precision == "float16")
    rows = read_records(tmp_path / "v" / "records.jsonl")
    certified = [row for row in rows if row.verdict == Verdict.CERTIFIED]
    assert {row.arithmetic for row in certified} == {arithmetic}
    assert abscert("check", tmp_path / "c.json", file, "--json").json["holds"]


def test_sums_of_float16_are_certified_of_neither_arithmetic_as_the_other(run: Path, tmp_path: Path) -> None:
    told = abscert(
        "verify", run / "deploy-float16.onnx", "--arithmetic", "any-order", "--limit", 9, "--out", tmp_path, "--json"
    ).json
    assert told["arithmetic"] == "any-order"
    assert Prover(opened(run, "float16"), Arithmetic.WIDE_SUMS).arithmetic is Arithmetic.WIDE_SUMS
    assert Prover(Artifact.open(run / "deploy.onnx", Provider.CPU)).arithmetic is Arithmetic.ANY_ORDER


# --- what runtimes make of them ---------------------------------------------------------------------------------------


def sessions(path: Path) -> Iterator[onnxruntime.InferenceSession]:
    """Yield sessions with and without optimisations, and with integer kernels in place of QuantizeLinear or not."""
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
        for disabled in ("0", "1"):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
            options.add_session_config_entry("session.disable_quant_qdq", disabled)
            yield onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_onnxruntime_computes_lies_within_the_enclosures(run: Path, precision: str) -> None:
    made, given = opened(run, precision), images()
    proof = Proof(
        read_graph(made.model, made.path), made.held, made.front.input_shape(given.shape[1:]), 10, wide_sums=True
    )
    points = torch.from_numpy(made.cells.interval_image(given))
    lower, upper = (end.numpy() for end in proof.intervals(points, points)["logits"].computed())
    assert (upper - lower).max() < 3
    for session in sessions(made.path):
        (logits,) = session.run(["logits"], {"image": given})
        assert ((lower <= logits) & (logits <= upper)).all()


def test_integer_kernels_are_among_what_onnxruntime_computes(run: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(run / "deploy-int8.onnx"), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load_model(str(tmp_path / "fused.onnx")).graph.node}
    assert operators & {"QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}


# --- refusals ---------------------------------------------------------------------------------------------------------


def edited(run: Path, target: Path, value: float = 1.0, operator: str = "Relu") -> Path:
    """Write deploy.onnx with a weight, and an operator in place of its first Relu."""
    model = onnx.load_model(str(run / "deploy.onnx"))
    weight = next(one for one in model.graph.initializer if len(one.dims) == 2)
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = value
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = operator
    onnx.save_model(model, str(target))
    return target


def test_bad_input_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    assert "float16" in refused("export", run, "--precision", "int4")
    for precision in PRECISIONS:
        line = refused("export", run / f"deploy-{precision}.onnx", "--precision", "float16", "--out", tmp_path)
        assert "expected a file of float32" in line
    assert "Elu cannot be written in float16" in refused(
        "export", edited(run, tmp_path / "a.onnx", operator="Elu"), "--precision", "float16"
    )
    assert "expected weights up to 65504" in refused(
        "export", edited(run, tmp_path / "b.onnx", 1e5), "--precision", "float16"
    )
    assert "is not there" in refused("export", tmp_path / "none.onnx", "--precision", "float16")
    assert "--data" in refused("export", run, "--precision", "float16", "--data", "digits")
    assert "--precision int8" in refused("export", run, "--data", "digits")
    assert "mnist" in refused("export", run, "--precision", "int8", "--data", "mnist", "--data-dir", tmp_path)
    assert list(tmp_path.glob("*float16*")) == []
