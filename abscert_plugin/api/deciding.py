"""The worker's side of a verification: opens the decider that was asked for, and decides the batches that are sent."""

from functools import partial
from pathlib import Path

from abscert_plugin.api.scratch import Scratch
from abscert_plugin.api.sending import SentModel, received
from abscert_plugin.api.verifying import ask
from abscert_plugin.artifact.foreign import PREPROCESSING, reopen
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.engines.job import Work
from abscert_plugin.verification.elsewhere import deciding


def open_decider(shared: bytes) -> Work:
    """Return what decides batches of images; an engine calls it once in each worker's process.

    Args:
        shared: a `SentQuestion`.

    Raises:
        AbscertError: if the model or the decider cannot be opened here, or would give other rows than where they come
            from.
    """
    asked = received(shared)
    scratch, data = Scratch(None), asked.data.opened()
    artifact = _opened(asked.model, scratch.path, data.shape)
    verification = ask(artifact, data, asked.question).verification
    work = deciding(verification.chosen, verification.info, asked.facts)
    return partial(_decided, work, scratch)


def _opened(model: SentModel, folder: Path, shape: tuple[int, int, int]) -> Artifact:
    for name, content in model.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    facts = {PREPROCESSING: model.opening} if model.opening else {}
    return reopen(folder / model.name, model.provider, facts, shape, model.classes)


def _decided(work: Work, _: Scratch, content: bytes) -> bytes:
    """Decide a batch; the model's file stays where it is as long as this may be asked for."""
    return work(content)
