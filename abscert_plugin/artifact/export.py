"""From a trained interval network to its two ONNX files, checked against torch before they get their names."""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import onnx
import torch
from jaxtyping import Float32
from onnx import helper
from torch import nn

import abscert_plugin
from abscert_plugin.abstraction import Abstraction
from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import INTERVAL, LOGITS, Metadata, write_metadata
from abscert_plugin.artifact.phi import prepend_phi
from abscert_plugin.artifact.write import ABSTRACT, DEPLOY, write_checked
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.errors import ExportError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.networks import NetworkConfig

_OPSET: Final = 13  # the oldest that the contract allows, which every verifier of the field reads
_RANDOM: Final = 8
_TOLERANCE: Final = 1e-4  # float32 sums in another order; beyond it the files compute something else


@final
@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how far its logits were from torch's on the probes; no `abstract` without cells."""

    abstract: Path | None
    deploy: Path
    largest_difference: float

    @property
    def paths(self) -> dict[str, str]:
        """The files by name, for people and for JSON."""
        abstract = {} if self.abstract is None else {"abstract": str(self.abstract)}
        return {"deploy": str(self.deploy), **abstract}


def export(
    network: nn.Module,
    config: NetworkConfig,
    grid: Grid,
    training: str,
    probes: Float32[np.ndarray, "probes channels height width"],
    folder: Path,
) -> Exported:
    """Write `abstract.onnx` and `deploy.onnx` for an interval network.

    Args:
        network: takes interval images on the training scale; it is left in evaluation mode, on the CPU.
        config: how it was built.
        grid: the cells that it was trained on.
        training: what to say of the training in the metadata.
        probes: real images (pixel scale) to compare the logits on; random ones are added.
        folder: where the files go.

    Raises:
        ExportError: if torch and the ONNX files disagree beyond 1e-4; nothing is written then.
        UnsupportedModelError: if the network cannot be written as ONNX.
    """
    network = network.eval().cpu()
    abstract = traced(network, INTERVAL, config.input_shape, config.classes)
    deploy = onnx.ModelProto()
    deploy.CopyFrom(abstract)
    prepend_phi(deploy.graph, grid, config.image_shape)
    metadata = Metadata(
        version=abscert_plugin.__version__,
        front=Cells(grid),
        image_shape=config.image_shape,
        classes=config.classes,
        network=config.title,
        training=training,
    )
    for model in (abstract, deploy):
        write_metadata(model, metadata)
    images = with_random(probes)
    models = {ABSTRACT: abstract, DEPLOY: deploy}
    difference = write_checked(models, folder, lambda paths: _compare(paths, network, grid, images))
    return Exported(folder / ABSTRACT, folder / DEPLOY, difference)


def with_random(
    probes: Float32[np.ndarray, "probes channels height width"],
) -> Float32[np.ndarray, "more channels height width"]:
    """Return the images that logits are compared on: random ones, and some of the user's."""
    random = np.random.default_rng(0).random((_RANDOM, *probes.shape[1:]), dtype=np.float32)
    return np.concatenate([random, probes])


def traced(network: nn.Module, input_name: str, shape: tuple[int, ...], classes: int) -> onnx.ModelProto:
    """Return the graph of a network in evaluation mode, with a free batch size, as torch's exporter writes it."""
    example = torch.zeros(2, *shape)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter built on torch.export writes opset 18 and later only; this one writes what verifiers read.
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            (example,),
            str(path),  # a Path is not enough for models over 2 GB
            dynamo=False,
            opset_version=_OPSET,
            input_names=[input_name],
            output_names=[LOGITS],
            dynamic_axes={input_name: {0: "batch"}, LOGITS: {0: "batch"}},
        )
        model = onnx.load_model(str(path))
    _spell_out(model.graph)
    model.producer_name = "abscert-plugin"
    model.graph.name = "abstract" if input_name == INTERVAL else "deploy"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, ["batch", classes]))
    return model


def _spell_out(graph: onnx.GraphProto) -> None:
    """Give each node its own copy of a weight that torch's exporter wrote once, behind Identity nodes.

    onnx2pytorch, by which verifiers read ONNX, takes weights and biases from the tensors of the file alone.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in tensors]:
        copy = graph.initializer.add()
        copy.CopyFrom(tensors[node.input[0]])
        copy.name = node.output[0]
        tensors[copy.name] = copy
        graph.node.remove(node)


def _compare(
    paths: Mapping[str, Path],
    network: nn.Module,
    grid: Grid,
    images: Float32[np.ndarray, "probes channels height width"],
) -> float:
    """Return the largest difference of logits between torch and the two files.

    Raises:
        ExportError: if it is beyond the tolerance, or not a number.
    """
    with torch.inference_mode():
        expected = network(Abstraction(grid)(torch.from_numpy(images))).numpy()
    inputs = {ABSTRACT: grid.interval_image(images), DEPLOY: images}
    largest = 0.0
    for name, path in paths.items():
        check_artifact(onnx.load_model(str(path), load_external_data=False), path)
        largest = max(largest, logit_difference(path, inputs[name], expected))
    return largest


def logit_difference(
    path: Path, inputs: Float32[np.ndarray, "probes *feature"], expected: Float32[np.ndarray, "probes classes"]
) -> float:
    """Return the largest difference of an ONNX file's logits from those that are expected.

    Raises:
        ExportError: if it is beyond 1e-4 of the largest logit, or not a number.
    """
    logits = BlackBox(path, Provider.CPU).run(inputs)
    are_numbers = bool(np.isfinite(logits).all() and np.isfinite(expected).all())
    difference = float(np.abs(logits - expected).max()) if are_numbers else float("nan")
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):  # also where it is NaN
        raise ExportError(
            f"expected the logits of {path.name} within {_TOLERANCE:g} of torch's, "
            f"got a difference of {difference:.3g}; nothing was written"
        )
    return difference
