"""The comparison harness: plans, runs, records and tables."""
