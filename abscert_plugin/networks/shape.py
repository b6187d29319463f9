"""The shape of a network's input, and what windows make of it."""

from typing import TypeAlias

InputShape: TypeAlias = tuple[int, int, int]
"""(channels, height, width); the channels of an interval image are twice those of its image."""


def windows(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return how many windows fit along an axis of this size."""
    return (size + 2 * padding - kernel) // stride + 1
