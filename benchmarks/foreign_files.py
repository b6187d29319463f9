"""How many files of other tools have a proof: makes some, and holds certified balls against onnxruntime.

usage: python benchmarks/foreign_files.py FOLDER [--more FOLDER] [--exporter script | dynamo | none]

Torch classifiers are written by both of torch's exporters, scikit-learn's by skl2onnx, some by hand in the style of
Keras, with channels last; `--more` adds every .onnx file of a folder. Each is opened as a user would open it; of a few
radii the largest is taken at which intervals certify an image, and onnxruntime alone has to give its label at 1,000
images of that ball. One line a file: "proof" and the radius, or why there is none.
"""

import argparse
import contextlib
import io
import itertools
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from foreign_nets import CLASSES, NETS, SHAPE
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.foreign import open_foreign
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.third_party import read_third_party
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.preprocessing import InputScale, Layout, Opening
from abscert_plugin.verification.deployed import Deployed

RADII: Final = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)
POINTS: Final = 1000
OPSETS: Final = {"script": (13, 17), "dynamo": (18, 20)}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--exporter", choices=[*OPSETS, "none"], action="append")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for path in files(options.folder, options.exporter or list(OPSETS), options.more):
        kind, text = verdict(path)
        counts[kind] += 1
        print(f"{kind:9} {path.stem:40} {text}", flush=True)
    print(dict(counts))


def files(folder: Path, exporters: list[str], more: Path | None) -> Iterator[Path]:
    for exporter in exporters:
        for place, (name, build) in enumerate(NETS.items() if exporter != "none" else ()):
            path = folder / f"{exporter} {name}.onnx"
            try:
                _export(build, path, exporter == "dynamo", OPSETS[exporter][place % 2])
            except Exception as error:  # noqa: BLE001 an exporter may raise anything
                print(f"not made  {path.stem}: {str(error).splitlines()[0][:100]}")
                continue
            yield path
    for name, model in {**_by_hand(), **_by_sklearn()}.items():
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        yield path
    yield from sorted(more.glob("*.onnx")) if more else ()


def _export(build: Callable[[], torch.nn.Module], path: Path, is_dynamo: bool, opset: int) -> None:
    torch.manual_seed(0)
    net, images = build().eval(), torch.rand(2, *SHAPE)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if is_dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                net, (images,), path, dynamo=True, dynamic_shapes=shapes, opset_version=opset, verbose=False
            )
        else:
            torch.onnx.export(
                net, (images,), path, dynamo=False, dynamic_axes={"x": [0]}, input_names=["x"], opset_version=opset
            )


# --- a file ----------------------------------------------------------------------------------------------------------


def verdict(path: Path) -> tuple[str, str]:
    """Return "proof", "none" or "WRONG", and what there is to say."""
    try:
        artifact, opening = _opened(path)
    except AbscertError as error:
        return "none", str(error)[:150]
    deployed, front = Deployed(artifact), artifact.front
    if deployed.prover is None:
        return "none", deployed.note.removeprefix("this file has no proof in float32: ")[:150]
    images = np.random.default_rng(0).random((1, *artifact.metadata.image_shape), dtype=np.float32)
    labels = artifact.run_images(images).argmax(axis=1)
    for radius in RADII:
        reach = front.reach(Ball(Radius.parse(str(radius))), images)
        if deployed.prover.least_margins(reach.lowest, reach.highest, labels, BoundMethod.IBP)[0] > 0:
            break
    else:
        return "proof", f"certifies none of {RADII}"
    random, run = np.random.default_rng(1), _runner(path, opening)
    for _ in range(POINTS):
        share = random.random(images.shape)
        share = share.round() if random.random() < 0.5 else share
        point = (reach.lowest + share * (reach.highest.astype(np.float64) - reach.lowest)).astype(np.float32)
        if run(np.clip(point, reach.lowest, reach.highest)) != labels[0]:
            return "WRONG", f"certified within {radius}, and mislabelled"
    return "proof", f"{radius:g}"


def _opened(path: Path) -> tuple[Artifact, Opening]:
    """Open a file as a user would, who knows how it takes images; scikit-learn's hold probabilities or scores."""
    fault: AbscertError | None = None
    for output, layout, is_flat in itertools.product((None, "probabilities"), (None, Layout.NHWC), (False, True)):
        try:
            port = read_third_party(path, output).input
            shape = (1, 1, math.prod(size or 1 for size in (port.shape or ())[1:])) if is_flat else None
            is_whole = port.element_type in (TensorProto.UINT8, TensorProto.INT64, TensorProto.INT32)
            scale = InputScale((0.0, 255.0)) if is_whole else InputScale()
            opening = Opening(shape, layout, scale, output)
            return open_foreign(path, Provider.CPU, opening), opening
        except ConfigError as error:
            fault = fault or error
    assert fault is not None
    raise fault


def _runner(path: Path, opening: Opening) -> Callable[[np.ndarray], int]:
    """Return the label that onnxruntime alone gives an image, by the file itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as `BlackBox` opens files
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source, third = session.get_inputs()[0], read_third_party(path, opening.output)
    kind = helper.tensor_dtype_to_np_dtype(third.input.element_type)
    sizes = [size if isinstance(size, int) else 1 for size in source.shape]

    def label(image: np.ndarray) -> int:
        given = image.transpose(0, 2, 3, 1) if opening.layout is Layout.NHWC else image
        given = np.rint(given * 255.0) if kind.kind in "iu" else given
        free = [size if isinstance(size, int) else -1 for size in source.shape[1:]]
        shape = sizes if math.prod(sizes) == image.size else [1, *(free if free.count(-1) < 2 else given.shape[1:])]
        answer = session.run([third.logits.name], {source.name: given.astype(kind).reshape(shape)})[0]
        # of a ZipMap, a dictionary for each image
        scores = np.array(list(answer[0].values())) if isinstance(answer, list) else answer.reshape(-1)
        return int(scores.argmax()) if scores.size > 1 else int(scores[0] > 0)

    return label


# --- by other tools --------------------------------------------------------------------------------------------------


def _by_sklearn() -> Mapping[str, onnx.ModelProto]:
    try:
        from skl2onnx import to_onnx
        from sklearn import ensemble
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
        from sklearn.svm import LinearSVC
        from sklearn.tree import DecisionTreeClassifier
    except ImportError:
        return {}
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 200)
    features = (random.random((200, 20)) + np.eye(CLASSES, 20)[labels]).astype(np.float32)
    raw, scores = {"zipmap": False, "raw_scores": True}, {"zipmap": False}
    mlp = MLPClassifier((12,), max_iter=40)
    models = {
        "sklearn logistic, scores": (LogisticRegression(), raw),
        "sklearn logistic": (LogisticRegression(), scores),
        "sklearn svc": (LinearSVC(), None),
        "sklearn mlp": (mlp, scores),
        "sklearn mlp, tanh": (MLPClassifier((12,), "tanh", max_iter=40), scores),
        "sklearn mlp, standardised": (make_pipeline(StandardScaler(), mlp), scores),
        "sklearn logistic, scores, scaled": (
            make_pipeline(StandardScaler(), MinMaxScaler(), LogisticRegression()),
            raw,
        ),
        "sklearn logistic, float64": (LogisticRegression(), raw),
        "sklearn logistic, normalised": (make_pipeline(Normalizer(), LogisticRegression()), scores),
        "sklearn tree": (DecisionTreeClassifier(random_state=0), scores),
        "sklearn forest": (ensemble.RandomForestClassifier(50, random_state=0), scores),
        "sklearn forest, float64": (ensemble.RandomForestClassifier(20, max_depth=6, random_state=0), scores),
        "sklearn forest, dictionaries": (ensemble.RandomForestClassifier(20, max_depth=6, random_state=0), None),
        "sklearn forest, two classes": (ensemble.RandomForestClassifier(20, max_depth=6, random_state=0), scores),
        "sklearn forest, scaled": (
            make_pipeline(StandardScaler(), ensemble.RandomForestClassifier(20, max_depth=6, random_state=0)),
            scores,
        ),
        "sklearn extra trees": (ensemble.ExtraTreesClassifier(20, max_depth=6, random_state=0), scores),
        "sklearn boosted": (ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0), scores),
        "sklearn boosted, two classes": (ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0), scores),
        "sklearn boosted regressor": (ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0), None),
    }
    found = {}
    for name, (model, options) in models.items():
        given = features.astype(np.float64) if "float64" in name else features
        model.fit(given, labels > 1 if "two" in name else labels - 1.5 if "regressor" in name else labels)
        last = model[-1] if hasattr(model, "steps") else model
        found[name] = to_onnx(model, given[:1], options={id(last): options} if options else None)
    return found


def _by_hand() -> Mapping[str, onnx.ModelProto]:
    """Return files in the styles of Keras and of quantisation tools."""
    random = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * (2 / max(1, np.prod(shape[1:]))) ** 0.5).astype(np.float32)

    def ints(*values: int) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    head = [
        ("Reshape", [ints(-1, 8 * 8 * 4)], {}),
        ("MatMul", [floats(256, CLASSES)], {}),
        ("Add", [floats(CLASSES)], {}),
    ]
    first = [
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Conv", [floats(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ]
    last = [("Transpose", [], {"perm": [0, 2, 3, 1]}), *head]
    relu, norm = ("Relu", [], {}), [("Mul", [floats(4, 1, 1)], {}), ("Add", [floats(4, 1, 1)], {})]
    scale, zero = np.float32(0.02), np.array(3, np.uint8)
    there, back = ("QuantizeLinear", [scale, zero], {}), ("DequantizeLinear", [scale, zero], {})
    eight = {"kernel_shape": [2, 2], "strides": [1, 1], "auto_pad": "SAME_UPPER"}
    chains: Mapping[str, tuple[int, Any]] = {
        "keras plain": (13, [*first, relu, *last]),
        "keras normalised": (15, [*first, *norm, relu, *last]),
        "keras pools": (13, [*first, relu, ("MaxPool", [], eight), ("AveragePool", [], eight), *last]),
        "keras padded": (
            13,
            [
                *first,
                relu,
                ("Pad", [ints(0, 0, 1, 1, 0, 0, 0, 0)], {}),
                ("MaxPool", [], {"kernel_shape": [2, 2]}),
                *last,
            ],
        ),
        "keras depthwise": (
            13,
            [*first, relu, ("Conv", [floats(4, 1, 3, 3)], {"group": 4, "auto_pad": "SAME_UPPER"}), relu, *last],
        ),
        "keras upsampled": (
            13,
            [
                *first,
                relu,
                ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
                (
                    "Resize",
                    ["", np.array([1, 1, 2, 2], np.float32)],
                    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
                ),
                *last,
            ],
        ),
        "keras global": (
            18,
            [*first, relu, ("ReduceMean", [ints(2, 3)], {"keepdims": 0}), ("MatMul", [floats(4, CLASSES)], {})],
        ),
        "keras transposed": (
            13,
            [
                *first,
                relu,
                ("ConvTranspose", [floats(4, 1, 2, 2)], {"strides": [2, 2]}),
                ("SpaceToDepth", [], {"blocksize": 2}),
                *last,
            ],
        ),
        "keras bytes": (
            13,
            [("Cast", [], {"to": TensorProto.FLOAT}), ("Mul", [np.float32(1 / 255)], {}), *first, relu, *last],
        ),
        "quantised activations": (13, [*first, relu, there, back, *last]),
        "quantised pools": (13, [*first, relu, there, ("MaxPool", [], eight), back, *last]),
        "quantised twice": (13, [there, back, *first, relu, there, back, *last]),
    }
    return {name: _chain(opset, steps, "bytes" in name) for name, (opset, steps) in chains.items()}


def _chain(opset: int, steps: Any, reads_bytes: bool) -> onnx.ModelProto:
    """Return a model of nodes in a row; arrays among their inputs are constants."""
    nodes, tensors, name = [], [], "x"
    for place, (operator, inputs, attributes) in enumerate(steps):
        reads = [name]
        for count, given in enumerate(inputs):
            reads.append(given if isinstance(given, str) else f"c{place}_{count}")
            if not isinstance(given, str):
                tensors.append(numpy_helper.from_array(np.asarray(given), reads[-1]))
        name = f"{operator}{place}"
        nodes.append(helper.make_node(operator, reads, [name], name, **attributes))
    channels, height, width = SHAPE
    source = helper.make_tensor_value_info(
        "x", TensorProto.UINT8 if reads_bytes else TensorProto.FLOAT, ["n", height, width, channels]
    )
    logits = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(nodes, "keras", [source], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


if __name__ == "__main__":
    main()
