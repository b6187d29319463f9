"""ONNX files: what they carry, how they are written, and how any classifier is put under abstraction."""
