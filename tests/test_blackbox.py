"""The door to onnxruntime: batches, providers, and files that cannot be run."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny_networks import SHAPE, export_tiny, run_onnx, tiny_network

from abscert_plugin import blackbox
from abscert_plugin.artifact.export import export
from abscert_plugin.blackbox import BlackBox, Provider, shapes_by_running
from abscert_plugin.cores import thread_count
from abscert_plugin.errors import ConfigError, UnsupportedModelError, VerifierError
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig

needs_cuda = pytest.mark.skipif(not blackbox._has_cuda(), reason="no CUDA device, or onnxruntime was built without it")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tiny_network(0), 5, tmp_path_factory.mktemp("tiny")).deploy


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "_has_cuda", lambda: False)


def random_images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def with_batch(path: Path, size: int) -> Path:
    """Write a copy of a file whose batch is fixed, and return its path."""
    model = onnx.load_model(str(path))
    for port in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        port.type.tensor_type.shape.dim[0].dim_value = size
    fixed = path.with_name(f"batch-{size}.onnx")
    onnx.save_model(model, str(fixed))
    return fixed


def save_graph(folder: Path, nodes: list[onnx.NodeProto], inputs: dict[str, int], output: list[str | int]) -> Path:
    """Write a file of these nodes from inputs of 4 values each, given with their types, to `y`."""
    ports = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name, kind in inputs.items()]
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", ports, [logits]), opset_imports=opsets, ir_version=8)
    onnx.save_model(model, str(folder / "graph.onnx"))
    return folder / "graph.onnx"


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(1, 12))
def test_a_fixed_batch_gives_what_a_free_one_gives(deploy: Path, size: int, count: int) -> None:
    images = random_images(count, seed=count)
    box = BlackBox(with_batch(deploy, size), Provider.CPU)
    assert box.input_shape == (size, *SHAPE)
    logits = box.run(images)
    assert logits.shape == (count, 3)
    assert np.allclose(logits, run_onnx(deploy, images)[0], rtol=1e-5, atol=1e-6)  # float32 sums in another order
    for image, row in zip(images, logits, strict=True):  # each row is its own image's, not the padding's
        assert np.allclose(BlackBox(deploy, Provider.CPU).run(image[None])[0], row, rtol=1e-5, atol=1e-6)


def test_no_images_are_no_logits(deploy: Path) -> None:
    assert BlackBox(deploy, Provider.CPU).run(random_images(0)).shape == (0, 3)


@pytest.mark.parametrize("name", ["dm-small", "fc-3"])
def test_logits_do_not_depend_on_the_batch(tmp_path: Path, name: str) -> None:
    """To the bit: on the CPU each logit is summed in one order, whatever the batch."""
    config = NetworkConfig(name, Activation.RELU, (1, 12, 12), 10)
    images = random_images(64, shape=(1, 12, 12))
    box = BlackBox(export(config.build(0), config, Grid(5), "none", images[:2], tmp_path).deploy, Provider.CPU)
    whole = box.run(images)
    for size in (1, 7, 64):
        pieces = np.concatenate([box.run(images[start : start + size]) for start in range(0, 64, size)])
        assert pieces.tobytes() == whole.tobytes()


def test_the_same_input_gives_the_same_bits(deploy: Path) -> None:
    images = random_images(16)
    first = BlackBox(deploy, Provider.CPU)
    assert first.run(images).tobytes() == first.run(images).tobytes()
    assert first.run(images).tobytes() == BlackBox(deploy, Provider.CPU).run(images).tobytes()
    assert first.run(images).tobytes() == BlackBox(deploy.read_bytes(), Provider.CPU).run(images).tobytes()


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
def test_a_provider_that_is_not_there_is_refused(deploy: Path, provider: Provider) -> None:
    with pytest.raises(VerifierError, match=rf"{provider} was asked for.*use --provider cpu"):
        BlackBox(deploy, provider)


def test_a_provider_that_does_not_start_is_refused(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without CUDA's libraries: onnxruntime would go on with the CPU and say nothing."""
    if blackbox._has_cuda() or "CUDAExecutionProvider" not in blackbox.runtime().get_available_providers():
        pytest.skip("CUDA starts here, or onnxruntime was built without it")
    monkeypatch.setattr(blackbox, "_has_cuda", lambda: True)
    with pytest.raises(VerifierError, match=r"could start only CPUExecutionProvider.*--provider cpu"):
        BlackBox(deploy, Provider.CUDA)


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_cpu_where_there_is_no_cuda(deploy: Path) -> None:
    box = BlackBox(deploy)
    assert box.provider == "CPUExecutionProvider"
    assert box.settings["provider"] == "CPUExecutionProvider"
    assert box.settings["threads"] == thread_count() >= 1


@pytest.mark.gpu
@needs_cuda
def test_bound_outputs_on_cuda_equal_those_of_the_cpu(deploy: Path) -> None:
    images = random_images(33)
    box = BlackBox(deploy, Provider.CUDA)
    assert box.provider == "CUDAExecutionProvider"
    # TF32 keeps 10 bits of the mantissa
    assert np.allclose(box.run(images), BlackBox(deploy, Provider.CPU).run(images), rtol=1e-2, atol=1e-2)
    assert box.run(images[:, :, ::-1, :]).shape == (33, 3)  # an array that is not contiguous


@pytest.mark.parametrize(("operator", "domain"), [("Foo", "com.example"), ("NoSuchOperator", "")])
def test_an_unknown_operator_is_named(tmp_path: Path, operator: str, domain: str) -> None:
    path = save_graph(
        tmp_path, [helper.make_node(operator, ["x"], ["y"], domain=domain)], {"x": TensorProto.FLOAT}, ["batch", 4]
    )
    with pytest.raises(UnsupportedModelError, match=rf"cannot load .*graph\.onnx: .*{operator}") as caught:
        BlackBox(path, Provider.CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"cannot load .*model\.onnx"):
        BlackBox(tmp_path / "model.onnx", Provider.CPU)
    with pytest.raises(UnsupportedModelError, match="cannot load the model"):
        BlackBox(content, Provider.CPU)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"cannot load .*none\.onnx"):
        BlackBox(tmp_path / "none.onnx", Provider.CPU)


@pytest.mark.parametrize(
    "inputs",
    [{"a": TensorProto.FLOAT, "b": TensorProto.FLOAT}, {"a": TensorProto.DOUBLE}],
)
def test_other_inputs_than_one_of_float32_are_refused(tmp_path: Path, inputs: dict[str, int]) -> None:
    names = list(inputs)
    nodes = [
        helper.make_node("Add" if len(names) == 2 else "Identity", names, ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    path = save_graph(tmp_path, nodes, inputs, ["batch", 4])
    with pytest.raises(UnsupportedModelError, match="expected one float32 input"):
        BlackBox(path, Provider.CPU)


@pytest.mark.parametrize(
    ("node", "output", "fault"),
    [
        (helper.make_node("Shape", ["x"], ["shape"]), [2], "float32 logits"),
        (helper.make_node("ReduceMean", ["x"], ["shape"], axes=[0], keepdims=1), [1, 4], "3 rows of logits, got 1"),
        (helper.make_node("Unsqueeze", ["x", "axes"], ["shape"]), ["batch", 1, 4], "float32 logits"),
    ],
)
def test_an_output_that_is_no_row_per_input_is_refused(
    tmp_path: Path, node: onnx.NodeProto, output: list[str | int], fault: str
) -> None:
    axes = helper.make_node("Constant", [], ["axes"], value_ints=[1])
    cast = helper.make_node("Cast", ["shape"], ["y"], to=TensorProto.FLOAT)
    path = save_graph(tmp_path, [axes, node, cast], {"x": TensorProto.FLOAT}, output)
    with pytest.raises(VerifierError, match=fault):
        BlackBox(path, Provider.CPU).run(np.ones((3, 4), dtype=np.float32))


def test_an_input_of_another_shape_is_an_error_of_ours(deploy: Path) -> None:
    with pytest.raises(VerifierError, match="onnxruntime failed: ") as caught:
        BlackBox(deploy, Provider.CPU).run(random_images(2, shape=(1, 3, 3)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "onnxruntime is not installed; `pip install 'abscert-plugin[cpu]'`, or `[gpu]` where there is CUDA"),
        (
            types.ModuleType("onnxruntime"),  # what is left where one of the two was removed
            "onnxruntime is incomplete; `pip uninstall onnxruntime onnxruntime-gpu`, then `pip install",
        ),
    ],
)
def test_a_runtime_that_is_missing_or_broken_is_one_line(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(blackbox, "runtime", blackbox.runtime.__wrapped__)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        BlackBox(b"", Provider.CPU)


def test_two_runtimes_over_each_other_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blackbox, "version", lambda name: "1.0")
    blackbox.runtime.__wrapped__()
    (record,) = caplog.records
    assert record.getMessage().startswith("note: onnxruntime and onnxruntime-gpu are both installed and overwrite")


def test_types_that_numpy_has_not_are_told_in_one_line() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["narrow"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(VerifierError, match=r"onnxruntime failed: .*bfloat16"):
        shapes_by_running(read_graph(model, Path("net.onnx")), model, (1, 2))
