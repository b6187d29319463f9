"""What a caller may give a guard, and what comes back: images of one size, no constants, answers by their names."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import abscert_plugin as abscert
from abscert_plugin.errors import UnsupportedModelError

SHAPE = (1, 4, 4)


def file_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], sizes: list[str | int], path: Path, output: str
) -> onnx.ModelProto:
    """Write a file of two classes that reads `image`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *sizes])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return model


def averaging(sizes: list[str | int], path: Path, output: str = "logits") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["seen"], ["average"]),
        helper.make_node("Flatten", ["average"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], [output]),
    ]
    constants = {
        "kernel": np.ones((1, 1, 3, 3), np.float32),
        "weights": np.array([[1, -1]], np.float32),
        "bias": np.array([-2, 2], np.float32),
    }
    return file_of(nodes, constants, sizes, path, output)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_images_of_another_size_are_refused_by_the_guard_itself(tmp_path: Path) -> None:
    """Constants of the ball would be repeated over smaller images, whose bounds would be those of larger ones."""
    averaging([1, "height", "width"], tmp_path / "net.onnx")
    guard = abscert.guard(tmp_path / "net.onnx", tmp_path / "guard.onnx", 0.01, image_shape=SHAPE)
    (port,) = session(guard.path).get_inputs()
    assert port.shape == ["batch", *SHAPE]
    for height, width in ((1, 4), (4, 1), (1, 1), (8, 8)):
        image = np.full((1, 1, height, width), 0.8, np.float32)
        with pytest.raises(Exception, match="Got invalid dimensions"):
            session(guard.path).run(None, {"image": image})


def test_constants_are_no_inputs_of_a_guard(tmp_path: Path) -> None:
    """An old exporter lists them among the inputs, where a caller may set them: the file would be another one."""
    nodes = [
        helper.make_node("Mul", ["image", "gain"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
    ]
    constants = {
        "gain": np.array([1], np.float32),
        "weights": np.array([[1, -1]] * 16, np.float32),
        "bias": np.array([-4, 4], np.float32),
    }
    model = file_of(nodes, constants, [*SHAPE], tmp_path / "net.onnx", "logits")
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "net.onnx")
    guard = abscert.guard(tmp_path / "net.onnx", tmp_path / "guard.onnx", 0.05)
    opened = session(guard.path)
    assert [port.name for port in opened.get_inputs()] == ["image"]
    assert not opened.get_overridable_initializers()
    with pytest.raises(Exception, match="Invalid input name: gain"):
        opened.run(None, {"image": np.full((1, *SHAPE), 0.06, np.float32), "gain": np.array([10], np.float32)})


@pytest.mark.parametrize("output", ["logits", "scores"])
def test_logits_are_called_so_whatever_the_file_calls_them(output: str, tmp_path: Path) -> None:
    averaging([*SHAPE], tmp_path / "net.onnx", output)
    guard = abscert.guard(tmp_path / "net.onnx", tmp_path / "guard.onnx", 0.01)
    assert [value.name for value in session(guard.path).get_outputs()] == ["logits", "label", "certified", "margin"]
    images = np.random.default_rng(0).random((5, *SHAPE), dtype=np.float32)
    (logits,) = session(guard.path).run(["logits"], {"image": images})
    assert np.array_equal(logits, session(tmp_path / "net.onnx").run(None, {"image": images})[0])
    assert np.array_equal(guard(images).logits, logits)


def test_a_tensor_that_is_called_logits_and_is_none_keeps_its_name(tmp_path: Path) -> None:
    model = averaging([*SHAPE], tmp_path / "net.onnx", "scores")
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "logits"
    onnx.save(model, tmp_path / "net.onnx")
    guard = abscert.guard(tmp_path / "net.onnx", tmp_path / "guard.onnx", 0.01)
    images = np.random.default_rng(0).random((5, *SHAPE), dtype=np.float32)
    assert np.array_equal(guard(images).logits, session(tmp_path / "net.onnx").run(None, {"image": images})[0])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_bias_that_runtimes_add_otherwise_is_refused(groups: int, tmp_path: Path) -> None:
    """Onnx's own reference adds the first group's bias to every group of a ConvTranspose."""
    nodes = [
        helper.make_node("ConvTranspose", ["image", "kernel", "bias"], ["seen"], group=groups),
        helper.make_node("GlobalAveragePool", ["seen"], ["average"]),
        helper.make_node("Flatten", ["average"], ["logits"]),
    ]
    kernel = np.ones((2, 2 // groups, 1, 1), np.float32)
    file_of(nodes, {"kernel": kernel, "bias": np.array([0, 3], np.float32)}, [2, 2, 2], tmp_path / "net.onnx", "logits")
    if groups == 1:
        abscert.guard(tmp_path / "net.onnx", tmp_path / "guard.onnx", 0.1)
        return
    with pytest.raises(UnsupportedModelError, match="expected no bias of a ConvTranspose in groups"):
        abscert.guard(tmp_path / "net.onnx", tmp_path / "guard.onnx", 0.1)
