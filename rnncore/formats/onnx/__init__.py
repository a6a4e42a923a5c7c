"""ONNX files: bytes (wire, file, external), the graph (graph, entries), one node (nodes, versions, attributes, folding,
products, directions), and nodes that need more than that (recurrent, control, sequences, contributed, reference).

Decisions

- ONNX is looked at twice: the bytes by a walker of our own that counts what they would become, then by protobuf.
  Nodes keep ONNX's names, so an importer mostly moves constants; recurrent sequences lose their axis of directions
  while they are read, and passes join layers into stacks.
"""
