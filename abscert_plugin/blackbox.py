"""The only door to onnxruntime: an ONNX file becomes a function on arrays."""

import ctypes
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from jaxtyping import Float32

from abscert_plugin.cores import thread_count
from abscert_plugin.errors import ConfigError, UnsupportedModelError, VerifierError
from abscert_plugin.graph.nodes import Graph, output_name

_LOG = logging.getLogger(__name__)
_BACKEND_ERRORS: Final = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoaded",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)
_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")
"""Either brings the module onnxruntime, so that no environment can have both."""
_INSTALL: Final = "`pip install 'abscert-plugin[cpu]'`, or `[gpu]` where there is CUDA"
_CALIBRATED: Final = 50  # images at once, all of whose values are kept
_LOG_NOTHING: Final = 4  # onnxruntime's own log goes to stderr; its errors reach the user as one line of ours


class Provider(StrEnum):
    """Where the ONNX file runs. `AUTO` takes CUDA where a driver and a device are there, else the CPU."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"
    TENSORRT = "tensorrt"


_PROVIDERS: Final[Mapping[Provider, tuple[str, ...]]] = MappingProxyType(
    {
        Provider.CPU: ("CPUExecutionProvider",),
        Provider.CUDA: ("CUDAExecutionProvider", "CPUExecutionProvider"),
        Provider.TENSORRT: ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    }
)


@final
class BlackBox:
    """An ONNX classifier as a function from a batch of inputs to a batch of logits.

    Optimisation level, threads and execution order are pinned, so that the same file, machine and provider give
    the same bits. A file with a fixed batch size is fed in pieces of just that size.

    Args:
        model: path of the ONNX file, or its bytes (without external data).
        provider: where to run it.
        threads: threads of the CPU provider; see `thread_count` where None.
        one_by_one: whether each image is run alone, or in a fixed batch of copies of itself.

    Raises:
        UnsupportedModelError: if onnxruntime cannot load the file, or it has not one input and float logits.
        VerifierError: if the provider was asked for and is not there.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: Provider = Provider.AUTO,
        threads: int | None = None,
        one_by_one: bool = False,
    ) -> None:
        self.one_by_one = one_by_one
        self._threads = threads or thread_count()
        self.chosen = chosen = _choose(provider)
        self._session = _open(model, _PROVIDERS[chosen], self._threads)
        running = self._session.get_providers()[0]
        if running != _PROVIDERS[chosen][0]:
            # onnxruntime goes on with the CPU by itself when a provider fails to start
            raise VerifierError(
                f"{chosen} was asked for, but onnxruntime could start only {running}; "
                "install its libraries, or use --provider cpu"
            )
        self.provider: str = running
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise UnsupportedModelError(
                f"expected one float32 input, got {[(value.name, value.type) for value in inputs]}"
            )
        self._input = inputs[0]
        self._output = output_name([value.name for value in outputs])

    @property
    def is_on_cpu(self) -> bool:
        """Whether onnxruntime's CPU provider runs it."""
        return (self.provider,) == _PROVIDERS[Provider.CPU]

    @property
    def input_name(self) -> str:
        """Name of the one input."""
        return str(self._input.name)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the input, batch first; None where a size is free."""
        return tuple(size if isinstance(size, int) else None for size in self._input.shape)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a result may depend on, for run.json."""
        return {
            "onnxruntime": runtime().__version__,
            "provider": self.provider,
            "threads": self._threads,
            "graph_optimisation": "all",
            "execution": "sequential",
            **({"one_by_one": True} if self.one_by_one else {}),
        }

    def run(self, inputs: Float32[np.ndarray, "batch *feature"]) -> Float32[np.ndarray, "batch classes"]:
        """Return the logits of a batch.

        Raises:
            VerifierError: if the backend fails, or does not return one row of float logits per input.
        """
        size = self.input_shape[0] or (1 if self.one_by_one else len(inputs))
        step = 1 if self.one_by_one else size
        if not len(inputs) or len(inputs) == size == step:
            return self._logits(inputs)
        pieces = [self._padded(inputs[start : start + step], size) for start in range(0, len(inputs), step)]
        return np.concatenate(pieces)

    def _padded(self, inputs: np.ndarray, size: int) -> np.ndarray:
        missing = size - len(inputs)
        padding = np.repeat(inputs[-1:], missing, axis=0)
        return self._logits(np.concatenate([inputs, padding]))[: len(inputs)]

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        try:
            logits = self._run_bound(inputs) if self.provider == "CUDAExecutionProvider" else self._run_plain(inputs)
        except _backend_errors() as error:
            raise VerifierError(f"onnxruntime failed: {first_line(error)}") from error
        if not (isinstance(logits, np.ndarray) and logits.ndim == 2 and logits.dtype == np.float32):
            raise VerifierError(
                f"expected float32 logits [batch, classes], got {getattr(logits, 'shape', type(logits))}"
            )
        if len(logits) != len(inputs):
            raise VerifierError(f"expected {len(inputs)} rows of logits, got {len(logits)}")
        return logits

    def _run_plain(self, inputs: np.ndarray) -> Any:
        return self._session.run([self._output], {self._input.name: inputs})[0]

    def _run_bound(self, inputs: np.ndarray) -> Any:
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input.name, np.ascontiguousarray(inputs))
        binding.bind_output(self._output, "cuda")
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]


@final
class Runner:
    """An ONNX file as a function of one tensor, of whatever types and shapes it has.

    Args:
        model: path of the ONNX file, or its bytes (without external data).
        threads: threads; see `thread_count` where None.
        provider: where to run it.

    Raises:
        UnsupportedModelError: if onnxruntime cannot load the file.
        VerifierError: if the provider was asked for and is not there.
    """

    def __init__(self, model: Path | bytes, threads: int | None = None, provider: Provider = Provider.CPU) -> None:
        self._session = _open(model, _PROVIDERS[_choose(provider)], threads or thread_count())
        self.inputs = {str(value.name): str(value.type) for value in self._session.get_inputs()}
        """Their types as onnxruntime writes them, such as `tensor(float)`, by their names."""
        self.outputs = {str(value.name): str(value.type) for value in self._session.get_outputs()}
        """The same of what it gives."""

    def run(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return all that the file gives for its first input, by name.

        Raises:
            VerifierError: if the backend fails.
        """
        try:
            found = self._session.run(None, {next(iter(self.inputs)): values})
            return {name: np.asarray(array) for name, array in zip(self.outputs, found, strict=True)}
        except _backend_errors(RuntimeError) as error:  # which is of types that numpy has not, such as bfloat16
            raise VerifierError(f"onnxruntime failed: {first_line(error)}") from error


def shapes_by_running(graph: Graph, model: onnx.ModelProto, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors, by running a file once.

    Args:
        graph: the file's graph.
        model: what it was read from.
        shape: of its input, as it is run.

    Raises:
        ValueError: if it is beyond protobuf's 2 GiB.
        UnsupportedModelError: if onnxruntime cannot load it.
        VerifierError: if onnxruntime fails.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    given = {value.name for value in whole.graph.output}
    names = [name for node in whole.graph.node for name in node.output if name and name not in given]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    outputs = Runner(whole.SerializeToString(), threads=1).run(np.zeros(shape, np.float32))
    found = {name: value.shape for name, value in outputs.items()}
    return {name: tuple(tensor.dims) for name, tensor in graph.tensors.items()} | found | {graph.input: shape}


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what onnxruntime makes of a model before it runs it, but for where it puts numbers in memory.

    Raises:
        UnsupportedModelError: if onnxruntime cannot load it, or write what it makes of it.
    """
    with tempfile.TemporaryDirectory(prefix="abscert-") as folder:
        path = Path(folder) / "rewritten.onnx"
        try:
            _open(model.SerializeToString(), _PROVIDERS[Provider.CPU], 1, path)
            return onnx.load(path)
        except (OSError, ValueError, DecodeError, EncodeError) as error:  # a full disk; protobuf's 2 GiB
            raise UnsupportedModelError(
                f"what onnxruntime makes of it cannot be written: {first_line(error)}"
            ) from error


def quantised(
    model: onnx.ModelProto, images: Float32[np.ndarray, "batch *feature"], nodes: Sequence[str]
) -> onnx.ModelProto:
    """Return a model whose nodes read whole numbers of 8 bits: QuantizeLinear and DequantizeLinear in front of each.

    Ranges of activations are those that are seen on images. Weights have 7 bits and a scale for each output, so that
    no sum of a pair of products overflows the 16 bits that some kernels hold it in.

    Args:
        model: a classifier that reads `image`.
        images: what it is run on.
        nodes: names of the nodes, each a Conv, Gemm or MatMul.

    Raises:
        UnsupportedModelError: if onnxruntime cannot quantise it.
    """
    runtime()  # which says what is wrong where it is not installed
    from onnxruntime import quantization

    operators = ["Conv", "Gemm", "MatMul"]
    reader = _batches(quantization.CalibrationDataReader, images)
    logging.disable(logging.WARNING)  # it advises steps of its own on the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            quantization.quantize_static(
                model,
                str(path),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=operators,
                nodes_to_quantize=list(nodes),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": operators},
            )
            return onnx.load_model(str(path))
    except _backend_errors(KeyError, TypeError, ValueError) as error:
        raise UnsupportedModelError(f"onnxruntime cannot quantise the model: {first_line(error)}") from error
    finally:
        logging.disable(logging.NOTSET)


def _batches(kind: type, images: np.ndarray) -> Any:
    """Return a reader, of onnxruntime's kind, that hands over images in batches as the input `image`."""
    parts = iter([{"image": images[start : start + _CALIBRATED]} for start in range(0, len(images), _CALIBRATED)])
    return type("Batches", (kind,), {"get_next": lambda _: next(parts, None)})()


@lru_cache(maxsize=1)
def runtime() -> Any:
    """Return the module onnxruntime; imported when a file is first run. A note says where two lie over each other.

    Raises:
        ConfigError: if it is not installed, or was left broken by removing one of the two; the message says what to do.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ConfigError(f"onnxruntime is not installed; {_INSTALL}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        both = " ".join(_DISTRIBUTIONS)
        raise ConfigError(f"onnxruntime is incomplete; `pip uninstall {both}`, then {_INSTALL}")
    if all(_is_installed(name) for name in _DISTRIBUTIONS):
        both = " and ".join(_DISTRIBUTIONS)
        _LOG.warning("note: %s are both installed and overwrite each other; uninstall both, then %s", both, _INSTALL)
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _backend_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises for a file that it cannot load or run, and what else is to be caught with it."""
    runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as backend

    return (*others, *(getattr(backend, name) for name in _BACKEND_ERRORS))


def first_line(error: Exception) -> str:
    """Return the first line of a backend's message, without the code and trace that follow."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _choose(provider: Provider) -> Provider:
    if provider == Provider.AUTO:
        return Provider.CUDA if _has_cuda() else Provider.CPU
    if provider != Provider.CPU and not _has_cuda():
        raise VerifierError(
            f"{provider} was asked for, but there is no CUDA device or no onnxruntime-gpu here; "
            "use --provider cpu or auto"
        )
    return provider


def _has_cuda() -> bool:
    """Return whether onnxruntime was built for CUDA and a driver sees a device; nothing is logged."""
    if "CUDAExecutionProvider" not in runtime().get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _open(model: Path | bytes, providers: tuple[str, ...], threads: int, written: Path | None = None) -> Any:
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _LOG_NOTHING
    # else nodes of quantised files become integer kernels, for which float weights and activations are quantised too
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if written is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(written)
    if providers[0] != "CPUExecutionProvider":
        preload = getattr(onnxruntime, "preload_dlls", None)  # since 1.21: finds CUDA in pip's nvidia wheels
        if preload is not None:
            preload()
    name = model if isinstance(model, Path) else "the model"
    try:
        source = str(model) if isinstance(model, Path) else model
        return onnxruntime.InferenceSession(source, options, providers=list(providers))
    except _backend_errors() as error:
        raise UnsupportedModelError(f"onnxruntime cannot load {name}: {first_line(error)}") from error
