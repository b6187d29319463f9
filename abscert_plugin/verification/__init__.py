"""Verification: what the claims are, how each is decided, and the rates that follow from the verdicts."""
