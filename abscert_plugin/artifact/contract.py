"""The check that an ONNX file of this project is what its metadata say: one input, and the front that they name."""

from pathlib import Path

import onnx

from abscert_plugin.artifact.front_graph import check_front
from abscert_plugin.artifact.metadata import IMAGE, INTERVAL, SCALED, Metadata, read_metadata, refuse_guard
from abscert_plugin.artifact.phi import phi_in
from abscert_plugin.artifact.scaling import scaling_of
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import refuse_functions


def check_artifact(model: onnx.ModelProto, path: Path) -> Metadata:
    """Return the metadata of an ONNX file of this project after checking that its graph is what they say.

    Soundness: a verdict about cells holds only if the network sees nothing but phi(image), and bounds of plain images
    only if it sees nothing but 2 x - 1. So every node on the way from `image` to the network must be the one that is
    written for this front, and nothing else may read `image`. A file whose only input is `interval` has no front.

    Raises:
        UnsupportedModelError: if metadata are missing, there is more than one input, of another shape than they say,
            or the front is another.
    """
    refuse_guard(model, path)
    metadata = read_metadata(model, path)
    grid = metadata.grid
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    if inputs != [IMAGE] and (grid is None or inputs != [INTERVAL]):
        wanted = f"the one input `{IMAGE}`" if grid is None else f"one input, `{IMAGE}` or `{INTERVAL}`"
        raise UnsupportedModelError(f"{path}: expected {wanted}, got {inputs}")
    _check_input(next(value for value in model.graph.input if value.name == inputs[0]), metadata, path)
    if grid is None and model.functions:
        raise UnsupportedModelError(f"{path} defines functions of its own; this is refused")
    refuse_functions(model, path)
    if grid is None:
        refusal = f"{path}: the part between `{IMAGE}` and `{SCALED}` is not 2 x - 1; export the training again"
        check_front(model.graph, scaling_of(model.graph), SCALED, refusal)
    elif inputs == [IMAGE]:
        refusal = (
            f"{path}: the part between `{IMAGE}` and `{INTERVAL}` is not the abstraction that its metadata name, "
            "so no verdict about cells would hold; export or wrap the model again"
        )
        check_front(model.graph, phi_in(model.graph, grid), INTERVAL, refusal)
    return metadata


def _check_input(value: onnx.ValueInfoProto, metadata: Metadata, path: Path) -> None:
    """Raise where the input has other sizes than the metadata's, which images are made of."""
    shape = metadata.image_shape if value.name == IMAGE else metadata.front.input_shape(metadata.image_shape)
    sizes = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)[1:]
    if sizes != tuple(shape):
        said = ",".join(map(str, metadata.image_shape))
        raise UnsupportedModelError(
            f"{path}: its abscert.image_shape is {said}, but {value.name!r} has the sizes {list(sizes)}; export or "
            "wrap the model again"
        )
