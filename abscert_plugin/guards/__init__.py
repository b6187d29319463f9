"""Classifiers that certify each image that they are given: the enclosure of a proof, exported with the file."""

from abscert_plugin.guards.guarded import Guarded, guarded

__all__ = ["Guarded", "guarded"]
