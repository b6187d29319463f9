"""Interleaved timings: methods take turns, round by round, so that what disturbs one disturbs all."""
