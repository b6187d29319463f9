"""The shape of a network's input."""

from typing import TypeAlias

InputShape: TypeAlias = tuple[int, int, int]
"""(channels, height, width); the channels of an interval image are twice those of its image."""
