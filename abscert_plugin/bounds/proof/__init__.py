"""Proofs in float64 about every value that a file may compute in float32."""

from abscert_plugin.bounds.proof.plan import unsupported
from abscert_plugin.bounds.proof.proof import Proof

__all__ = ["Proof", "unsupported"]
