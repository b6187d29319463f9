"""Puts this folder on the path, for what the tests of several rooms share (small_plan.py, stored_records.py...)."""
