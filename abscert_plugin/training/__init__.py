"""Training: one loop for all methods, Algorithm 2, and Algorithm 3 on top of it."""
