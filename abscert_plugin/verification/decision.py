"""What decides a claim, to the code that runs it over a data set."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, final, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.records import Record
from abscert_plugin.verification.evidence import Evidence

ITSELF: Final = "itself"
"""What a row names as its counterexample where the clean image is one."""


def counterexample_name(index: int) -> str:
    """Return the name of the file, beside the records, that holds an image's counterexample."""
    return f"counterexamples/{index:08d}.npy"


@final
@dataclass(frozen=True)
class Decided:
    """A row, and the counterexample that belongs to it.

    Args:
        record: the row.
        counterexample: an image that the deployed file mislabels, where one was found.
        evidence: what proves it besides its method's name, where that is needed and was kept.
    """

    record: Record
    counterexample: Float32[np.ndarray, "channels height width"] | None = None
    evidence: Evidence | None = None


Decisions: TypeAlias = Generator[Sequence[Decided], None, None]
"""Rows of whole batches, as they are decided."""


@runtime_checkable
class Decider(Protocol):
    """A claim, and a way to decide it."""

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on, with at least `claim`, `radius` and `radius_scale`, for run.json."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the libraries that take part, besides onnxruntime and numpy."""
        ...

    def decide(
        self,
        images: Float32[np.ndarray, "batch channels height width"],
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> Sequence[Decided]:
        """Return the verdicts on a batch of images on the pixel scale, in order."""
        ...
