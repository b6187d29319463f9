"""First weights that another training found."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from abscert_plugin.artifact.metadata import training_facts
from abscert_plugin.artifact.model_file import read_model, with_tensors
from abscert_plugin.errors import CheckpointError
from abscert_plugin.training.checkpoint import read_checkpoint
from abscert_plugin.training.loop import weights_of
from abscert_plugin.wording import plain_words

_FLOAT: Final = TensorProto.FLOAT
INITIAL_EPOCHS: Final = "initial_epochs"
"""Key under which a training says how long its first weights had been trained."""
_DIGITS: Final = 10
_COUNTED: Final = "num_batches_tracked"  # of BatchNorm, where its average is a moving one: it changes nothing


@final
@dataclass(frozen=True, slots=True)
class Initial:
    """Weights that a training begins with, in place of random ones.

    Args:
        path: where they are from.
        tensors: by the names that the torch network has for them.
        epochs: that they were trained for, with those of the weights which that training began with; 0 where the file
            does not say.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    epochs: int = 0

    @classmethod
    def read(cls, path: Path) -> "Initial":
        """Return the best weights of the training in a folder, or those in an ONNX file that a training wrote.

        Raises:
            CheckpointError: if the folder holds no training, or the file's tensors cannot be read.
            UnsupportedModelError: if it is a file, and no ONNX model.
        """
        if path.is_dir():
            checkpoint = read_checkpoint(path)
            earlier = checkpoint.description.get(INITIAL_EPOCHS)
            return cls(path, weights_of(checkpoint.best), checkpoint.best_epoch + _count(earlier))
        model = read_model(path)
        facts = training_facts(model)
        found = [one for one in with_tensors(model, path).graph.initializer if one.data_type == _FLOAT]
        try:
            tensors = {one.name: torch.from_numpy(np.array(numpy_helper.to_array(one))) for one in found}
            return cls(path, tensors, _count(facts.get("best_epoch")) + _count(facts.get(INITIAL_EPOCHS)))
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

    def describe(self, network: nn.Module) -> Mapping[str, Any]:
        """Return what a training that begins with them says of them in its checkpoint, run.json and ONNX files."""
        known = {INITIAL_EPOCHS: self.epochs} if self.epochs else {}
        return {"initial_sha256": self.sha256(network), **known}

    def sha256(self, network: nn.Module) -> str:
        """Return the checksum of those that a network takes, by which a training to be resumed is known."""
        digest = hashlib.sha256()
        for name in sorted(set(self.tensors) & set(network.state_dict())):
            digest.update(name.encode() + self.tensors[name].numpy().tobytes())
        return digest.hexdigest()


def _count(said: object) -> int:
    """Return the number of epochs that a file says, 0 where that is no number."""
    text = str(said)
    return int(text) if text.isdecimal() and len(text) < _DIGITS else 0
