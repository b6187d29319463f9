"""Lower bounds of margins over boxes: the protocol, interval arithmetic, linear bounds carried forward."""
