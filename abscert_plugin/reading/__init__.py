"""From an ONNX file to a network that can be bounded and trained: a graph of nodes, and a table of operators."""
