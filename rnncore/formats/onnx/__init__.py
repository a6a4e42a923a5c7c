"""ONNX files: bytes (wire, external), the graph (graph, versions), what needs more than a line (recurrent, control,
sequences, contributed, reference).

Decisions

- ONNX is looked at twice: the bytes by a walker of our own that counts what they would become, then by protobuf.
  Nodes keep ONNX's names, so an importer mostly moves constants; recurrent sequences lose their axis of directions
  while they are read, and passes join layers into stacks.
"""
