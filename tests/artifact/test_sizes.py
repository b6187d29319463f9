"""Files that would kill onnxruntime, and this process with it, or fill the memory: each refused in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from command_line import abscert, refused
from onnx import TensorProto

RUN = """
import numpy, onnxruntime, sys
onnxruntime.InferenceSession(sys.argv[1]).run(None, {"x": numpy.zeros([1, 1, 8, 8], numpy.float32)})
"""
HIDDEN: list[Any] = [  # how far it slices depends on the image's values, so that nothing can infer it
    ("ReduceSum", ["x", "all"], ["sum"], {"keepdims": 0}),
    ("Mul", ["sum", "none"], ["nothing"], {}),
    ("Cast", ["nothing"], ["zero"], {"to": TensorProto.INT64}),
    ("Add", ["zero", "whole"], ["ends"], {}),
    ("Slice", ["x", "starts", "ends", "axes"], ["seen"], {}),
]


def pooling(
    kernel: int, operator: str = "AveragePool", before: tuple[Any, ...] = (), source: str = "x"
) -> onnx.ModelProto:
    """Return Conv - pooling - mean over what is left - Gemm for images of 8 x 8; the pool has 16 channels."""
    random = np.random.default_rng(0)
    return graphs.make(
        [
            *before,
            ("Conv", [source, "kernel"], ["c"], {}),
            (operator, ["c"], ["p"], {"kernel_shape": [kernel, kernel]}),
            ("GlobalAveragePool", ["p"], ["g"], {}),
            ("Flatten", ["g"], ["f"], {"axis": 1}),
            ("Gemm", ["f", "w"], ["y"], {}),
        ],
        [graphs.value("x", ["n", 1, 8, 8])],
        [graphs.value("y", ["n", 10])],
        [
            graphs.constant("kernel", random.standard_normal((16, 1, 1, 1)).astype(np.float32)),
            graphs.constant("w", random.standard_normal((16, 10)).astype(np.float32)),
            graphs.constant("all", np.arange(4)),
            graphs.constant("none", np.float32(0)),
            graphs.constant("starts", np.array([0, 0])),
            graphs.constant("whole", np.array([8, 8])),
            graphs.constant("axes", np.array([2, 3])),
        ],
    )


def kills(path: Path) -> bool:
    """Run a file by onnxruntime alone, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True, check=False)
    return done.returncode < 0


@pytest.mark.parametrize("operator", ["AveragePool", "MaxPool"])
def test_a_pooling_with_nothing_left_is_refused_before_it_kills_the_process(tmp_path: Path, operator: str) -> None:
    path = graphs.save(pooling(9, operator), tmp_path)
    assert kills(path), "then this version of onnxruntime needs no guard here"
    assert "its window is larger than its input" in refused("wrap", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_that_shape_inference_does_not_see_is_found_by_a_child_process(tmp_path: Path) -> None:
    path = graphs.save(pooling(9, before=tuple(HIDDEN), source="seen"), tmp_path)
    assert kills(path), "then this version of onnxruntime needs no guard here"
    assert "onnxruntime dies with SIGFPE on" in refused("wrap", path, "--out", tmp_path / "out")
    good = graphs.save(pooling(8, before=tuple(HIDDEN), source="seen"), tmp_path, "good.onnx")
    abscert("wrap", good, "--out", tmp_path / "good")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_file_with_metadata_of_ours_is_refused_too(tmp_path: Path, hidden: bool) -> None:
    before, source = (tuple(HIDDEN), "seen") if hidden else ((), "x")
    abscert("wrap", graphs.save(pooling(8, before=before, source=source), tmp_path), "--out", tmp_path / "out")
    deploy = tmp_path / "out" / "deploy.onnx"
    abscert("verify", deploy, "--limit", 2, "--json")
    model = onnx.load_model(str(deploy))
    (pool,) = [node for node in model.graph.node if node.op_type == "AveragePool"]
    pool.attribute[0].ints[:] = [9, 9]
    deploy.write_bytes(model.SerializeToString())
    told = refused("verify", deploy, "--limit", 2, "--out", tmp_path / "again")
    assert ("onnxruntime dies with SIGFPE on" if hidden else "its window is larger than its input") in told


@pytest.mark.parametrize("hidden", [False, True])
def test_what_blows_up_when_it_is_loaded_or_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    count = 2**33
    many = [*HIDDEN[:3], ("Add", ["zero", "count"], ["many"], {})] if hidden else []
    blow: list[Any] = [*many, ("ConstantOfShape", ["many" if hidden else "count"], ["ones"], {})]
    blow += [("ReduceSum", ["ones", "first"], ["one"], {}), ("Add", ["x", "one"], ["seen"], {})]
    model = pooling(8, before=tuple(blow), source="seen")
    model.graph.initializer.extend(
        [graphs.constant("count", np.array([count])), graphs.constant("first", np.array([0]))]
    )
    path = graphs.save(model, tmp_path)
    monkeypatch.setenv("ABSCERT_MAX_BYTES", str(2**32))
    told = refused("wrap", path, "--out", tmp_path / "out")
    assert ("onnxruntime needs more than 4,294,967,296 bytes" if hidden else "computes tensors of 34,3") in told
    assert "set $ABSCERT_MAX_BYTES to more bytes" in told


@pytest.mark.parametrize(
    ("held", "entries", "words"),
    [
        (2**35, {}, "keeps 34,359,738,368 bytes in other files; if it is to be trusted, set $ABSCERT_MAX_BYTES"),
        (640, {"length": "641"}, "'w' lies at 641 bytes from 0 on of 'data', which holds 640"),
        (640, {"offset": "1", "length": "640"}, "'w' lies at 640 bytes from 1 on"),
        (640, {"offset": "641"}, "'w' lies at all bytes from 641 on"),
        (640, {"offset": "-8"}, "'w' lies at all bytes from -8 on"),
        (640, {"length": "much"}, "'w' lies at much bytes from 0 on"),
    ],
)
def test_tensors_in_other_files_are_bounded_before_they_are_read(
    tmp_path: Path, held: int, entries: dict[str, str], words: str
) -> None:
    model = pooling(8)
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "w"]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, text in {"location": "data", **entries}.items():
        weights.external_data.add(key=key, value=text)
    with (tmp_path / "data").open("wb") as file:
        file.truncate(held)  # a sparse file: it takes no room
    path = graphs.save(model, tmp_path)
    for command in ("wrap", "verify"):
        assert words in refused(command, path, "--out", tmp_path / "out")


def test_tensors_that_lie_in_one_place_again_and_again_are_counted_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pooling(8)
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "w"]
    (tmp_path / "data").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="data")
    for number in range(9):
        model.graph.initializer.add().CopyFrom(weights)
        model.graph.initializer[-1].name = f"w{number}"
    path = graphs.save(model, tmp_path)
    monkeypatch.setenv("ABSCERT_MAX_BYTES", "6399")
    assert "keeps 6,400 bytes in other files" in refused("wrap", path, "--out", tmp_path / "out")


def test_a_file_that_protobuf_could_not_hold_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "holds 2,147,483,648 bytes or more" in refused("verify", path)
