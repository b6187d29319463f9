"""What torch draws at random, from a seed of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_CPU: Final = torch.device("cpu")


@contextmanager
def drawing_from(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Let torch draw from a seed within the block, and afterwards as if it had drawn nothing.

    Args:
        seed: the seed.
        device: where it draws, beside the processor.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
