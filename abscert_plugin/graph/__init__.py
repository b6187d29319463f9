"""An ONNX file as a graph of nodes: parsed once, and what can be told of it without running it. Without torch."""
