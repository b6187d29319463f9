"""Data sets: one file per data set, a table from name to loader."""
