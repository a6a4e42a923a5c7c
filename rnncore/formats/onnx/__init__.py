"""ONNX files: bytes (wire, external), the graph (graph, versions), what needs more than a line (recurrent, control,
sequences, contributed, reference)."""
