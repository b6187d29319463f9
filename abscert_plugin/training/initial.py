"""First weights that another training found."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from abscert_plugin.artifact.model_file import read_model, with_tensors
from abscert_plugin.errors import CheckpointError
from abscert_plugin.training.checkpoint import read_checkpoint
from abscert_plugin.training.loop import weights_of
from abscert_plugin.wording import plain_words

_FLOAT: Final = TensorProto.FLOAT
_COUNTED: Final = "num_batches_tracked"  # of BatchNorm, where its average is a moving one: it changes nothing


@final
@dataclass(frozen=True, slots=True)
class Initial:
    """Weights that a training begins with, in place of random ones.

    Args:
        path: where they are from.
        tensors: by the names that the torch network has for them.
    """

    path: Path
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Initial":
        """Return the best weights of the training in a folder, or those in an ONNX file that a training wrote.

        Raises:
            CheckpointError: if the folder holds no training, or the file's tensors cannot be read.
            UnsupportedModelError: if it is a file, and no ONNX model.
        """
        if path.is_dir():
            return cls(path, weights_of(read_checkpoint(path).best))
        found = [one for one in with_tensors(read_model(path), path).graph.initializer if one.data_type == _FLOAT]
        try:
            return cls(path, {one.name: torch.from_numpy(np.array(numpy_helper.to_array(one))) for one in found})
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot read its tensors: {plain_words(error)}") from error

    def put_into(self, network: nn.Module) -> None:
        """Give a network these weights.

        Raises:
            CheckpointError: if they are of another network.
        """
        wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTED)}
        shapes = {name: tuple(value.shape) for name, value in self.tensors.items()}
        unlike = [name for name, value in wanted.items() if shapes.get(name) != tuple(value.shape)]
        if unlike:
            found = f"shape {shapes[unlike[0]]}" if unlike[0] in shapes else "none of that name"
            raise CheckpointError(
                f"{self.path} has weights of another network: expected {unlike[0]} of shape "
                f"{tuple(wanted[unlike[0]].shape)}, got {found}; name its network with --network, and its --cells"
            )
        network.load_state_dict({name: self.tensors[name] for name in wanted}, strict=False)

    def sha256(self, network: nn.Module) -> str:
        """Return the checksum of those that a network takes, by which a training to be resumed is known."""
        digest = hashlib.sha256()
        for name in sorted(set(self.tensors) & set(network.state_dict())):
            digest.update(name.encode() + self.tensors[name].numpy().tobytes())
        return digest.hexdigest()
