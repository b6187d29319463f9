"""Lists of VNN-LIB queries, as the field's competition has them: reading, running, and other solvers' results."""
