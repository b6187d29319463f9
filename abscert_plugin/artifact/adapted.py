"""A classifier of others in one form: float32 inputs with a batch in, float32 logits [batch, classes] out.

Its own nodes stay as they are. Around them come casts, the axis of a batch, and what makes logits of its answer.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.answer_meaning import THRESHOLD, is_probability, need_own_labels, need_score
from abscert_plugin.artifact.fitting import fit_preprocessing, has_batch
from abscert_plugin.artifact.third_party import Port, ThirdParty
from abscert_plugin.artifact.trial import try_in_child
from abscert_plugin.artifact.write import save_model
from abscert_plugin.blackbox import BlackBox, Provider, Runner
from abscert_plugin.errors import ConfigError, ExportError, UnsupportedModelError, VerifierError
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.graph.shapes import check_sizes
from abscert_plugin.preprocessing import Opening, Preprocessing

_PREFIX: Final = "abscert/"
_LOGITS: Final = _PREFIX + "logits"
_Made: TypeAlias = tuple[str, list[str], dict[str, Any]]  # operator, what it reads beside the value, attributes
_TRIALS: Final = 8  # runs that show what an answer means


@final
@dataclass(frozen=True, slots=True)
class Adapted:
    """A classifier in that form.

    Args:
        model: the graph; its one input is float32 [batch, *input_shape], its one output float32 [batch, classes].
        held: name of the tensor that the classifier itself reads, [batch, *input_shape] in its own type.
        classes: how many logits it gives.
        preprocessing: the way from images to its input.
        obstacle: what keeps it from being shown that images of a batch do not meet; None where it is shown.
        path: the file.
    """

    model: onnx.ModelProto
    held: str
    classes: int
    preprocessing: Preprocessing
    obstacle: str | None
    path: Path


def adapt(source: ThirdParty, opening: Opening, labels: int | None) -> Adapted:
    """Return a classifier with its input and its answer brought into one form, after it was run once.

    An output of one value is the score of the second of two classes: its logits are 0 and the value, or the value less
    1/2 where a Sigmoid gives it. An output of labels gives logits of 0 and 1.

    Args:
        source: the classifier.
        opening: how it reads images.
        labels: how many classes there are, for an output of labels; None where nobody knows.

    Raises:
        UnsupportedModelError: if it does not run, its input cannot be images, or its answer is none of a classifier.
        ConfigError: if an option is missing or does not fit, or it gives labels, and nobody knows how many there are.
        ExportError: if it cannot be written into a folder for temporary files.
    """
    path = source.file.path
    try:
        preprocessing = fit_preprocessing(source.input, opening.image_shape, opening.layout, opening.scale)
    except (ConfigError, UnsupportedModelError) as error:
        raise type(error)(f"{path}: {error}") from error
    input_shape, is_batched = preprocessing.input_shape, has_batch(source.input, preprocessing.image_shape)
    model = onnx.ModelProto()
    model.CopyFrom(source.file.model)
    fixed, held = source.input.fixed_batch if is_batched else 1, source.input.name
    if not is_batched or source.input.element_type != TensorProto.FLOAT:
        held = _read_floats(model.graph, source.input, input_shape, is_batched, fixed)
    check_sizes(read_graph(model, path), model, path, input_shape)
    shape = (fixed or 1, *input_shape)
    model.graph.output.extend(source.labels)  # until its one output takes the place of all
    with saved(model, path) as copy:
        try_in_child(copy, shape, path)
        runner = Runner(copy, 1)
        try:
            runs = [runner.run(np.zeros(shape, dtype=np.float32))]
            answer = runs[0][source.logits.name]
            is_score, has_labels = answer.dtype.kind == "f" and answer.size == shape[0], bool(source.labels)
            if is_score or (has_labels and opening.output is None):
                runs += map(runner.run, _some(preprocessing, shape[0]))
        except VerifierError as error:
            raise UnsupportedModelError(str(error)) from error
    if fixed is not None and fixed > 1 and answer.shape[:1] != shape[:1]:
        raise UnsupportedModelError(f"{path}: expected an answer for each image of a batch, got {answer.shape}")
    threshold = THRESHOLD if is_score and is_probability(source.file.model.graph, source.logits.name) else 0.0
    nodes, constants, classes = _logits(source, answer, shape[0], threshold, labels, path)
    if is_score and not threshold:
        need_score(source.logits.name, [run[source.logits.name] for run in runs], path)
    if opening.output is None and (is_score or answer.size > shape[0]):
        need_own_labels(source.logits.name, runs, threshold, path)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    is_alone = answer.shape[:1] != shape[:1] or answer.ndim < 2
    if is_alone and fixed is None and answer.size > 1:
        raise UnsupportedModelError(f"{path}: expected an answer for each image of a batch, got {answer.shape}")
    size = fixed or source.input.batch_symbol or "batch"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(_LOGITS, TensorProto.FLOAT, [size, classes]))
    obstacle = batch_obstacle(read_graph(model, path), model)
    return Adapted(model, held, classes, preprocessing, obstacle, path)


def gives_scores(model: onnx.ModelProto) -> bool:
    """Return whether the logits of an adapted model are the classifier's own scores of its classes."""
    return not {_PREFIX + "two_classes", _PREFIX + "labels"} & {tensor.name for tensor in model.graph.initializer}


@contextmanager
def saved(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Write a model where it can be loaded from, while the context lasts.

    Args:
        model: the model.
        path: its own file, which errors of the context speak of.

    Raises:
        ExportError: if there is no room for it.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            copy = save_model(model, Path(scratch) / path.name.removesuffix(".gz"))
        except OSError as error:
            raise ExportError(f"cannot write into {scratch}: {error.strerror}; free space there") from error
        try:
            yield copy
        except UnsupportedModelError as error:
            raise UnsupportedModelError(str(error).replace(str(copy), str(path))) from error


def opened(adapted: Adapted, provider: Provider, one_by_one: bool) -> BlackBox:
    """Return a classifier in that form as onnxruntime runs it.

    Raises:
        UnsupportedModelError: if onnxruntime cannot load it.
        VerifierError: if the provider was asked for and is not there.
        ExportError: if there is no room for a copy.
    """
    with saved(adapted.model, adapted.path) as copy:
        return BlackBox(copy, provider, one_by_one=one_by_one)


def _read_floats(
    graph: onnx.GraphProto, port: Port, input_shape: tuple[int, ...], has_batch: bool, fixed: int | None
) -> str:
    """Let the graph read float32 with a batch; return the last tensor with one before what it read before."""
    name, steps = _PREFIX + "input", list[_Made]()
    if port.element_type != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": port.element_type}))
    if not has_batch:
        shape = numpy_helper.from_array(np.array(input_shape, dtype=np.int64), _PREFIX + "input_shape")
        graph.initializer.append(shape)
        steps.append(("Reshape", [shape.name], {}))
    nodes = [*_chain(name, steps, port.name, name), *graph.node]
    held = port.name if has_batch else nodes[len(steps) - 1].input[0]
    del graph.node[:]
    graph.node.extend(nodes)
    value = next(value for value in graph.input if value.name == port.name)
    size = fixed or port.batch_symbol or "batch"
    value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, *input_shape]))
    return held


def _logits(
    source: ThirdParty, answer: np.ndarray, batch: int, threshold: float, labels: int | None, path: Path
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], int]:
    """Return nodes that make logits [batch, classes] of the classifier's answer, their constants, and the classes."""
    name, each = source.logits.name, answer.size // batch if answer.size % batch == 0 else 0
    constants, steps = dict[str, np.ndarray](), list[_Made]()
    is_labels = answer.dtype.kind in "iu" and each == 1
    if answer.dtype.kind not in "fiu" or each < 1 or (answer.dtype.kind in "iu" and not is_labels):
        raise UnsupportedModelError(
            f"{path}: expected scores of classes, or a label, for each image, got {answer.dtype} {list(answer.shape)}"
        )
    if answer.shape[:1] == (batch,) and answer.ndim > 2:
        steps.append(("Flatten", [], {"axis": 1}))
    elif answer.shape[:1] != (batch,) or answer.ndim < 2:
        constants["logits_shape"] = np.array([-1 if each == 1 else batch, each], dtype=np.int64)
        steps.append(("Reshape", [_PREFIX + "logits_shape"], {}))
    if is_labels:
        if labels is None:
            raise ConfigError(
                f"{path} gives labels alone; name its output of scores with --output, or wrap it with --classes"
            )
        constants["labels"] = np.arange(labels, dtype=answer.dtype).reshape(1, -1)
        steps += [("Equal", [_PREFIX + "labels"], {}), ("Cast", [], {"to": TensorProto.FLOAT})]
    elif answer.dtype != np.float32:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if each == 1 and not is_labels:
        if threshold:
            constants["threshold"] = np.array([threshold], dtype=np.float32)
            steps.append(("Sub", [_PREFIX + "threshold"], {}))
        constants["two_classes"] = np.array([[0.0, 1.0]], dtype=np.float32)
        steps.append(("Mul", [_PREFIX + "two_classes"], {}))
    nodes = _chain(name, steps or [("Identity", [], {})], _LOGITS, _LOGITS)
    tensors = [numpy_helper.from_array(array, _PREFIX + key) for key, array in constants.items()]
    if is_labels:
        return nodes, tensors, constants["labels"].size
    return nodes, tensors, 2 if each == 1 else each


def _chain(source: str, steps: Sequence[_Made], target: str, stem: str) -> list[onnx.NodeProto]:
    """Return nodes that make `target` of `source`, step by step; `stem` is in the names of what lies between."""
    nodes = []
    for place, (operator, others, attributes) in enumerate(steps, 1):
        output = target if place == len(steps) else f"{stem}_{place}"
        nodes.append(helper.make_node(operator, [source, *others], [output], output, **attributes))
        source = output
    return nodes


def _some(preprocessing: Preprocessing, batch: int) -> Iterator[np.ndarray]:
    """Yield batches of images of chance, bright and dark, as the classifier reads them."""
    random = np.random.default_rng(0)
    for _ in range(_TRIALS):
        images = random.random((batch, *preprocessing.image_shape)) ** random.uniform(0.2, 3.0, (batch, 1, 1, 1))
        yield preprocessing.apply(images.astype(np.float32))
