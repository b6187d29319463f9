"""Proofs of margins against evaluations in float32 by random orders, against traps, and against published attacks."""
